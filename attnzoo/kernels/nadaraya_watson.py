"""Attention as kernel regression: an average of values, weighted by how near their keys are.

    y_i = sum_j K(q_i, k_j) v_j / sum_j K(q_i, k_j),    K(q, k) = exp(-|q - k|^2 / 2 bandwidth^2)

Cost O(T S H), memory O(T + S). Nadaraya 1964, doi:10.1137/1109020; Watson 1964, Sankhya A 26, 359-372. A small
bandwidth copies the nearest value, a large one averages all; where all keys have one norm it is dot-product
attention of scale 1 / bandwidth^2. A bias adds to the exponent. `implementation="pallas"` multiplies the square out,
and so has fewer digits where points lie far from 0 and near each other.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from attnzoo.contract import fields, varying
from attnzoo.engines import across, dense, heads, streaming
from attnzoo.engines.fused.terms import ProductScore, Terms
from attnzoo.kernel import Kernel
from attnzoo.kernels.softmax import EXACT


def _squared_distances(q: jax.Array, k: jax.Array) -> jax.Array:
    """|q_i - k_j|^2 [T, S], of differences; on a CPU feature by feature, since all would leave its cache."""
    if not heads.are_in_turn():
        return jnp.sum((q[:, None] - k[None, :]) ** 2, axis=-1)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # the differences of one feature are kept by none
    def add(squares, feature):
        return squares + _squares(*feature), None

    nothing = varying.as_of(jnp.zeros((len(q), len(k)), q.dtype), (q, k))
    return jax.lax.scan(add, nothing, (q.T, k.T))[0]


@jax.custom_jvp
def _squares(of_queries: jax.Array, of_keys: jax.Array) -> jax.Array:
    """(x_i - y_j)^2 [T, S]."""
    return (of_queries[:, None] - of_keys[None, :]) ** 2


@_squares.defjvp
def _squares_jvp(points, tangents):
    """Tangents spread by products with 1, whose transposes are products too: a CPU's are quicker than its sums."""
    (x, y), (d_x, d_y) = points, tangents
    spread = functools.partial(jax.lax.dot_general, dimension_numbers=(((1,), (0,)), ((), ())))
    apart = spread(d_x[:, None], jnp.ones_like(y)[None]) - spread(jnp.ones_like(x)[:, None], d_y[None])
    return _squares(x, y), 2 * (x[:, None] - y[None, :]) * apart


@dataclasses.dataclass(frozen=True)
class _Gaussian(ProductScore):
    """-|q - k|^2 / 2 bandwidth^2. Multiplied out it is a matrix product, and loses what is near far from 0."""

    bandwidth: float

    def __call__(self, params, q, k, dtype=None):
        return _squared_distances(heads.precise(q), heads.precise(k)) / (-2 * self.bandwidth**2)

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
