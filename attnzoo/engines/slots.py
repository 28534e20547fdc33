"""Where the tokens of a recurrence stand: a sequence in chunks, and who sees what in each.

Where the future is hidden, query i stands beside key i + offset, chunk after chunk. A sequence that fits one chunk, and
knows no order in time, is that chunk, as long as it is.

Where there are segments, or the offset is an array, tokens become events, keys that write and queries that read, in
the order of their ids, and of positions among equals, so that ids may come in any order. A segment finds what its own
keys have left, and nothing else. Segments that are known to be runs of tokens stay where they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.mask import Mask
from attnzoo.engines.gathered import Order
from attnzoo.engines.state import Standing, rows_and_columns


class Sequence(NamedTuple):
    """Tokens of all heads: leaves are [B, L, heads, ...], or [chunks, B, chunk, heads, ...].

    Of one head that has a state, q is [g, t, H], those of all queries that share it, and others are [t, ...].
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    tokens: dict[str, jax.Array]


class Slots(NamedTuple):
    """Where the tokens of chunks stand: leaves lead with [chunks, B or 1].

    Attributes:
      query_at: int [t], positions of queries. key_at: int [s], positions of keys.
      shown: bool [s], which slots hold a key that some query may see, or [t, s], by each query; None for all.
      segment: int [t], or None.
      found: int [], the segment of the state that is found, or None.
      wanted: int [], the segment whose last state is asked for, or None.
      steps: int [t], how many positions lie between a slot and the one before it; None for one.
    """

    query_at: Any
    key_at: Any
    shown: Any = None
    segment: Any = None
    found: Any = None
    wanted: Any = None
    steps: Any = None


class Laid(NamedTuple):
    """A sequence in chunks.

    Attributes:
      given: its tokens.
      slots: where they stand.
      standing_of: who sees what, from the slots of one chunk.
      restored: outputs of queries [B, T, N, Hv], from those of slots [chunks, B, t, N, Hv].
      ends: how many slots of queries, and of keys, come before those that fill up the last chunk.
    """

    given: Sequence
    slots: Slots
    standing_of: Callable[[Slots], Standing]
    restored: Callable[[jax.Array], jax.Array]
    ends: tuple[int, int]

    def moved(self, first: jax.Array) -> Laid:
        """The same of tokens that stand behind others, of which there are `first`."""
        slots = self.slots
        return self._replace(slots=slots._replace(query_at=slots.query_at + first, key_at=slots.key_at + first))


def sees_all(mask: Mask) -> bool:
    """Whether all queries see the same keys, so that one state is all they read."""
    return not mask.is_causal and mask.segments is None


def laid_out(
    given: Sequence,
    mask: Mask,
    chunk: int,
    *,
    in_pairs: bool = False,
    fills: bool = False,
    before: jax.Array | None = None,
) -> Laid:
    """A sequence in chunks: as pairs where it is short and it does not matter who comes first.

    A short one is a chunk as long as it is, unless it `fills` that up.

    Args:
      before: int [B or 1], the segment of the token before the first, where segments are runs of tokens; None where
        they need not be.
    """
    if before is not None:
        return _in_runs(_aligned(given, mask, chunk, fills), mask, before)
    if in_pairs and max(mask.query_length, mask.key_length) <= chunk:
        return _as_pairs(given, mask)
    if mask.segments is not None:
        return _in_order(given, mask, mask.segments, chunk, fills)
    if sees_all(mask):
        return _on_either_side(given, mask, chunk)
    if mask.is_placed:
        return _aligned(given, mask, chunk, fills)
    of_one = lambda size: jnp.zeros((given.q.shape[0], 1, size), jnp.int32)
    return _in_order(given, mask, (of_one(mask.query_length), of_one(mask.key_length)), chunk, fills)


def _as_pairs(given: Sequence, mask: Mask) -> Laid:
    """All in one chunk, of whose tokens each meets each: there is no state, and no order that would matter."""
    rows, columns = np.arange(mask.query_length), np.arange(mask.key_length)
    at = lambda mask: mask.at(rows, columns)
    if jax.tree.leaves(mask):
        each = jax.tree.map(lambda x: jnp.broadcast_to(x[:, 0], (given.q.shape[0], *x.shape[2:])), mask)
        visible = jax.vmap(at)(each)
    else:
        visible = at(mask)[None]
    slots = Slots(rows[None] + mask.query_offset, columns[None], visible)
    given, slots = jax.tree.map(lambda x: x[None], (given, slots))
    return Laid(given, slots, _seen, lambda out: out[0], (mask.query_length, mask.key_length))


def _seen(slots: Slots) -> Standing:
    """Who sees what where it is known of each pair."""
    return Standing(slots.shown)


def in_turn(slots: Slots) -> Standing:
    """Who sees what where a query sees what came before it, of its segment."""
    length = slots.key_at.shape[-1]
    row, column = rows_and_columns((length, length))
    inside = row >= column
    inside = inside if slots.shown is None else inside & slots.shown[None]
    if slots.segment is None:
        return Standing(inside, None, slots.shown, None, slots.steps)
    inside &= slots.segment[:, None] == slots.segment[None]
    finds = (slots.segment == slots.found) & (slots.key_at >= 0)
    return leaving(Standing(inside, finds, steps=slots.steps), slots, slots.segment[-1])


def leaving(standing: Standing, slots: Slots, segment: jax.Array) -> Standing:
    """The same, of which the state of one segment is left."""
    return standing._replace(writes=slots.shown & (slots.segment == segment), lasts=slots.found == segment)


def _aligned(given: Sequence, mask: Mask, chunk: int, fills: bool) -> Laid:
    """Without segments: causal, where query i stands beside key i + offset and chunks go in pairs, or all in one."""
    offset, length, key_length = mask.place, mask.query_length, mask.key_length
    before = min(length, max(0, -offset))
    lead = min(max(0, offset), key_length)
    beyond = max(0, offset) - lead  # queries beyond all keys stand right behind these, however far away they are
    end, last = lead + length - before, max(key_length, lead + length - before)
    chunk = chunk if fills else _no_longer(chunk, last)
    chunks = -(-last // chunk)
    cut = functools.partial(_cut, chunks=chunks, chunk=chunk)
    places = jnp.arange(chunks * chunk).reshape(chunks, 1, chunk)
    steps = jnp.where(places < last, 1, 0) + jnp.where(places == lead, beyond, 0)
    at = places + jnp.where(places >= lead, beyond, 0)
    shown = None if mask.keys is None else cut(mask.keys[:, 0])
    if shown is None and chunks * chunk > key_length:
        shown = cut(np.ones((1, key_length), bool))  # what fills the last chunk is neither seen nor kept
    q, *keys = given
    tokens = Sequence(cut(q[:, before:], lead=lead), *jax.tree.map(cut, keys))
    restored = lambda out: jnp.pad(_uncut(out)[:, lead:end], ((0, 0), (before, 0), (0, 0), (0, 0)))
    return Laid(tokens, Slots(at, at, shown, steps=steps), in_turn, restored, (last, last))


def _on_either_side(given: Sequence, mask: Mask, chunk: int) -> Laid:
    """Where all queries see the same keys: both in chunks of their own, which are filled up."""

    def cut(x, length):
        return _cut(x, max(1, -(-length // chunk)), chunk)

    def places(length):
        chunks = max(1, -(-length // chunk))
        return jnp.arange(chunks * chunk).reshape(chunks, 1, chunk)

    shown = None if mask.keys is None else cut(mask.keys[:, 0], mask.key_length)
    if shown is None and mask.key_length % chunk:
        shown = cut(np.ones((1, mask.key_length), bool), mask.key_length)
    slots = Slots(places(mask.query_length) + mask.query_offset, places(mask.key_length), shown)
    q, *rest = given
    keys = jax.tree.map(lambda x: cut(x, mask.key_length), rest)
    tokens = Sequence(cut(q, mask.query_length), *keys)
    ends = mask.query_length, mask.key_length
    return Laid(tokens, slots, _seen, lambda out: _uncut(out)[:, : mask.query_length], ends)


def _in_runs(laid: Laid, mask: Mask, before: jax.Array) -> Laid:
    """The same of tokens in their order, each segment of which is one run."""
    slots = laid.slots
    chunks, _, chunk = slots.key_at.shape
    assert mask.segments is not None
    ids = mask.segments[1][:, 0]
    ids = jnp.pad(ids, ((0, 0), (0, chunks * chunk - mask.key_length)), mode="edge")
    segment = _cut(ids, chunks, chunk)
    found = jnp.concatenate([before[None], segment[:-1, :, -1]])
    shown = jnp.ones(slots.key_at.shape, bool) if slots.shown is None else slots.shown
    return laid._replace(slots=slots._replace(shown=shown, segment=segment, found=found))


def are_runs(ids: jax.Array) -> jax.Array:
    """Whether each of the segments [..., L] is one run of tokens, bool [...]: sorted, ids change no less often.

    Example:
      >>> from attnzoo.engines import slots
      >>> slots.are_runs(jnp.array([[5, 5, 2, 7], [5, 2, 5, 7]])).tolist()
      [True, False]
    """
    changes = lambda ids: jnp.count_nonzero(jnp.diff(ids), axis=-1)
    return changes(ids) == changes(jnp.sort(ids))


def _in_order(given: Sequence, mask: Mask, segments: tuple[jax.Array, jax.Array], chunk: int, fills: bool) -> Laid:
    """With segments: keys and queries as one sequence of events, in the order of ids and positions."""
    query_ids, key_ids = (ids[:, 0] for ids in segments)
    at = jnp.broadcast_to(mask.stands, query_ids.shape)
    stands = at if mask.is_causal else jnp.full(query_ids.shape, mask.key_length)
    shown = jnp.ones(key_ids.shape, bool) if mask.keys is None else jnp.broadcast_to(mask.keys[:, 0], key_ids.shape)
    chunk = chunk if fills else _no_longer(chunk, mask.query_length + mask.key_length)
    events = jax.vmap(functools.partial(_events, chunk=chunk), out_axes=(1, 0, 0))
    slots, queries, keys = events(query_ids, key_ids, at, stands, shown)
    q, *rest = given
    among = lambda order, x: jax.vmap(Order.grouped, out_axes=1)(order, x)
    tokens = Sequence(among(queries, q), *jax.tree.map(functools.partial(among, keys), rest))
    restored = functools.partial(jax.vmap(Order.restored, (0, 1)), queries)
    return Laid(tokens, slots, in_turn, restored, (mask.query_length + mask.key_length,) * 2)


def _events(query_ids, key_ids, query_at, stands, shown, chunk: int):
    """Queries at positions [T], which see what comes before `stands` [T], beside keys [S].

    Returns the slots of one example, the order of queries, and that of keys.
    """
    key_length, events = len(key_ids), len(key_ids) + len(query_ids)
    segment, places = jnp.concatenate([key_ids, query_ids]), jnp.arange(key_length)
    at, query_at = (jnp.concatenate([places, x]) for x in (stands, query_at))
    is_query, shown = jnp.arange(events) >= key_length, jnp.pad(shown, (0, len(query_ids)))
    # The segment of the first key leads, since it is that of a state which was found.
    order = jnp.lexsort((is_query, at, segment, segment != segment[0]))
    places = jnp.zeros_like(order).at[order].set(jnp.arange(events))

    def cut(x, **padding):
        return jnp.pad(x, (0, -events % chunk), **padding).reshape(-1, chunk)

    ids, tokens = cut(segment[order], mode="edge"), cut(order, constant_values=-1)
    passed = jnp.diff(jnp.maximum(at[order], -1), prepend=-1)
    goes_on = jnp.diff(segment[order], prepend=segment[order[0]]) == 0
    slots = Slots(
        query_at=cut(query_at[order]),
        key_at=cut(at[order]),
        shown=cut(shown[order]),
        segment=ids,
        found=jnp.concatenate([ids[:1, 0], ids[:-1, -1]]),
        wanted=jnp.full(len(ids), segment[max(key_length, 1) - 1]),
        steps=cut(jnp.where(goes_on, passed, 0)),
    )
    queries = Order(jnp.where(tokens < key_length, -1, tokens - key_length), places[key_length:])
    return slots, queries, Order(jnp.where(tokens < key_length, tokens, -1), places[:key_length])


def _no_longer(chunk: int, length: int) -> int:
    return max(1, min(chunk, length))


def _cut(x: jax.Array | np.ndarray, chunks: int, chunk: int, lead: int = 0) -> jax.Array:
    """[B, L, ...] -> [chunks, B, chunk, ...], with `lead` positions before the first."""
    behind = chunks * chunk - lead - x.shape[1]
    padded = jnp.pad(x, [(0, 0), (lead, behind)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(padded.reshape(x.shape[0], chunks, chunk, *x.shape[2:]), 1, 0)


def _uncut(x: jax.Array) -> jax.Array:
    """[chunks, B, chunk, ...] -> [B, chunks * chunk, ...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])
