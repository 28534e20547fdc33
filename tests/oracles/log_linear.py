"""Buckets of a Fenwick tree, each with a state: Guo et al. 2025, arXiv:2506.04761."""

import numpy as np

from tests.oracles import keys_of, scale_of


def oracle(kernel, one):
    out = np.zeros((len(one.q), one.v.shape[1]))
    of_queries, of_keys = one.segments or (np.zeros(len(one.q)), np.zeros(len(one.k)))
    for i, row in enumerate(one.visible):
        state, position = np.zeros((kernel.levels, one.k.shape[1], one.v.shape[1])), i + one.offset
        document = np.flatnonzero(of_keys == of_queries[i]).tolist()
        # Who is no token of the document, or padding, weighs all levels alike.
        is_token = position in document and position < keys_of(one)
        levels = level_of_each(document.index(position)) if is_token else {}
        for j in np.flatnonzero(row):
            state *= np.exp(one.tokens["log_decay"][j])
            level = min(levels.get(document.index(j), 0), kernel.levels - 1)
            state[level] += one.tokens["beta"][j] * np.outer(one.k[j], one.v[j])
        weights = np.exp(one.tokens["log_level"][position]) if is_token else np.ones(kernel.levels)
        out[i] = scale_of(one) * weights @ np.einsum("h,lhv->lv", one.q[i], state)
    return out


def level_of_each(place):
    """Positions up to `place` in buckets: itself, and before it as many as the lowest digit of what is left says."""
    levels, left = {place: 0}, place
    while left > 0:
        size = left & -left
        levels |= dict.fromkeys(range(left - size, left), size.bit_length())
        left -= size
    return levels
