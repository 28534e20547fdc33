"""Scores by a hidden layer of tangents: Bahdanau, Cho and Bengio 2014, arXiv:1409.0473, appendix A.1.2."""

import numpy as np

from tests.oracles import softmax_of


def oracle(kernel, one):
    own, scores = one.params, np.zeros((len(one.q), len(one.k)))
    for i, j in np.ndindex(scores.shape):
        scores[i, j] = own["score"] @ np.tanh(one.q[i] @ own["query"] + one.k[j] @ own["key"] + own["bias"])
    return softmax_of(scores, one)
