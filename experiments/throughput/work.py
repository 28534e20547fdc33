"""How much there is to do in a cell: operations and bytes that no implementation can save."""

from __future__ import annotations

import functools

import jax.numpy as jnp

from attnzoo import Dims, Kernel, Mask, cost_of

BACKWARD = 2.5  # operations of the gradient of softmax attention, five products, over those of two forward


def dims_of(row: dict) -> Dims:
    """Sizes of the cell of a row."""
    length, heads, width = row["length"], row["heads"], row["head_dim"]
    return Dims(max(1, row["tokens"] // length), length, length, heads, heads, width, width)


def useful_flops(kernel: Kernel, row: dict) -> float:
    """Operations on visible pairs alone; of kernels that are no softmax under a mask, all that are counted."""
    dims = dims_of(row)
    pairs = _pairs(kernel, dims.query_length, row["is_causal"])
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


@functools.lru_cache(maxsize=256)
def _pairs(kernel: Kernel, length: int, is_causal: bool) -> int | None:
    mask = kernel.as_softmax(Mask(length, length, is_causal))
    if mask is None or any(band.has_holes for band in mask.bands):
        return None
    spans = (mask.span(i, i) for i in range(length))
    return sum(high - low + 1 for low, high in spans)
