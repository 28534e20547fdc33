"""The delta rule, token after token: Schlag, Irie and Schmidhuber 2021, arXiv:2102.11174, eq. 21-24."""

import numpy as np

from tests.oracles import scale_of


def oracle(kernel, one):
    return corrected(one, lambda token: 1.0)


def corrected(one, kept):
    """What queries of unit norm read, of a state of which `kept(token)` is left before keys of unit norm correct it."""
    out = np.zeros((len(one.q), one.v.shape[1]))
    for i, row in enumerate(one.visible):
        state = np.zeros((one.k.shape[1], one.v.shape[1]))
        for j in np.flatnonzero(row):
            key = unit(one.k[j])
            state = np.reshape(kept(j), (-1, 1)) * state
            state = state + one.tokens["beta"][j] * np.outer(key, one.v[j] - key @ state)
        out[i] = scale_of(one) * unit(one.q[i]) @ state
    return out


def unit(x):
    return x / np.sqrt(x @ x + 1e-6)
