"""Tokens of like hash meet in chunks: Kitaev, Kaiser and Levskaya 2020, arXiv:2001.04451, eq. 4 and appendix A."""

import numpy as np

from tests.oracles import softmax_attention


def oracle(kernel, one):
    keys = one.visible.any(axis=0)
    queries = one.visible.any(axis=1) & keys
    met = np.zeros((len(one.q), len(one.k)), bool)
    for rotation in one.draws:
        of_query = _chunks(one.q, queries, rotation, kernel.chunk_size)
        of_key = _chunks(one.k, keys, rotation, kernel.chunk_size)
        for i, j in np.ndindex(met.shape):
            met[i, j] |= of_query[i] - of_key[j] in (0, 1)
    return softmax_attention(one, met)


def _chunks(x, shown, rotation, chunk_size):
    """The chunk of each token in the order of hashes, hidden ones last."""
    directions = np.concatenate([rotation, -rotation], axis=1).T
    order = sorted(range(len(x)), key=lambda i: (not shown[i], shown[i] and np.argmax(directions @ x[i]), i))
    return {token: place // chunk_size for place, token in enumerate(order)}
