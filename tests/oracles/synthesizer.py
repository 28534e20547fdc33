"""Scores that no product of queries and keys makes: Tay et al. 2020, arXiv:2005.00743, eq. 1-2 and section 3.1.4."""

import numpy as np

from tests.oracles import softmax_of


def oracle(kernel, one):
    own, scores = one.params, np.zeros((len(one.q), len(one.k)))
    for i, j in np.ndindex(scores.shape):
        if kernel.form == "dense":
            units = np.maximum(one.q[i] @ own["hidden"] + own["hidden_bias"], 0)
            scores[i, j] = own["key"][j] @ units + own["key_bias"][j]
        else:
            row = min(max(i + one.offset, 0), len(own["query"]) - 1)
            scores[i, j] = own["query"][row] @ own["key"][j]
    return softmax_of(scores, one)
