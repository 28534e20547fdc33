"""Global, window and random blocks of keys: Zaheer et al. 2020, arXiv:2007.14062."""

import jax.numpy as jnp
import numpy as np

from tests.oracles import keys_of, softmax_attention


def oracle(kernel, one):
    """Softmax over the pattern below and the random blocks, which are those that the kernel lists: no paper draws them.

    Their number, and that they lie beside the pattern, has a test of its own.
    """
    keys = len(one.k) if one.is_causal else keys_of(one)
    rows = (np.arange(len(one.q)) + one.offset) // kernel.block_size
    used = -(-keys // kernel.block_size)
    joined = np.zeros((len(one.q), -(-len(one.k) // kernel.block_size)), bool)
    joined[:, :used] = block_pattern(rows, keys, kernel, one.is_causal)
    listed = np.asarray(kernel.listed_blocks(one.draws, jnp.asarray(rows), used, one.is_causal))
    for i, j in zip(*np.nonzero(listed >= 0), strict=True):
        joined[i, listed[i, j]] = True
    return softmax_attention(one, joined[:, np.arange(len(one.k)) // kernel.block_size])


def block_pattern(rows, keys, kernel, is_causal):
    """The parts of BigBird's pattern that are not random: bool [rows, blocks], for blocks of queries in `rows`."""
    blocks = -(-keys // kernel.block_size)
    joined = np.zeros((len(rows), blocks), bool)
    for r, row in enumerate(rows):
        for block in range(blocks):
            if is_causal:
                is_global = block < kernel.num_global and block <= row
                joined[r, block] = is_global or row - kernel.num_window < block <= row
            else:
                ends = block < kernel.num_global or block >= blocks - kernel.num_global
                own = row < kernel.num_global or row >= blocks - kernel.num_global
                joined[r, block] = ends or own or abs(block - row) <= kernel.num_window // 2
    return joined
