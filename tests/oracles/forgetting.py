"""Softmax over scores less what was forgotten since: Lin et al. 2025, arXiv:2503.02130."""

import numpy as np

from tests.oracles import softmax_attention


def oracle(kernel, one):
    bias = np.zeros(one.visible.shape)
    for i, j in np.argwhere(one.visible):
        since = [token for token in range(j + 1, len(one.k)) if one.visible[i, token]]
        bias[i, j] = np.sum(one.tokens["log_forget"][since])
    return softmax_attention(one._replace(bias=bias))
