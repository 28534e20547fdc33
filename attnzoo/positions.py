"""Biases on attention scores: an array that the caller brought, or a function of two positions.

A `PositionBias` is evaluated tile by tile, so that no kernel needs the [T, S] array of it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo.masking import pick


class PositionBias:
    """A bias that depends on where the query and the key stand. Subclass it as a registered dataclass.

    Float leaves lead with an axis of `num_heads`, or of 1, which is taken off before the call.
    """

    def __call__(self, query_positions: jax.Array, key_positions: jax.Array) -> jax.Array:
        """Positions [t] and [s] -> bias [t, s] of one head."""
        raise NotImplementedError(f"{type(self).__name__} defines no `__call__`: return the bias of one head there")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ALiBi(PositionBias):
    """-slope |i - j|, a slope for each head (Press et al. 2022, arXiv:2108.12409).

    Attributes:
      slopes: float [N].

    Example:
      >>> bias = ALiBi.of(num_heads=8)
    """

    slopes: jax.Array

    @staticmethod
    def of(num_heads: int) -> ALiBi:
        """The paper's slopes, 2^(-8 n / num_heads) for n = 1..num_heads."""
        return ALiBi(2.0 ** (-8.0 * jnp.arange(1, num_heads + 1) / num_heads))

    def __call__(self, query_positions, key_positions):
        return -self.slopes * jnp.abs(query_positions[:, None] - key_positions[None, :])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bias:
    """What the door makes of `bias`: an array [..., T or 1, S or 1], or a rule and the position of query 0."""

    array: jax.Array | None = None
    rule: PositionBias | None = None
    query_offset: int = dataclasses.field(default=0, metadata={"static": True})

    def at(self, rows: jax.Array, columns: jax.Array) -> jax.Array:
        """Bias of one head for queries `rows` [t] and keys `columns` [s], broadcastable to [t, s]."""
        if self.rule is not None:
            return self.rule(rows + self.query_offset, columns)
        return pick(pick(self.array, rows, -2), columns, -1)
