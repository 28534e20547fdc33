"""Heads as a TPU stores them: side by side where one is narrower than a register, so that none is filled up.

A fold is `fold` key heads beside each other, and likewise one query head of each of their groups. Folds of queries are
numbered by those of their keys, and within them by their place in a group. Where folds are whole registers, and in the
order of heads, they lie beside each other, too, as a projection leaves them, and nothing has to be moved.
"""

from __future__ import annotations

import math
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
      fold: key heads side by side.
    """

    kv: int
    group: int
    fold: int

    @staticmethod
    def of(given: Operands, are_alike: bool) -> Heads:
        """As many as fill a register, where heads have one width and, `are_alike`, the same tiles beside theirs."""
        num_heads, kv_heads, width = given.q.shape[2], given.k.shape[2], given.q.shape[3]
        can_be = are_alike and given.of_key is None and width == given.v.shape[3]
        fold = math.gcd(kv_heads, min(MOST, max(1, LANES // width))) if can_be else 1
        return Heads(kv_heads, num_heads // kv_heads, fold)

    @property
    def folds(self) -> int:
        """Of queries."""
        return self.kv // self.fold * self.group

    def number(self, fold_of_queries: Any, place: int) -> Any:
        """Which query head stands at a place of a fold."""
        if self.fold == 1:
            return fold_of_queries
        group = np.int32(self.group)
        kv = jax.lax.div(fold_of_queries, group) * self.fold + place
        return kv * self.group + jax.lax.rem(fold_of_queries, group)

    def shape(self, batch: int, tiles: int, tile: int, num_heads: int, width: int) -> tuple[int, ...]:
        """Of heads of queries or of keys, [B, 1, tiles, tile, heads * H] where all lie beside each other, or of folds,
        [B, folds, tiles, tile, fold * H].
        """
        are_in_order = self.fold == 1 or num_heads == self.kv
        if are_in_order and self.fold * width % LANES == 0:
            return batch, 1, tiles, tile, num_heads * width
        return batch, num_heads // self.fold, tiles, tile, self.fold * width

    def outward(self, x: jax.Array, tile: int) -> jax.Array:
        """[B, L, heads of queries or keys, H] in such a shape."""
        batch, length, num_heads, width = x.shape
        shape = self.shape(batch, length // tile, tile, num_heads, width)
        if shape[1] == 1:
            return x.reshape(shape)
        split = self.kv // self.fold, self.fold, num_heads // self.kv
        return x.reshape(*shape[:1], *shape[2:4], *split, width).transpose(0, 3, 5, 1, 2, 4, 6).reshape(shape)

    def inward(self, x: jax.Array, width: int) -> jax.Array:
        """The inverse."""
        batch, folds, tiles, tile, _ = x.shape
        if folds == 1:
            return x.reshape(batch, tiles * tile, -1, width)
        split = self.kv // self.fold, folds * self.fold // self.kv, tiles, tile, self.fold, width
        return x.reshape(batch, *split).transpose(0, 3, 4, 1, 5, 2, 6).reshape(batch, tiles * tile, -1, width)

    def rows(self, x: jax.Array, tile: int) -> jax.Array:
        """[B, N, L] -> [B, folds, tiles, fold, tile]."""
        x = x.reshape(x.shape[0], self.kv // self.fold, self.fold, self.group, -1, tile)
        return x.transpose(0, 1, 3, 4, 2, 5).reshape(x.shape[0], self.folds, x.shape[4], self.fold, tile)

    def by_query(self, x: jax.Array) -> jax.Array:
        """The inverse."""
        batch, _, tiles, _, tile = x.shape
        x = x.reshape(batch, self.kv // self.fold, self.group, tiles, self.fold, tile)
        return x.transpose(0, 1, 4, 2, 3, 5).reshape(batch, -1, tiles * tile)

    def numbers(self, x: jax.Array) -> jax.Array:
        """[B or 1, N or 1, ...] -> the same in the order of folds and places; what all heads share as it is."""
        if x.shape[1] == 1:
            return x
        by_place = x.reshape(x.shape[0], self.kv // self.fold, self.fold, self.group, *x.shape[2:])
        return by_place.swapaxes(2, 3).reshape(x.shape)


def in_rows(vectors: list[jax.Array], tile: int) -> jax.Array:
    """Several [B or 1, heads or 1, L] -> [B or 1, heads or 1, tiles, SUBLANES, tile], filled up with zeros."""
    x = jnp.stack(jnp.broadcast_arrays(*vectors), axis=2)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, SUBLANES - x.shape[2]), (0, 0)))
    return jnp.moveaxis(x.reshape(*x.shape[:3], -1, tile), 3, 2)


def stored(block: tuple[int, ...], dtype: Any) -> int:
    """Bytes of a block [..., rows, lanes] in memory, where lanes are filled up."""
    return block[-2] * (-(-block[-1] // LANES) * LANES) * jnp.dtype(dtype).itemsize
