"""A dilated window and global tokens: Beltagy, Peters and Cohan 2020, arXiv:2004.05150."""

import numpy as np

from tests.oracles import softmax_attention


def oracle(kernel, one):
    joined = np.zeros((len(one.q), len(one.k)), bool)
    everywhere = [*range(kernel.global_tokens), *one.global_tokens]
    for i, j in np.ndindex(joined.shape):
        p = i + one.offset
        steps = [p + kernel.dilation * step for step in range(-kernel.left, kernel.right + 1)]
        joined[i, j] = j in steps or j in everywhere or p in everywhere
    return softmax_attention(one, joined)
