"""How much there is to do in a cell: pairs, operations and bytes that no implementation can save."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from attnzoo import BigBird, Dims, Kernel, Local, SlidingWindow, Softmax, SparseTransformer, attention_weights, cost_of

BACKWARD = 2.5  # operations of the gradient of softmax attention, five products, over those of two forward


def dims_of(row: dict) -> Dims:
    """Sizes of the cell of a row."""
    length, heads, width = row["length"], row["heads"], row["head_dim"]
    return Dims(max(1, row["tokens"] // length), length, length, heads, heads, width, width)


def useful_flops(kernel: Kernel, row: dict) -> float:
    """Operations on visible pairs alone; of kernels that are no softmax under a mask, all that are counted."""
    dims = dims_of(row)
    pairs = _pairs(kernel, dims.query_length, dims.num_heads, row["is_causal"])
    if pairs is None:
        forward = cost_of(kernel, dims, is_causal=row["is_causal"]).flops
    else:
        forward = 2.0 * pairs * dims.batch * dims.num_heads * (dims.head_dim + dims.value_dim)
    return forward * (1 + BACKWARD if row["pass"] == "train" else 1)


def useful_bytes(row: dict) -> float:
    """Query, key and value read and the output written once; in training also the gradients of all four."""
    dims = dims_of(row)
    once = 4 * dims.batch * dims.query_length * dims.num_heads * dims.head_dim * jnp.dtype(row["dtype"]).itemsize
    return float(2 * once if row["pass"] == "train" else once)


Joined = Callable[[Any, Any, Any], Any]  # heads, positions of queries and of keys -> which of them meet


def is_pattern(kernel: Kernel) -> bool:
    """Whether it is softmax over pairs that are known by arithmetic."""
    if isinstance(kernel, SlidingWindow):
        return kernel.dilation == 1 and not kernel.global_tokens
    if isinstance(kernel, Local):
        return kernel.layout == "contiguous"
    return isinstance(kernel, Softmax | SparseTransformer | BigBird)


def joined(kernel: Kernel, length: int, num_heads: int, is_causal: bool, as_array: Callable = np.asarray) -> Joined:
    """Which pairs a pattern shows, by arithmetic that NumPy and PyTorch share.

    Args:
      as_array: what makes an array of those that the positions are.
    """
    shows = _shown(kernel, length, num_heads, is_causal, as_array)
    return (lambda head, i, j: shows(head, i, j) & (j <= i)) if is_causal else shows


def _shown(kernel, length, num_heads, is_causal, as_array) -> Joined:
    """The same, some of the future included."""
    if isinstance(kernel, SlidingWindow):
        return lambda head, i, j: (i - j <= kernel.left) & (j - i <= kernel.right)
    if isinstance(kernel, Softmax):
        return lambda head, i, j: (i >= 0) & (j >= 0)
    size = kernel.block_size
    if isinstance(kernel, Local):
        return lambda head, i, j: i // size == j // size
    if isinstance(kernel, SparseTransformer):
        return lambda head, i, j: (i // size == j // size) | (j % size >= size - kernel.summary)
    blocks = jnp.ones((1, -(-length // size), num_heads, 1))
    by_block = dataclasses.replace(kernel, block_size=1)  # what is drawn depends on the row of blocks alone
    listed = as_array(np.asarray(attention_weights(blocks, blocks, kernel=by_block, is_causal=is_causal)[0] > 0))
    return lambda head, i, j: listed[head, i // size, j // size]


@functools.lru_cache(maxsize=256)
def _pairs(kernel: Kernel, length: int, num_heads: int, is_causal: bool) -> float | None:
    """Visible ones of a head, on average."""
    if not is_pattern(kernel):
        return None
    shows = joined(kernel, length, num_heads, is_causal)
    heads = np.arange(num_heads if isinstance(kernel, BigBird) else 1)[:, None, None]
    rows = np.array_split(np.arange(length), max(1, len(heads) * length**2 // 2**26))
    seen = (np.count_nonzero(shows(heads, i[:, None], np.arange(length)[None])) for i in rows)
    return sum(seen) / len(heads)
