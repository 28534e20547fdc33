"""A dilated window and global tokens: Beltagy, Peters and Cohan 2020, arXiv:2004.05150."""

import numpy as np

from tests.oracles import softmax_attention


def oracle(kernel, one):
    joined = np.zeros((len(one.q), len(one.k)), bool)
    for i, j in np.ndindex(joined.shape):
        p = i + one.offset
        steps = [p + kernel.dilation * step for step in range(-kernel.left, kernel.right + 1)]
        joined[i, j] = j in steps or j < kernel.global_tokens or 0 <= p < kernel.global_tokens
    return softmax_attention(one, joined)
