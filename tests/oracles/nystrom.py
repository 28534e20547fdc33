"""Softmax through landmarks and a pseudo-inverse: Xiong et al. 2021, arXiv:2102.03902, eq. 13-14."""

import numpy as np

from tests.oracles import scale_of


def oracle(kernel, one):
    queries, keys = one.visible.any(axis=1), one.visible.any(axis=0)
    out = np.zeros((len(one.q), one.v.shape[1]))
    if not queries.any():
        return out
    q, k, v = one.q[queries], one.k[keys], one.v[keys]

    def attention(x, y):
        weights = np.exp(scale_of(one) * x @ y.T)
        return weights / weights.sum(axis=1, keepdims=True)

    q_marks, k_marks = _means(q, kernel.landmarks), _means(k, kernel.landmarks)
    between = _pseudo_inverse(attention(q_marks, k_marks), kernel.iterations)
    out[queries] = attention(q, k_marks) @ between @ attention(q_marks, k) @ v
    return out


def _means(x, landmarks):
    groups = [[] for _ in range(landmarks)]
    for rank, token in enumerate(x):
        groups[rank * landmarks // len(x)].append(token)
    return np.array([np.mean(group, axis=0) for group in groups if group])


def _pseudo_inverse(a, iterations):
    z = a.T / (np.abs(a).sum(axis=0).max() * np.abs(a).sum(axis=1).max())
    one = np.eye(len(a))
    for _ in range(iterations):
        z = z @ (13 * one - a @ z @ (15 * one - a @ z @ (7 * one - a @ z))) / 4
    return z


def members_of_runs(length, runs):
    """What each token has of the mean of each of so many runs, [runs, length]."""
    members = np.zeros((runs, length))
    for token in range(length):
        members[token * runs // length, token] = 1
    return members / members.sum(axis=1, keepdims=True)
