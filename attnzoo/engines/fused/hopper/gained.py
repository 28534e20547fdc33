"""A chunk of tokens whose keys have gains, on a Hopper GPU, and what warpgroups do with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.hopper.blocks import Tiles
from attnzoo.engines.fused.hopper.warpgroups import added, along, in_order, loaded, products, spread
from attnzoo.engines.fused.hopper.wide import SQUARE, met, recalled, tiles

# Vectors that are prepared of a chunk, and those of a state beside sums of channels, each as wide as a chunk.
VECTORS = "row column base last kept floor plain number".split()
ALONE = "plain number top".split()


class Found(NamedTuple):
    """A state, in float32.

    Attributes:
      sums: of channels with gains, [B, N, F, Hv]. ones: of what stands beside values, [B, N, F].
      plain: of the channel without, [B, N, Hv]. number: of what stands beside, [B, N].
      top: M, [B, N].
    """

    sums: jax.Array
    ones: jax.Array
    plain: jax.Array
    number: jax.Array
    top: jax.Array

    def dots(self, other: Found) -> jax.Array:
        """Products of channels with gains: [B, N]."""
        return (self.sums * other.sums).sum(axis=(2, 3)) + (self.ones * other.ones).sum(axis=2)


class Meeting(NamedTuple):
    """A chunk of tokens, whose rows meet those of columns, and what those before the chunk have written.

    Attributes:
      by: a block of features, by which columns write. value: of what they write. one: what stands beside.
      state, ones, plain, number: what those before the chunk have written.
      row, column: exponents whose difference is that of a pair. left: what rows have of the state.
      floor: what rows read plain channels by, or write. level: what columns do.
      is_backward: whether those before it are those behind it.
    """

    by: Any
    value: Any
    one: Any
    state: Any
    ones: Any
    plain: Any
    number: Any
    row: jax.Array
    column: Any
    left: jax.Array
    floor: jax.Array
    level: Any
    is_backward: bool
    interpret: Any

    def read(self, of, counts: bool = True) -> tuple[jax.Array, ...]:
        """What rows read of values, and of what stands beside them."""
        recalled: Any = self._recalled(of) if counts else None  # before registers hold products
        pairs, out = met(of, self.by, self.state)
        pairs = self._met(pairs) + spread(self.floor, SQUARE) * along(self.level, SQUARE, 1)
        pairs = in_order(pairs, self.is_backward)
        out = out * spread(self.left, SQUARE) + spread(self.floor, SQUARE) * along(self.plain, SQUARE, 1)
        one = [recalled + (pairs * along(self.one, SQUARE, 1)).sum(axis=1)] if counts else []
        return added(out, pairs.astype(self.value.dtype), self.value, self.interpret), *one

    def _recalled(self, of) -> jax.Array:
        """What is read of what those before the chunk have written beside values."""
        return self.left * recalled(of, self.ones) + self.floor * loaded(self.number)

    def pulled(self, value, one: jax.Array) -> tuple[Tiles, jax.Array]:
        """Gradients of what reads so, and of floors, for one of what was read."""
        (pairs,) = products((value, self.value.T))
        pairs = in_order(pairs + spread(one, SQUARE) * along(self.one, SQUARE, 1), self.is_backward)
        d_floor = (pairs * along(self.level, SQUARE, 1)).sum(axis=1) + one * loaded(self.number)
        d_floor = d_floor + (loaded(value) * along(self.plain, SQUARE, 1)).sum(axis=1)
        left = lambda out: out * spread(self.left, SQUARE)
        return tiles(self, value, one, self._met(pairs).astype(self.value.dtype), left), d_floor

    def _met(self, pairs: jax.Array) -> jax.Array:
        """Pairs of tokens, of which one sees the other."""
        weighted = pairs * jnp.exp(spread(self.row, SQUARE) - along(self.column, SQUARE, 1))
        return in_order(weighted, self.is_backward)
