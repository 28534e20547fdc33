"""A decay for each token and channel before the delta rule: Kimi Team 2025, arXiv:2510.26692."""

import numpy as np

from tests.oracles import scale_of
from tests.oracles.delta import unit


def oracle(kernel, one):
    """By the transition as it is written, (I - beta k k^T) Diag(a)."""
    out = np.zeros((len(one.q), one.v.shape[1]))
    for i, row in enumerate(one.visible):
        state = np.zeros((one.k.shape[1], one.v.shape[1]))
        for j in np.flatnonzero(row):
            key, beta, decay = unit(one.k[j]), one.tokens["beta"][j], np.diag(np.exp(one.tokens["log_decay"][j]))
            transition = (np.eye(len(key)) - beta * np.outer(key, key)) @ decay
            state = transition @ state + beta * np.outer(key, one.v[j])
        out[i] = scale_of(one) * unit(one.q[i]) @ state
    return out
