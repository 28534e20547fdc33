"""Pieces of the cost formulas that kernels share."""

from __future__ import annotations

import jax.numpy as jnp

from attnzoo.compute.schedule import Layout
from attnzoo.interface import Cost, Dims

ONLINE_SOFTMAX = 4  # operations on each score of a tile: maximum, difference, exponential, sum
SOFTMAX = 6  # operations on each score: scale, maximum, difference, exponential, sum, division


def of(dims: Dims, flops: float, dtype, *, extra_elements: float, state_bytes: float | None) -> Cost:
    """The cost of a call that reads q, k and v and writes the output once, and moves `extra_elements` besides."""
    size = jnp.dtype(dtype).itemsize
    queries = dims.batch * dims.query_length * dims.num_heads * (dims.head_dim + dims.value_dim)
    keys = dims.batch * dims.key_length * dims.num_key_value_heads * (dims.head_dim + dims.value_dim)
    return Cost(float(flops), float((queries + keys + extra_elements) * size), state_bytes)


def softmax_over_tiles(dims: Dims, layout: Layout, pair_flops: float) -> float:
    """Operations of `streaming` over `layout`, with `pair_flops` for the score of one pair."""
    height, size = layout.rows.shape[1], layout.columns.shape[1]
    steps = [(visited.visits, visited.blocks.shape[-1] * size) for visited in layout.schedules]
    return dims.batch * dims.num_heads * sum(tiles(dims, rows, height, width, pair_flops) for rows, width in steps)


def tiles(dims: Dims, steps: int, height: int, width: int, pair_flops: float) -> float:
    """Operations of one head in `steps` steps of `height` queries and `width` keys."""
    return steps * height * (width * (pair_flops + 2 * dims.value_dim + ONLINE_SOFTMAX) + 3 * dims.value_dim)
