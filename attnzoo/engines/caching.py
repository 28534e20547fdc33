"""Caches of keys and values: what decoding remembers of the tokens before a step, and which of it a query sees.

A cache is a dict of arrays [B, slots, ...]. The first `pinned` positions have a slot each; those after them take turns
in the other slots, a ring that keeps the latest. Where every position is pinned it is the usual cache of all keys.

    slot(p) = p  for p < pinned,    pinned + (p - pinned) mod ring  for the others

A position of -1 stands for padding: it is written nowhere, sees nothing, and nobody sees it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from attnzoo.contract.bias import Bias
    from attnzoo.contract.mask import Mask
    from attnzoo.contract.shards import Shards
    from attnzoo.contract.sizes import Dims


class Slots(NamedTuple):
    """How positions share the slots of a cache."""

    pinned: int
    ring: int = 0

    def taken_by(self, positions: jax.Array) -> jax.Array:
        """The slots of new tokens at `positions` [t]; out of range for those that are not kept.

        Of several tokens whose turn is in one slot only the last is kept, since a scatter has no order.
        """
        is_pinned = positions < self.pinned
        turn = self.pinned + (positions - self.pinned) % max(self.ring, 1)
        kept = (positions >= 0) & (is_pinned | (positions > positions.max() - self.ring))
        return jnp.where(kept, jnp.where(is_pinned, positions, turn), self.pinned + self.ring)

    def held(self, count: jax.Array) -> jax.Array:
        """The position in each slot once `count` tokens have come: int [slots], -1 for an empty one."""
        slot = jnp.arange(self.pinned + self.ring)
        latest = count - 1 - (count - 1 - slot) % max(self.ring, 1)
        position = jnp.where(slot < self.pinned, slot, jnp.where(latest >= self.pinned, latest, -1))
        return jnp.where(position < count, position, -1)


def empty(dims: Dims, slots: int, dtype) -> dict[str, jax.Array]:
    """A cache of keys [B, slots, K, H] and values [B, slots, K, Hv]."""
    leading = (dims.batch, slots, dims.num_key_value_heads)
    return {
        "key": jnp.zeros((*leading, dims.head_dim), dtype),
        "value": jnp.zeros((*leading, dims.value_dim), dtype),
    }


def slots_of(shards: Shards | None, count: int) -> jax.Array:
    """The positions of so many slots [s], this device's part of a cache of all keys; of the whole where None."""
    return jnp.arange(count) + (0 if shards is None else shards.index * count)


def written(cache: dict[str, jax.Array], new: dict[str, jax.Array], positions: jax.Array, slots: Slots | None = None):
    """`cache` with new tokens [B, t, ...] at `positions` [B, t], those that have a slot in it; all where it is None."""

    def write(cached, new, positions):
        place = (slots or Slots(len(cached))).taken_by(positions)
        return cached.at[place].set(new.astype(cached.dtype), mode="drop")

    return {name: jax.vmap(write)(cached, new[name], positions) for name, cached in cache.items()}


def beside_ring(cache: dict[str, jax.Array], new: dict[str, jax.Array], positions: jax.Array, slots: Slots):
    """What a step meets, [B, slots + t, ...], and the positions [B, slots + t] where it stands.

    The new tokens stand beside the ring, not in it: the first query still sees what the last one will replace.
    """
    columns = jnp.concatenate([jax.vmap(slots.held)(positions[:, 0]), positions], axis=1)
    return columns, {name: jnp.concatenate(in_one_dtype(cache[name], x), axis=1) for name, x in new.items()}


def seen(positions: jax.Array, columns: jax.Array, mask: Mask) -> jax.Array:
    """Which keys at positions `columns` [s] the queries of one head at `positions` [t] may see: bool [t, s].

    Of the mask, what a caller's functions hide.
    """
    visible = (columns >= 0)[None] & (columns[None] <= positions[:, None])
    return functools.reduce(jnp.logical_and, (mod.at(positions, columns) for mod in mask.mods), visible)


def bias_at(bias: Bias | None, positions: jax.Array, columns: jax.Array, rows: jax.Array | None = None):
    """Bias of one head for queries at `positions` [t] and keys at `columns` [s], broadcastable to [t, s].

    The rows of an array are those of the step, `rows` [t] or all of them; a rule is asked for the positions.
    """
    if bias is None:
        return None
    return bias.at(jnp.arange(len(positions)) if rows is None else rows, columns, positions, columns)


def in_one_dtype(*arrays: jax.Array) -> list[jax.Array]:
    """Arrays in the smallest dtype that holds them all."""
    dtype = functools.reduce(jnp.promote_types, (x.dtype for x in arrays))
    return [x.astype(dtype) for x in arrays]
