"""Buckets of a Fenwick tree, each with a state: Guo et al. 2025, arXiv:2506.04761."""

import numpy as np

from tests.oracles import keys_of, scale_of


def oracle(kernel, one):
    out = np.zeros((len(one.q), one.v.shape[1]))
    for i, row in enumerate(one.visible):
        state, place = np.zeros((kernel.levels, one.k.shape[1], one.v.shape[1])), i + one.offset
        levels = level_of_each(place)
        for j in np.flatnonzero(row):
            state *= np.exp(one.tokens["log_decay"][j])
            level = min(levels[j], kernel.levels - 1)
            state[level] += one.tokens["beta"][j] * np.outer(one.k[j], one.v[j])
        read = np.einsum("h,lhv->lv", one.q[i], state)
        is_there = 0 <= place < keys_of(one)  # another place weighs all levels alike
        out[i] = scale_of(one) * (np.exp(one.tokens["log_level"][place]) @ read if is_there else read.sum(axis=0))
    return out


def level_of_each(place):
    """Positions up to `place` in buckets: itself, and before it as many as the lowest digit of what is left says."""
    levels, left = {place: 0}, place
    while left > 0:
        size = left & -left
        levels |= dict.fromkeys(range(left - size, left), size.bit_length())
        left -= size
    return levels
