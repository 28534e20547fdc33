"""A chunk of tokens whose keys have gains, on a Hopper GPU, and what warpgroups do with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from attnzoo.engines.fused.hopper.blocks import Tiles
from attnzoo.engines.fused.hopper.rows import Rows
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    added,
    along,
    filled,
    in_order,
    loaded,
    plgpu,
    products,
    spread,
)

SQUARE = (ROWS, ROWS)
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


class Given(NamedTuple):
    """What a recurrence is differentiated by.

    Attributes:
      read: bfloat16 [B, T, N, `ROWS`], where T is a multiple of `ROWS`.
      key, value: [B, T, K, `ROWS`].
      beside_read: what the program of queries needs beside them, float32 [B or 1, N or 1, T] each. beside_key: of keys.
      one: what stands beside values, likewise. plain: c. Neither has a gradient.
      matrices: bfloat16 [1, N or 1, F, `ROWS`], which programs multiply with, and without gradients, too.
      found: the state before the first token; None for none.
    """

    read: jax.Array
    key: jax.Array
    value: jax.Array
    beside_read: list[Any]
    beside_key: list[Any]
    one: Any
    plain: Any
    matrices: list[Any]
    found: Found | None = None


class How(NamedTuple):
    """How a recurrence is run.

    Attributes:
      read: phi and the floor of queries. key: psi and b of keys.
      matrices_read: which of the matrices that program needs. matrices_key: of keys.
      finish: outputs from what was read, and what was read of ones.
      interpret: what a CPU interprets kernels with, or None.
    """

    read: Rows
    key: Rows
    matrices_read: tuple[int, ...]
    matrices_key: tuple[int, ...]
    finish: Rows
    interpret: Any = None
    scale: float = 1.0


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
        blocks = range(of.shape[0])
        pairs, out = summed(
            [(of.at[i], self.by.at[i].T) for i in blocks], [(of.at[i], self.state.at[i]) for i in blocks]
        )
        pairs = self._met(pairs) + spread(self.floor, SQUARE) * along(self.level, SQUARE, 1)
        pairs = in_order(pairs, self.is_backward)
        out = out * spread(self.left, SQUARE) + spread(self.floor, SQUARE) * along(self.plain, SQUARE, 1)
        one = [recalled + (pairs * along(self.one, SQUARE, 1)).sum(axis=1)] if counts else []
        return added(out, pairs.astype(self.value.dtype), self.value, self.interpret), *one

    def _recalled(self, of) -> jax.Array:
        """What is read of what those before the chunk have written beside values."""

        def of_block(number, total):
            ones = along(block(self.ones, number), SQUARE, 1)
            return total + (loaded(of.at[number]) * ones).sum(axis=1)

        recalled = jax.lax.fori_loop(jnp.int32(0), jnp.int32(of.shape[0]), of_block, filled(0, ROWS))
        return self.left * recalled + self.floor * loaded(self.number)

    def pulled(self, value, one: jax.Array) -> tuple[Tiles, jax.Array]:
        """Gradients of what reads so, and of floors, for one of what was read."""
        (pairs,) = products((value, self.value.T))
        pairs = in_order(pairs + spread(one, SQUARE) * along(self.one, SQUARE, 1), self.is_backward)
        d_floor = (pairs * along(self.level, SQUARE, 1)).sum(axis=1) + one * loaded(self.number)
        d_floor = d_floor + (loaded(value) * along(self.plain, SQUARE, 1)).sum(axis=1)
        pairs = self._met(pairs).astype(self.value.dtype)

        def tile(number, made: dict) -> jax.Array:
            (out,) = products((value, self.state.at[number].T))
            out = out + spread(one, SQUARE) * along(block(self.ones, number), SQUARE, 1)
            return added(out * spread(self.left, SQUARE), pairs, self.by.at[number], self.interpret)

        return Tiles(0, tile), d_floor

    def _met(self, pairs: jax.Array) -> jax.Array:
        """Pairs of tokens, of which one sees the other."""
        weighted = pairs * jnp.exp(spread(self.row, SQUARE) - along(self.column, SQUARE, 1))
        return in_order(weighted, self.is_backward)


def block(of, number):
    """One of the blocks of `ROWS` of a vector."""
    return of.at[pl.ds(number * ROWS, ROWS)]


def summed(*pairs: list[tuple[Any, Any]]) -> tuple[jax.Array, ...]:
    """Sums of products of blocks in shared memory, in float32."""

    def made(*into):
        for ref, each in zip(into, pairs, strict=True):
            for a, b in each:
                plgpu.wgmma(ref, a, b)
        return tuple(ref[...] for ref in into)

    return pl.run_scoped(made, *[plgpu.ACC(SQUARE, jnp.float32)] * len(pairs))
