"""Heads as a TPU stores them: side by side where one is narrower than a register, so that none is filled up.

A fold is some heads of queries beside each other, or of keys, of which one serves several of queries. Heads stay in
their order: where folds are whole registers all lie as a projection leaves them, and nothing has to be moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.engines.fused.operands import Operands

SUBLANES, LANES = 8, 128  # of a register: fewer take as much
MOST = 4  # heads of a fold, each of which has sums of its own


class Heads(NamedTuple):
    """How heads are folded.

    Attributes:
      kv: heads of keys.
      group: query heads that share one.
      fold: query heads side by side.
      beside: key heads side by side, all those of a fold of queries among them.
    """

    kv: int
    group: int
    fold: int
    beside: int

    @staticmethod
    def of(given: Operands, are_alike: bool) -> Heads:
        """As many as fill a register, where heads have one width and, `are_alike`, the same tiles beside theirs."""
        kv_heads, width = given.k.shape[2], given.q.shape[3]
        group = given.q.shape[2] // kv_heads
        most = min(MOST, max(1, LANES // width)) if are_alike and width == given.v.shape[3] else 1
        beside = math.gcd(kv_heads, most)
        return Heads(kv_heads, group, math.gcd(beside * group, most), beside)

    @property
    def folds(self) -> int:
        """Of queries."""
        return self.kv * self.group // self.fold

    @property
    def turns(self) -> int:
        """Folds of queries that share one of keys."""
        return self.beside * self.group // self.fold

    def number(self, fold_of_queries: Any, place: int) -> Any:
        """Which query head stands at a place of a fold."""
        return fold_of_queries * self.fold + place

    def place_of_key(self, fold_of_queries: Any, place: int) -> Any:
        """Where the keys of such a head stand in a fold of theirs."""
        if self.group == 1 or self.beside == 1:
            return place % self.beside
        kv = jax.lax.div(self.number(fold_of_queries, place), np.int32(self.group))
        return jax.lax.rem(kv, np.int32(self.beside))

    def outward(self, x: jax.Array) -> jax.Array:
        """[B, L, heads of queries or keys, H] as [B, 1, L, heads * H] where folds are whole registers, and else as
        [B, folds, L, fold * H].
        """
        batch, length, num_heads, width = x.shape
        fold = self.beside if num_heads == self.kv else self.fold
        across = 1 if fold * width % LANES == 0 else num_heads // fold
        return x.reshape(batch, length, across, -1).swapaxes(1, 2)

    def inward(self, x: jax.Array, width: int) -> jax.Array:
        """The inverse."""
        batch, _, length, _ = x.shape
        return x.swapaxes(1, 2).reshape(batch, length, -1, width)

    def rows(self, x: jax.Array, tile: int) -> jax.Array:
        """[B, N, L] -> [B, folds, tiles, fold, tile]."""
        return x.reshape(len(x), self.folds, self.fold, -1, tile).swapaxes(2, 3)

    def by_query(self, x: jax.Array) -> jax.Array:
        """The inverse, of any folds."""
        batch, _, tiles, _, tile = x.shape
        return x.swapaxes(2, 3).reshape(batch, -1, tiles * tile)


def picked(of_place: Callable[[int], jax.Array], count: int, place: Any) -> jax.Array:
    """What `of_place` gives for one of so many places, which may be traced: then all are looked at."""
    if isinstance(place, int):
        return of_place(place)
    found = of_place(0)
    for n in range(1, count):
        found = jnp.where(place == n, of_place(n), found)
    return found


def among(x: jax.Array, count: int, place: Any) -> jax.Array:
    """[L, H] in the lanes of one of so many places, beside zeros: [L, count * H]."""
    return jnp.concatenate([jnp.where(place == n, x, jnp.zeros_like(x)) for n in range(count)], axis=1)


def before(end: Any, x: jax.Array, axis: int) -> jax.Array:
    """x with zeros from an end on: what is read behind that of an array may be no number."""
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, x.shape, axis) < end, x, jnp.zeros_like(x))


def in_rows(vectors: list[jax.Array], tile: int) -> jax.Array:
    """Several [B or 1, heads or 1, L] -> [B or 1, heads or 1, tiles, SUBLANES, tile], filled up with zeros."""
    x = jnp.stack(jnp.broadcast_arrays(*vectors), axis=2)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, SUBLANES - x.shape[2]), (0, 0)))
    return jnp.moveaxis(x.reshape(*x.shape[:3], -1, tile), 3, 2)


def stored(block: tuple[int, ...], dtype: Any) -> int:
    """Bytes of a block [..., rows, lanes] in memory, where lanes are filled up."""
    return block[-2] * (-(-block[-1] // LANES) * LANES) * jnp.dtype(dtype).itemsize
