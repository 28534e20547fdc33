"""Softmax replaced by products of features: Katharopoulos et al. 2020, arXiv:2006.16236, eq. 4-7."""

import numpy as np


def oracle(kernel, one):
    def phi(x):
        return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))) if kernel.feature_map == "elu+1" else np.maximum(x, 0)

    out = np.zeros((len(one.q), one.v.shape[1]))
    for i, row in enumerate(one.visible):
        above, below = np.zeros(one.v.shape[1]), kernel.epsilon
        for j in np.flatnonzero(row):
            similarity = phi(one.q[i]) @ phi(one.k[j])
            above, below = above + similarity * one.v[j], below + similarity
        out[i] = above / below
    return out
