"""Attention as kernel regression: an average of values, weighted by how near their keys are.

    y_i = sum_j K(q_i, k_j) v_j / sum_j K(q_i, k_j),    K(q, k) = exp(-|q - k|^2 / 2 bandwidth^2)

Cost O(T S H), memory O(T + S). Nadaraya 1964, doi:10.1137/1109020; Watson 1964, Sankhya A 26, 359-372. A small
bandwidth copies the nearest value, a large one averages all; where all keys have one norm it is dot-product
attention of scale 1 / bandwidth^2. A bias adds to the exponent. `implementation="pallas"` multiplies the square out,
and so has fewer digits where points lie far from 0 and near each other.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from attnzoo.contract import fields
from attnzoo.engines import across, dense, heads, streaming
from attnzoo.engines.fused.terms import ProductScore, Terms
from attnzoo.kernel import Kernel
from attnzoo.kernels.softmax import EXACT


@dataclasses.dataclass(frozen=True)
class _Gaussian(ProductScore):
    """-|q - k|^2 / 2 bandwidth^2. Multiplied out it is a matrix product, and loses what is near far from 0."""

    bandwidth: float

    def __call__(self, params, q, k, dtype=None):
        difference = heads.precise(q)[:, None] - heads.precise(k)[None, :]
        return jnp.sum(difference**2, axis=-1) / (-2 * self.bandwidth**2)

    def terms(self, params, q, k):
        of_query, of_key = (jnp.moveaxis(jnp.sum(heads.precise(x) ** 2, axis=-1), 1, 2) for x in (q, k))
        of_key = jnp.repeat(of_key, q.shape[2] // k.shape[2], axis=1)
        factor = -1 / (2 * self.bandwidth**2)
        return Terms(jnp.full((1, 1), -2 * factor, jnp.float32), None, factor * of_query, factor * of_key)


@dataclasses.dataclass(frozen=True)
class NadarayaWatson(Kernel):
    """Kernel regression with Gaussian weights of distances. `bandwidth` is in the units of queries and keys.

    Raises:
      ValueError: `bandwidth` is no finite number > 0.

    Example:
      >>> q = k = jnp.ones((1, 4, 2, 8)) * jnp.arange(4.0)[:, None, None]
      >>> attention_weights(q, k, kernel=NadarayaWatson(bandwidth=0.1))[0, 0]  # the nearest key has all
      Array([[1., 0., 0., 0.],
             [0., 1., 0., 0.],
             [0., 0., 1., 0.],
             [0., 0., 0., 1.]], dtype=float32)
    """

    bandwidth: float = 1.0

    supports = dataclasses.replace(EXACT, scale=False, soft_cap=False, why="its one scale is the field `bandwidth`")

    def __post_init__(self):
        fields.positive_number(self, "bandwidth")

    def head(self, params, draws, q, k, v, visible, *, bias, dropout):
        return dense.attend(_Gaussian(self.bandwidth)((), q, k), v, visible, bias, dropout)

    def batched(self, params, draws, q, k, v, call):
        score = _Gaussian(self.bandwidth)
        return across.over_heads(score, (), q, k, v, call, streaming.pairwise_layout, per_pair=q.shape[-1])

    def meets(self, shards, mask):
        return True
