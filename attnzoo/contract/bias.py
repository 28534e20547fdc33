"""Biases on attention scores: an array that the caller brought, or a function of two positions.

A `PositionBias` is evaluated tile by tile, so that no kernel needs the [T, S] array of it. One that depends on the
query too, a `QueryBias`, says once for each query what its biases will be made from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract.mask import pick


class PositionBias:
    """A bias that depends on where the query and the key stand. Subclass it as a registered dataclass.

    Leaves are floating-point and lead with an axis of `num_heads`, or of 1, which is taken off before the call.

    Example:
      >>> import dataclasses
      >>> @jax.tree_util.register_dataclass
      ... @dataclasses.dataclass(frozen=True)
      ... class Ahead(PositionBias):
      ...     amount: jax.Array  # [N or 1]
      ...
      ...     def __call__(self, query_positions, key_positions):
      ...         return jnp.where(key_positions[None] > query_positions[:, None], self.amount, 0.0)
      >>> q = k = jnp.ones((1, 4, 2, 8))
      >>> attention_weights(q, k, Ahead(jnp.array([0.0, -jnp.inf])))[0, :, 0].tolist()  # of query 0, by head
      [[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]]
    """

    depends_on_score = False

    def __call__(self, query_positions: jax.Array, key_positions: jax.Array, *projected: Any) -> jax.Array:
        """Positions [t] and [s] -> bias [t, s] of one head. Negative ones are padding, and their bias is not used.

        A `QueryBias`, and no other, receives one argument more.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no `__call__`: return the bias of one head there")

    def added_to(
        self,
        scores: jax.Array,
        query_positions: jax.Array,
        key_positions: jax.Array,
        projected: jax.Array | None = None,
    ) -> jax.Array:
        """Scores [t, s] of one head, and the bias on them."""
        return scores + evaluated(self, query_positions, key_positions, projected)


class QueryBias(PositionBias):
    """A bias that depends on the query beside the positions: it is made from a few numbers of each query.

    Example:
      >>> import dataclasses
      >>> @jax.tree_util.register_dataclass
      ... @dataclasses.dataclass(frozen=True)
      ... class Self(QueryBias):
      ...     vector: jax.Array  # [N or 1, H]
      ...
      ...     def project(self, q, scale):
      ...         return scale * q @ self.vector[:, None]
      ...
      ...     def __call__(self, query_positions, key_positions, projected):
      ...         return jnp.where(key_positions[None] == query_positions[:, None], projected, 0.0)
      >>> q = k = jnp.ones((1, 4, 2, 8))
      >>> attention_weights(q, k, Self(jnp.full((1, 8), 50.0)))[0, 0].argmax(axis=1).tolist()
      [0, 1, 2, 3]
    """

    def project(self, q: jax.Array, scale: float | jax.Array) -> jax.Array:
        """Queries [T, H] of one head and the scale of their scores -> [T, R], what `__call__` needs of each."""
        raise NotImplementedError(f"{type(self).__name__} defines no `project`: return [T, R] for queries [T, H] there")

    def __call__(self, query_positions: jax.Array, key_positions: jax.Array, projected: jax.Array) -> jax.Array:
        """Positions [t] and [s], and the rows [t, R] of these queries -> bias [t, s] of one head."""
        raise NotImplementedError(f"{type(self).__name__} defines no `__call__`: return the bias of one head there")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bias:
    """What the door makes of `bias`: an array, or a rule.

    Leaves lead with [B or 1, N or 1]; those of a single head lead with nothing.

    Attributes:
      given: an array [..., T or 1, S or 1], or a rule, which is evaluated tile by tile.
      projected: [..., T, R], what a `QueryBias` keeps of each query.
    """

    given: jax.Array | PositionBias
    projected: jax.Array | None = None

    def of(self, query: jax.Array, scale: float | jax.Array | None) -> Bias:
        """This bias for queries [B, T, N, H], whose scores are scaled by `scale`, 1 / sqrt(H) where None.

        It is no wider than the scores.
        """
        precise = jnp.promote_types(query.dtype, jnp.float32)
        narrowed = jax.tree.map(lambda x: x.astype(precise) if x.dtype.itemsize > precise.itemsize else x, self)
        if not isinstance(narrowed.given, QueryBias):
            return narrowed
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        rule = jax.tree.map(lambda x: jnp.broadcast_to(x[0], (query.shape[2], *x.shape[2:])), narrowed.given)
        example = jax.vmap(lambda rule, q: rule.project(q, factor), (0, 1))
        return dataclasses.replace(narrowed, projected=jax.vmap(example, (None, 0))(rule, query))

    def at(
        self, rows: jax.Array, columns: jax.Array, positions: jax.Array, key_positions: jax.Array
    ) -> jax.Array | Callable[[jax.Array], jax.Array]:
        """Bias of one head for queries `rows` [t] and keys `columns` [s], and where they stand.

        It broadcasts to [t, s]; where it depends on scores, it is what makes them of scores [t, s].
        """
        if not isinstance(self.given, PositionBias):
            return pick(pick(self.given, rows, -2), columns, -1)
        projected = None if self.projected is None else pick(self.projected, rows, -2)
        rule = self.given
        if rule.depends_on_score:
            return lambda scores: rule.added_to(scores, positions, key_positions)
        return evaluated(rule, positions, key_positions, projected)


def evaluated(
    rule: PositionBias, positions: jax.Array, columns: jax.Array, projected: jax.Array | None = None
) -> jax.Array:
    """Bias [t, s] of one head by a rule, for queries that stand at `positions` [t] and keys `columns` [s].

    Args:
      projected: the rows [t, R] of these queries, for a `QueryBias`.
    """
    found = rule(positions, columns, *(() if projected is None else (projected,)))
    if found.shape != (*positions.shape, *columns.shape):
        count = len(positions)
        raise ValueError(
            f"{type(rule).__name__} gave {list(found.shape)} for {count} queries and {len(columns)} keys: "
            "expected a number for each pair, from leaves whose axis of heads is taken off"
        )
    return found
