"""Attention as kernel regression: an average of values, weighted by how near their keys are.

    y_i = sum_j K(q_i, k_j) v_j / sum_j K(q_i, k_j),    K(q, k) = exp(-|q - k|^2 / 2 bandwidth^2)

Cost O(T S H), memory O(T + S). Nadaraya 1964, doi:10.1137/1109020; Watson 1964, Sankhya A 26, 359-372. A small
bandwidth copies the nearest value, a large one averages all; where all keys have one norm it is dot-product
attention of scale 1 / bandwidth^2. A bias adds to the exponent.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from attnzoo import fields
from attnzoo.compute import costs, dense, streaming
from attnzoo.interface import Kernel
from attnzoo.kernels.softmax import EXACT
from attnzoo.masking import Mask


@dataclasses.dataclass(frozen=True)
class NadarayaWatson(Kernel):
    """Gaussian kernel regression. `bandwidth` is in the units of queries and keys."""

    bandwidth: float = 1.0

    supports = dataclasses.replace(EXACT, scale=False, why="its one scale is the field `bandwidth`")

    def __post_init__(self):
        fields.positive_number(self, "bandwidth")

    def head(self, params, draws, q, k, v, visible, *, bias, dropout):
        precise = jnp.promote_types(q.dtype, jnp.float32)
        distance = jnp.sum((q[:, None].astype(precise) - k[None, :].astype(precise)) ** 2, axis=-1)
        return dense.attend(-distance / (2 * self.bandwidth**2), v, visible, bias, dropout)

    def batched(self, params, draws, q, k, v, mask, *, bias, dropout):
        return streaming.over_heads(self._score, (), q, k, v, mask, bias, dropout, streaming.natural_layout)

    def cost(self, dims, *, is_causal=False, dtype=jnp.float32):
        layout = streaming.natural_layout(Mask(dims.query_length, dims.key_length, is_causal))
        flops = costs.softmax_over_tiles(dims, layout, 2 * dims.head_dim + 4)
        return costs.of(dims, flops, dtype, extra_elements=0, state_bytes=self.state_bytes(dims, dtype))

    def _score(self, params, q, k):
        """-|q - k|^2 / 2 bandwidth^2, the square multiplied out so that a matrix product does the work."""
        products = streaming.product(q, k)

        def half_square(x):
            return jnp.sum(x.astype(products.dtype) ** 2, axis=-1) / 2

        return (products - half_square(q)[:, None] - half_square(k)[None, :]) * self.bandwidth**-2
