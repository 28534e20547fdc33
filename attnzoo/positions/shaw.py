"""Shaw's relative positions: a learned vector for each distance, beside the key, up to a distance k to either side.

    e_ij = scale q_i . (k_j + a_{clip(j - i, -k, k)})

Shaw, Uszkoreit and Vaswani 2018, arXiv:1803.02155, eq. 4. The products of a query with the 2 k + 1 vectors are taken
once, [T, 2 k + 1], and picked from by distance, so that memory is O(T k) and not O(T S). Heads share the vectors, as
in the paper, or have their own. Its other term, vectors that are added to the values (eq. 3), is left out: the authors
found that it adds nothing to this one (table 4), and it would have to be known to every kernel.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo.contract import fields
from attnzoo.contract.bias import QueryBias
from attnzoo.positions.encoding import RelativeEncoding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShawBias(QueryBias):
    """scale q_i . a_{clip(j - i)}, where `scale` is that of the call, 1 / sqrt(H) unless given.

    Attributes:
      table: float [N or 1, 2 k + 1, H], for distances j - i = -k .. k.

    Example:
      >>> q = k = v = jnp.ones((1, 16, 8, 4))
      >>> attend(q, k, v, ShawBias(jnp.zeros((1, 2 * 3 + 1, 4)))).shape
      (1, 16, 8, 4)
    """

    table: jax.Array

    def project(self, q, scale):
        if self.table.ndim != 2 or len(self.table) % 2 == 0 or self.table.shape[1] != q.shape[-1]:
            raise ValueError(
                f"ShawBias has a table of {list(self.table.shape)} for a head: expected [heads or 1, 2 clip + 1, "
                f"head_dim], where query has head_dim {q.shape[-1]}"
            )
        precise = jnp.promote_types(q.dtype, jnp.float32)
        return q.astype(precise) @ self.table.astype(precise).T * scale

    def __call__(self, query_positions, key_positions, projected):
        clip = projected.shape[-1] // 2
        distance = key_positions[None, :] - query_positions[:, None]
        return jnp.take_along_axis(projected, jnp.clip(distance, -clip, clip) + clip, axis=1)


@dataclasses.dataclass(frozen=True)
class Shaw(RelativeEncoding):
    """Shaw's vectors as a choice for layers and models: distances beyond `clip` share one, and heads share all.

    Raises:
      ValueError: `clip` is no integer >= 0.

    Example:
      >>> table = Shaw(clip=3).init(jax.random.key(0), Dims(1, 16, 16, 2, 2, 4, 4))
      >>> Shaw(clip=3).bias(table, num_heads=2).table.shape
      (1, 7, 4)
    """

    clip: int = 16

    def __post_init__(self):
        fields.natural_number(self, "clip")

    def init(self, rng, dims):
        return 0.02 * jax.random.normal(rng, (1, 2 * self.clip + 1, dims.head_dim))

    def bias(self, params, num_heads):
        return ShawBias(params)
