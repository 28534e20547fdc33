"""Recurrences over a sequence: a scan over chunks of tokens, or sums over all of them.

What a state is, and how tokens write and read it, is in `state.py`; here sequences are laid out for it. Work and memory
are O(T + S). Where all queries see the same keys, one state is all they read. Where the future is hidden, query i
stands beside key i + offset, chunk after chunk; a sequence that fits one chunk is that chunk, as long as it is, and
meets no state (the chunked form of Hua et al. 2022, arXiv:2202.10447).

Where there are segments, or the offset is an array, tokens become events, keys that write and queries that read, in
the order of their ids, and of positions among equals, so that ids may come in any order. A segment finds what its own
keys have left, and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract import varying
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Mask
from attnzoo.contract.shards import Shards
from attnzoo.engines import heads, state
from attnzoo.engines.gathered import Order
from attnzoo.engines.state import Standing, State, Sums, Write

# Measured on a CPU at 64 features and 8 heads: forward, 64 takes two thirds of the time of 128.
CHUNK = 64


class Rule(NamedTuple):
    """The recurrence of one head. Its operands are in float32 at least.

    Attributes:
      read: (queries [t, H], their positions [t]) -> what each channels of the state are read with, [t, F] each.
      write: (keys [s, H], values [s, Hv], their positions [s], and what tokens bring by keyword) -> `Write`.
      finish: what was read, [t, ...] of each of the values -> the output [t, Hv].

    Example:
      >>> from attnzoo.contract.call import Call
      >>> from attnzoo.engines import recurrence
      >>> from attnzoo.engines.state import Channels, Write
      >>> def halving(constants):
      ...     write = lambda k, v, at: Write((v,), (Channels(k, log_decay=jnp.log(0.5)),))
      ...     return recurrence.Rule(read=lambda q, at: (q / q.shape[-1],), write=write)
      >>> causal = jax.jit(lambda q, k, v: recurrence.attend(halving, (), q, k, v, Call(Mask(4, 4, is_causal=True))))
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> out = causal(q, k, v)
      >>> bool(jnp.allclose(out[0, :, 0, 0], jnp.array([1.0, 1.5, 1.75, 1.875])))
      True
    """

    read: Callable[..., tuple[jax.Array, ...]]
    write: Callable[..., Write]
    finish: Callable[[tuple[jax.Array, ...]], jax.Array] = lambda read: read[0]


class Sequence(NamedTuple):
    """Tokens of all heads: leaves are [B, L, heads, ...], or [chunks, B, chunk, heads, ...]."""

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


def attend(
    rule_of: Callable[[Any], Rule],
    constants: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    call: Call,
    found: State | None = None,
    *,
    leaves_state: bool = False,
    chunk: int = CHUNK,
):
    """All heads: q [B, T, N, H], k [B, S, K, H], v [B, S, K, Hv] -> [B, T, N, Hv].

    Args:
      rule_of: the rule of one head, from its part of `constants`.
      constants: a tree whose leaves lead with N, or with 1 where heads share. Heads of queries that share their key
        head, their constants and what tokens bring share a state, too.
      call: its mask, and what tokens bring to `Rule.write`.
      found: the state before key 0, and of its segment; leaves lead with [B, heads that have a state].
      leaves_state: return (output, state), that after the last key, and of its segment. A decay that counts positions
        counts those of queries beyond it.
      chunk: tokens that meet as pairs, and the state at once.

    Raises:
      ValueError: every query sees all keys, beside a state, decays or the delta rule, which stand for an order in time.

    Example:
      >>> from attnzoo.contract.call import Call
      >>> from attnzoo.engines import recurrence
      >>> from attnzoo.engines.state import Channels, Write
      >>> def sums(constants):  # o_i = sum_j (q_i . k_j) v_j over what query i sees
      ...     return recurrence.Rule(lambda q, at: (q,), lambda k, v, at: Write((v,), (Channels(k),)))
      >>> causal = jax.jit(lambda q, k, v: recurrence.attend(sums, (), q, k, v, Call(Mask(4, 4, is_causal=True))))
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> causal(q, k, v)[0, :, 0, 0].tolist()
      [8.0, 16.0, 24.0, 32.0]
    """
    given, mask = Sequence(q, k, v, call.tokens), call.mask
    write = _write_of(rule_of, constants, given)
    has_order = _has_order(write) or found is not None or leaves_state
    if has_order and not mask.is_causal:
        raise ValueError(
            "every query sees every key, but decays, the delta rule, and states that are found or left stand for an "
            "order in time: expected a causal mask; a kernel with such a rule declares bidirectional=False"
        )
    if call.shards is not None:
        own = _state_of_keys(rule_of, constants, write, given, mask)
        if not mask.is_causal:
            return _recalled(rule_of, constants, write, given, mask, _of_all(call.shards, own)).astype(v.dtype)
        found = _of_those_before(call.shards, own)
    over = functools.partial(_scan, rule_of, constants, write, found=found, leaves_state=leaves_state)
    if not has_order and max(q.shape[1], k.shape[1]) <= chunk:
        out, left = _as_pairs(over, given, mask)
    elif mask.segments is not None:
        out, left = _in_order(over, given, mask, mask.segments, chunk)
    elif mask.is_causal and not mask.is_placed:
        one = jnp.zeros((len(q), 1, mask.query_length), jnp.int32), jnp.zeros((len(q), 1, mask.key_length), jnp.int32)
        out, left = _in_order(over, given, mask, one, chunk)
    elif mask.is_causal:
        out, left = _aligned(over, given, mask, chunk)
    else:
        out, left = _whole(rule_of, constants, write, given, mask), None
    out = out.astype(v.dtype)
    return (out, left) if leaves_state else out


def meets(shards: Shards, mask: Mask) -> bool:
    """Whether `attend` takes a part of a sequence that is split over devices, by a rule that knows no order in time.

    What devices send is one state, some times over. Segments may return in any part, and offsets put queries beside
    the keys of another device: these it does not take.
    """
    return mask.segments is None and (not mask.is_causal or shards.are_beside(mask))


def start(
    rule_of: Callable, constants: Any, batch: int, num_heads: int, head_dim: int, value_dim: int, dtype, tokens=None
) -> State:
    """The state before the first token: leaves lead with [B, heads], in float32 at least.

    Args:
      rule_of: as in `attend`, and so are `constants`.
      batch: examples.
      num_heads: of those that have a state each.
      head_dim: H. value_dim: Hv.
      dtype: of keys and values.
      tokens: the shapes of what a token brings to one head, by name.

    Example:
      >>> from attnzoo.engines import recurrence
      >>> from attnzoo.engines.state import Channels, Write
      >>> rule_of = lambda constants: recurrence.Rule(lambda q, at: (q,), lambda k, v, at: Write((v,), (Channels(k),)))
      >>> [sums] = recurrence.start(rule_of, (), batch=1, num_heads=2, head_dim=8, value_dim=3, dtype=jnp.bfloat16)
      >>> sums.totals[0].shape, sums.totals[0].dtype.name
      ((1, 2, 8, 3), 'float32')
    """
    given: Callable[..., Any] = lambda *shape: jax.ShapeDtypeStruct((1, 1, 1, *shape), dtype)
    brought = {name: given(*shape) for name, shape in (tokens or {}).items()}
    one = Sequence(given(head_dim), given(head_dim), given(value_dim), brought)
    return _empty(_write_of(rule_of, constants, one), batch, num_heads)


def step(rule_of: Callable, constants: Any, found: State, q, k, v, positions, call: Call) -> tuple[State, jax.Array]:
    """The tokens that come next, of all heads: the state with them, and their outputs [B, t, N, Hv].

    Args:
      rule_of: as in `attend`, and so are `constants`.
      found: leaves lead with [B, K], or with [B, N] where each query head has a state of its own.
      q: [B, t, N, H]. k: [B, t, K, H]. v: [B, t, K, Hv].
      positions: int [B, t], -1 for padding, which stands at the end.
      call: what tokens bring to `Rule.write`.

    Example:
      >>> from attnzoo import Mask
      >>> from attnzoo.contract.call import Call
      >>> from attnzoo.engines import recurrence
      >>> from attnzoo.engines.state import Channels, Write
      >>> def sums(constants):  # o_i = sum_j (q_i . k_j) v_j over what query i sees
      ...     return recurrence.Rule(lambda q, at: (q,), lambda k, v, at: Write((v,), (Channels(k),)))
      >>> state = recurrence.start(sums, (), batch=1, num_heads=2, head_dim=8, value_dim=8, dtype=jnp.float32)
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> call = Call(Mask(4, 4, is_causal=True))
      >>> step = jax.jit(lambda *given: recurrence.step(sums, (), *given, call))
      >>> state, out = step(state, q, k, v, jnp.array([[0, 1, 2, -1]]))
      >>> out[0, :3, 0, 0].tolist(), state[0].totals[0][0, 0, 0, 0].item()  # the last one is padding
      ([8.0, 16.0, 24.0], 3.0)
    """
    given = Sequence(q, k, v, call.tokens)
    slots = Slots(positions, positions, positions >= 0, steps=positions >= 0)
    own = jax.tree.leaves(found)[0].shape[1]
    (left, _), out = _advance(rule_of, constants, own, _in_turn, (found, None), given, slots)
    return left, out


def _as_pairs(over: Callable, given: Sequence, mask: Mask):
    """All in one chunk, of whose tokens each meets each: there is no state, and no order that would matter."""
    rows, columns = np.arange(mask.query_length), np.arange(mask.key_length)
    at = lambda mask: mask.at(rows, columns)
    if jax.tree.leaves(mask):
        each = jax.tree.map(lambda x: jnp.broadcast_to(x[:, 0], (len(given.q), *x.shape[2:])), mask)
        visible = jax.vmap(at)(each)
    else:
        visible = at(mask)[None]
    slots = Slots(rows[None] + mask.query_offset, columns[None], visible)
    out, left = over(jax.tree.map(lambda x: x[None], given), jax.tree.map(lambda x: x[None], slots), _seen)
    return out[0], left


def _seen(slots: Slots) -> Standing:
    """Who sees what where it is known of each pair."""
    return Standing(slots.shown)


def _in_turn(slots: Slots) -> Standing:
    """Who sees what where a query sees what came before it, of its segment."""
    inside = np.tri(slots.key_at.shape[-1], dtype=bool)
    inside = inside if slots.shown is None else inside & slots.shown[None]
    if slots.segment is None:
        return Standing(inside, None, slots.shown, None, slots.steps, slots.key_at)
    inside &= slots.segment[:, None] == slots.segment[None]
    finds = (slots.segment == slots.found) & (slots.key_at >= 0)
    standing = Standing(inside, finds, steps=slots.steps, at=slots.key_at)
    return _leaving(standing, slots, slots.segment[-1])


def _leaving(standing: Standing, slots: Slots, segment: jax.Array) -> Standing:
    """The same, of which the state of one segment is left."""
    return standing._replace(writes=slots.shown & (slots.segment == segment), lasts=slots.found == segment)


def _whole(rule_of, constants, write: Write, given: Sequence, mask: Mask) -> jax.Array:
    """Every query sees every key that is shown."""
    left = _state_of_keys(rule_of, constants, write, given, mask)
    return _recalled(rule_of, constants, write, given, mask, left)


def _state_of_keys(rule_of, constants, write: Write, given: Sequence, mask: Mask) -> State:
    """The state that all keys leave which are shown, in any order: leaves lead with [B, heads that have one]."""
    own = _state_heads(constants, given)

    def one_head(_, k, v, constants, tokens, shown):
        standing = Standing(np.ones((1, len(k)), bool), writes=shown)
        written = rule_of(constants).write(heads.precise(k), heads.precise(v), jnp.arange(len(k)), **tokens)
        return jax.tree.map(lambda x: x[None], state.meet(None, written, standing).after())

    constants, tokens = _by_head(constants, given, own)
    like = given.k if own == given.k.shape[2] else given.q[:, :1]
    per_head = constants, tokens, mask.keys
    left = heads.over_heads(one_head, like, given.k, given.v, per_head, numbers=_numbers(write, given))
    return jax.tree.map(lambda x: x[:, 0], left)


def _recalled(rule_of, constants, write: Write, given: Sequence, mask: Mask, left: State) -> jax.Array:
    """What all queries read from a state, [B, T, N, Hv]."""

    def one_head(q, _, __, constants, left, at):
        rule = rule_of(constants)
        return rule.finish(state.recall(left, rule.read(heads.precise(q), at)))

    num_heads = given.q.shape[2]
    left = jax.tree.map(lambda x: jnp.repeat(x, num_heads // x.shape[1], axis=1), left)
    constants, _ = _by_head(constants, given, num_heads)
    unused, at = (given.k[:, :1], given.v[:, :1]), jnp.reshape(_stands(mask), (-1, 1, mask.query_length))
    return heads.over_heads(one_head, given.q, *unused, (constants, left, at), numbers=_numbers(write, given))


def _of_all(shards: Shards, own: State) -> State:
    """The state of the keys of all devices."""

    def sums(own: Sums) -> Sums:
        scaled = own if own.top is None else own.beside(shards.gathered(own.top[None], 0).max(axis=0))
        return Sums(shards.summed(scaled.totals), scaled.top)

    return tuple(map(sums, own))


def _of_those_before(shards: Shards, own: State) -> State:
    """The state of the keys of all devices before this one, by messages over twice the distance of those before."""
    tops = [None if x.top is None else jnp.full_like(x.top, state.LOWEST) for x in own]
    nothing = tuple(Sums(jax.tree.map(jnp.zeros_like, x.totals), top) for x, top in zip(own, tops, strict=True))

    def of(distance, before):
        there = shards.index >= distance
        return jax.tree.map(lambda x, y: jnp.where(there, x, y), shards.of_neighbour(before, -distance), nothing)

    upto, distance = own, 1
    while distance < shards.count:
        upto, distance = state.united(of(distance, upto), upto), 2 * distance
    return of(1, upto)


def _by_head(constants, given: Sequence, num_heads: int) -> tuple[Any, dict[str, jax.Array]]:
    """Constants, and what tokens bring, led by [1 or B, 1 or heads]."""
    brought = lambda x: jnp.moveaxis(heads.precise(jnp.repeat(x, num_heads // x.shape[2], axis=2)), 2, 1)
    return jax.tree.map(lambda x: x[None], constants), jax.tree.map(brought, given.tokens)


def _numbers(write: Write, given: Sequence) -> int:
    """That queries and keys of one head have in the widest channels."""
    return (given.q.shape[1] + given.k.shape[1]) * max(channels.key.shape[-1] for channels in write.channels)


def _aligned(over: Callable, given: Sequence, mask: Mask, chunk: int):
    """Without segments: causal, where query i stands beside key i + offset and chunks go in pairs, or all in one."""
    offset, length, key_length = mask.place, mask.query_length, mask.key_length
    before = min(length, max(0, -offset))
    lead = min(max(0, offset), key_length)
    beyond = max(0, offset) - lead  # queries beyond all keys stand right behind these, however far away they are
    end, last = lead + length - before, max(key_length, lead + length - before)
    chunk = max(1, min(chunk, last))  # a short sequence is one chunk, as long as it is
    chunks = -(-last // chunk)
    cut = functools.partial(_cut, chunks=chunks, chunk=chunk)
    places = jnp.arange(chunks * chunk).reshape(chunks, 1, chunk)
    steps = (places < last) + beyond * (places == lead)
    at = places + beyond * (places >= lead)
    shown = None if mask.keys is None else cut(mask.keys[:, 0])
    if shown is None and end > key_length:
        shown = cut(np.ones((1, key_length), bool))  # what fills the last chunk is hidden from queries that reach it
    q, *keys = given
    tokens = Sequence(cut(q[:, before:], lead=lead), *jax.tree.map(cut, keys))
    out, left = over(tokens, Slots(at, at, shown, steps=steps), _in_turn)
    return jnp.pad(_uncut(out)[:, lead:end], ((0, 0), (before, 0), (0, 0), (0, 0))), left


def _in_order(over: Callable, given: Sequence, mask: Mask, segments: tuple[jax.Array, jax.Array], chunk: int):
    """With segments: keys and queries as one sequence of events, in the order of ids and positions."""
    query_ids, key_ids = (ids[:, 0] for ids in segments)
    at = jnp.broadcast_to(_stands(mask), query_ids.shape)
    stands = at if mask.is_causal else jnp.full(query_ids.shape, mask.key_length)
    shown = jnp.ones(key_ids.shape, bool) if mask.keys is None else jnp.broadcast_to(mask.keys[:, 0], key_ids.shape)
    events = jax.vmap(
        functools.partial(_events, chunk=max(1, min(chunk, mask.query_length + mask.key_length))), out_axes=(1, 0, 0)
    )
    slots, queries, keys = events(query_ids, key_ids, at, stands, shown)
    q, *rest = given
    among = lambda order, x: jax.vmap(Order.grouped, out_axes=1)(order, x)
    tokens = Sequence(among(queries, q), *jax.tree.map(functools.partial(among, keys), rest))
    out, left = over(tokens, slots, _in_turn)
    return jax.vmap(Order.restored, (0, 1))(queries, out), left


def _stands(mask: Mask) -> jax.Array:
    """Where queries stand, [T], or [B or 1, T]."""
    return jnp.arange(mask.query_length) + mask.query_offset


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


def _cut(x: jax.Array | np.ndarray, chunks: int, chunk: int, lead: int = 0) -> jax.Array:
    """[B, L, ...] -> [chunks, B, chunk, ...], with `lead` positions before the first."""
    behind = chunks * chunk - lead - x.shape[1]
    padded = jnp.pad(x, [(0, 0), (lead, behind)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(padded.reshape(x.shape[0], chunks, chunk, *x.shape[2:]), 1, 0)


def _uncut(x: jax.Array) -> jax.Array:
    """[chunks, B, chunk, ...] -> [B, chunks * chunk, ...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


def _scan(
    rule_of,
    constants,
    write: Write,
    given: Sequence,
    slots: Slots,
    standing_of,
    *,
    found: State | None,
    leaves_state: bool,
):
    """Outputs [chunks, B, t, N, Hv], and the state that is left where it is asked for."""
    own = _state_heads(constants, _first(given)) if found is None else jax.tree.leaves(found)[0].shape[1]
    if len(given.q) == 1 and found is None and not leaves_state:
        return _advance(rule_of, constants, own, standing_of, None, *_first((given, slots)))[1][None], None
    if found is None:
        found = _empty(write, given.q.shape[1], own)
    kept = found if leaves_state and slots.segment is not None else None
    advance = lambda carry, chunk: _advance(rule_of, constants, own, standing_of, carry, *chunk)
    start = varying.as_of((found, kept), given)
    (left, kept), out = jax.lax.scan(jax.checkpoint(advance), start, (given, slots))
    return out, left if kept is None else kept


def _advance(rule_of, constants, own: int, standing_of: Callable, carry, given: Sequence, slots: Slots):
    """One chunk of all heads: the carry with it, and its outputs [B, t, N, Hv].

    Chunks keep the layout [B, t, N, H] of the whole; heads are moved outward one chunk at a time, in cache.

    Args:
      own: how many heads have a state of their own.
      standing_of: who sees what, from the slots of one chunk.
      carry: the state that is found, and the last one of the segment that is asked for, if any; None where a chunk is
        alone.
    """
    batch, _, num_heads, _ = given.q.shape

    def head(constants, carry, q, k, v, tokens, slots):
        """The heads of queries [g, t, H] that share a state."""
        rule = rule_of(constants)
        write, standing = rule.write(k, v, slots.key_at, **tokens), standing_of(slots)
        chunk = state.meet(None if carry is None else carry[0], write, standing)
        read = lambda q: rule.finish(chunk.read(rule.read(q, slots.query_at)))
        return None if carry is None else _left(chunk, carry[1], slots), heads.over_axis(read, len(q))(q)

    def example(carry, given, slots):
        q, *rest = jax.tree.map(lambda x: jnp.moveaxis(heads.precise(x), 1, 0), given)
        k, v, tokens = jax.tree.map(lambda x: jnp.repeat(x, own // len(x), axis=0), rest)
        each = heads.over_axis(functools.partial(head, slots=slots), own)
        carry, out = each(constants, carry, q.reshape(own, -1, *q.shape[1:]), k, v, tokens)
        return carry, jnp.moveaxis(out.reshape(num_heads, *out.shape[2:]), 0, 1)

    return heads.over_axis(example, batch)(carry, given, slots)


def _left(chunk: state.Chunk, kept: State | None, slots: Slots) -> tuple[State, State | None]:
    """The state after a chunk, and the last one of the segment that is asked for."""
    if kept is None:
        return chunk.after(), None
    wanted = state.meet(chunk.found, chunk.write._replace(rate=None), _leaving(chunk.standing, slots, slots.wanted))
    is_here = jnp.any(slots.segment == slots.wanted)
    return chunk.after(), jax.tree.map(lambda new, old: jnp.where(is_here, new, old), wanted.after(), kept)


def _state_heads(constants, given: Sequence) -> int:
    """How many heads have a state of their own: those of keys, unless those of queries differ in more than queries."""
    key_heads = given.k.shape[2]
    is_shared = _is_shared(constants) and all(x.shape[2] == key_heads for x in jax.tree.leaves(given.tokens))
    return key_heads if is_shared else given.q.shape[2]


def _write_of(rule_of, constants, given: Sequence) -> Write:
    """The shapes of what one token writes to one head."""

    def write(constants, k, v, tokens):
        k, v, tokens = jax.tree.map(lambda x: heads.precise(x[0, :, 0]), (k, v, tokens))
        return rule_of(_first(constants)).write(k, v, jnp.arange(len(k)), **tokens)

    return jax.eval_shape(write, constants, *given[1:])


def _empty(write: Write, batch: int, num_heads: int) -> State:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, num_heads, *x.shape)), state.empty(write))


def _has_order(write: Write) -> bool:
    """Whether it matters to the state in which order tokens come."""
    return write.rate is not None or any(channels.log_decay is not None for channels in write.channels)


def _is_shared(constants) -> bool:
    """Whether all heads have the same constants."""
    return all(x.shape[0] == 1 for x in jax.tree.leaves(constants))


def _first(tree):
    return jax.tree.map(lambda x: x[0], tree)
