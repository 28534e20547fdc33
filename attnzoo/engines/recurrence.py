"""Recurrences over a sequence: chunks of tokens one after another or all at once, or sums over all of them.

What a state is, and how tokens write and read it, is in `state.py`; here sequences are laid out for it. Work and memory
are O(T + S). Where all queries see the same keys, one state is all they read. Else they go in chunks (Hua et al. 2022,
arXiv:2202.10447), which are laid out in `slots.py`.

On a CPU chunks come one after another, in cache. An accelerator would wait for each of them: there all make their
transitions at once, which are composed (`transitions.py`), and all are read at once. Devices that have parts of a
sequence hand on theirs. Where kernels of ours are asked for, one goes over chunks, or two sum keys and read what was
summed (`fused/chunks.py`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract import varying
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Mask
from attnzoo.contract.shards import Shards
from attnzoo.engines import heads, state, transitions
from attnzoo.engines.fused import chunks, way
from attnzoo.engines.fused.way import Asked
from attnzoo.engines.slots import Laid, Sequence, Slots, are_runs, in_turn, laid_out, leaving, sees_all
from attnzoo.engines.state import Standing, State, Sums, Write
from attnzoo.engines.transitions import Transition

# Measured on a CPU at 64 features and 8 heads: forward, 64 takes two thirds of the time of 128.
CHUNK = 64


class Rule(NamedTuple):
    """The recurrence of one head. Its operands are in float32 at least.

    Attributes:
      read: (queries [t, H], their positions [t]) -> what each channels of the state are read with, [t, F] each, or
        [G, t, F] of groups.
      write: (keys [s, H], values [s, Hv], their positions [s], and what tokens bring by keyword) -> `Write`.
      finish: what was read, [t, ...] of each of the values -> the output [t, Hv].
      powers: width of heads H -> (c_0, c_1, ...), where what a query reads with and what a key is written by say so of
        their product: it is c_0 + c_1 (q . k) + c_2 (q . k)^2 + ..., of numbers that nothing is learned of. A kernel
        may make use of it, and of no features.

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
    powers: Callable[[int], tuple[Any, ...]] | None = None


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
    at_once: bool | None = None,
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
      at_once: whether all chunks meet their states at once, or one after another; None for what suits the device.

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
    given, mask, shards = Sequence(q, k, v, call.tokens), call.mask, call.shards
    write = _write_of(rule_of, constants, given)
    is_ordered = _is_ordered(write)
    has_order = is_ordered or found is not None or leaves_state
    if has_order and not mask.is_causal:
        raise ValueError(
            "every query sees every key, but decays, the delta rule, and states that are found or left stand for an "
            "order in time: expected a causal mask; a kernel with such a rule declares bidirectional=False"
        )
    own = _state_heads(constants, given) if found is None else jax.tree.leaves(found)[0].shape[1]
    if (asked := way.asked()) is not None:
        run = Chunks(rule_of, constants, own, in_turn, write).rounding(q)
        return _by_kernel(asked, run, given, call, found, leaves_state=leaves_state)
    stands = jnp.arange(q.shape[1]), jnp.arange(k.shape[1])
    stands = stands if shards is None else shards.indices(*map(len, stands))
    of_keys = functools.partial(_state_of_keys, rule_of, constants, write, given, stands[1])
    recalled = functools.partial(_recalled, rule_of, constants, write, given, stands[0][None] + mask.query_offset)
    if sees_all(mask) and (shards is not None or max(map(len, stands)) > chunk):
        own_keys = of_keys(mask.keys)
        return recalled(own_keys if shards is None else _of_all(shards, own_keys)).astype(v.dtype)
    laid = laid_out(given, mask, chunk, in_pairs=not has_order, before=_segment_before(shards, mask))
    run = Chunks(rule_of, constants, own, laid.standing_of, write, at_once)
    if shards is not None:
        laid = laid.moved(stands[0][0])
    if shards is not None and mask.is_causal:
        is_sum = not is_ordered and mask.segments is None
        own_tokens = Transition(of_keys(mask.keys), (None,) * len(write.channels)) if is_sum else run.transition(laid)
        before = transitions.of_those_before(shards, own_tokens)
        found = before.written if found is None else before.of(found)
    out, left = run.met(laid, found, leaves_state=leaves_state)
    out = laid.restored(out)
    if shards is not None and not mask.is_causal:
        out = _beside_others(shards, mask, of_keys, recalled, out)
    out = out.astype(v.dtype)
    return (out, left) if leaves_state else out


def _by_kernel(asked: Asked, run: Chunks, given: Sequence, call: Call, found: State | None, *, leaves_state: bool):
    """As `attend`, by a kernel of ours, which is asked for."""
    reasons = {
        "a sequence that is split over devices": call.shards is not None,
        "the state of one segment beside others": leaves_state and call.mask.segments is not None,
    }
    declined = [f"{name} is asked for, which it is not given here" for name, is_there in reasons.items() if is_there]
    out, left = chunks.attend(asked, run, given, call.mask, found, declined)
    return (out, left) if leaves_state else out


def meets(shards: Shards, mask: Mask) -> bool | jax.Array:
    """Whether `attend` takes a part of a sequence that is split over devices.

    What devices send is one state, or what their tokens do to one, some times over. Offsets put queries beside the keys
    of another device: these it does not take. Nor does it take segments that return, which would need a state each:
    whether they do is known once the program runs. Of those that are runs of tokens, as packed documents are, a device
    shares two with others at most, its first and its last.
    """
    if sees_all(mask):
        return True
    is_beside = shards.are_beside(mask)
    if not is_beside or mask.segments is None:
        return is_beside
    of_queries, of_keys = mask.segments
    whole = shards.gathered(of_keys, 2)[..., : shards.key_length]
    return shards.agreed(jnp.all(of_queries == of_keys) & jnp.all(are_runs(whole)))


def _segment_before(shards: Shards | None, mask: Mask) -> jax.Array | None:
    """The segment of the last token of the device before this one, where `meets` has found them to be runs and the
    future is hidden.
    """
    if shards is None or mask.segments is None or not mask.is_causal:
        return None
    return shards.of_neighbour(mask.segments[1][:, 0, -1], -1)


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
    run = Chunks(rule_of, constants, own, in_turn, _write_of(rule_of, constants, given))
    (left, _), out = run.advanced((found, None), given, slots)
    return left, out


def _state_of_keys(rule_of, constants, write: Write, given: Sequence, stands: jax.Array, shown) -> State:
    """The state that all keys leave which are shown, in any order: leaves lead with [B, heads that have one].

    Args:
      shown: bool [B or 1, 1, S], or None for all.
    """
    own = _state_heads(constants, given)

    def one_head(_, k, v, constants, tokens, shown):
        standing = Standing(np.ones((1, len(k)), bool), writes=shown)
        written = rule_of(constants).write(heads.precise(k), heads.precise(v), stands, **tokens)
        return jax.tree.map(lambda x: x[None], state.meet(None, written, standing).after())

    constants, tokens = _by_head(constants, given, own)
    like = given.k if own == given.k.shape[2] else given.q[:, :1]
    per_head = constants, tokens, shown
    left = heads.over_heads(one_head, like, given.k, given.v, per_head, numbers=_numbers(write, given))
    return jax.tree.map(lambda x: x[:, 0], left)


def _recalled(rule_of, constants, write: Write, given: Sequence, stands: jax.Array, left: State) -> jax.Array:
    """What all queries at positions [B or 1, T] read from a state, [B, T, N, Hv]."""

    def one_head(q, _, __, constants, left, at):
        rule = rule_of(constants)
        return rule.finish(state.recall(left, rule.read(heads.precise(q), at)))

    num_heads = given.q.shape[2]
    left = jax.tree.map(lambda x: jnp.repeat(x, num_heads // x.shape[1], axis=1), left)
    constants, _ = _by_head(constants, given, num_heads)
    unused, at = (given.k[:, :1], given.v[:, :1]), stands[:, None]
    return heads.over_heads(one_head, given.q, *unused, (constants, left, at), numbers=_numbers(write, given))


def _of_all(shards: Shards, own: State) -> State:
    """The state of the keys of all devices."""

    def sums(own: Sums) -> Sums:
        scaled = own if own.top is None else own.beside(shards.gathered(own.top[None], 0).max(axis=0))
        return Sums(shards.summed(scaled.totals), scaled.top)

    return tuple(map(sums, own))


def _beside_others(shards: Shards, mask: Mask, of_keys: Callable, recalled: Callable, out: jax.Array) -> jax.Array:
    """What queries [B, T, N, Hv] have found of their segments, which are runs of tokens, on this device, and in its
    place, of the first and of the last one, what the keys of all devices leave.
    """
    assert mask.segments is not None
    of_queries, ids = mask.segments
    ends = ids[..., 0], ids[..., -1]
    shown = [ids == end[..., None] for end in ends]
    own = [of_keys(x if mask.keys is None else x & mask.keys) for x in shown]
    kept, whole = (None,) * len(own[0]), list(own)
    for direction, near, far in ((-1, 0, 1), (1, 1, 0)):
        goes_on = shards.of_neighbour(ends[far], direction) == ends[near]
        through = goes_on & (ends[0] == ends[1])
        beyond = transitions.of_those_before(shards, Transition(own[far], kept, through), direction).written
        whole[near] = Transition(whole[near], kept, goes_on).of(beyond)
        whole[far] = Transition(whole[far], kept, through).of(beyond)
    for end, left in zip(ends, whole, strict=True):
        out = jnp.where((of_queries == end[..., None])[:, 0, :, None, None], recalled(left), out)
    return out


def _by_head(constants, given: Sequence, num_heads: int) -> tuple[Any, dict[str, jax.Array]]:
    """Constants, and what tokens bring, led by [1 or B, 1 or heads]."""
    brought = lambda x: jnp.moveaxis(heads.precise(jnp.repeat(x, num_heads // x.shape[2], axis=2)), 2, 1)
    return jax.tree.map(lambda x: x[None], constants), jax.tree.map(brought, given.tokens)


def _numbers(write: Write, given: Sequence) -> int:
    """That queries and keys of one head have in the widest channels, all groups of them."""
    widths = [math.prod((*key.shape[:-2], key.shape[-1])) for key, *_ in write.channels]
    return (given.q.shape[1] + given.k.shape[1]) * max(widths)


class Chunks(NamedTuple):
    """A recurrence over chunks.

    Attributes:
      rule_of: as in `attend`, and so are `constants`.
      own: how many heads have a state of their own.
      standing_of: who sees what, from the slots of one chunk.
      write: the shapes of what one token writes to one head.
      at_once: as in `attend`.
      dtype: to which operands of products are rounded; None where they are left as they are, in float32 at least.
    """

    rule_of: Callable[[Any], Rule]
    constants: Any
    own: int
    standing_of: Callable[[Slots], Standing]
    write: Write
    at_once: bool | None = None
    dtype: Any = None

    def rounding(self, q: jax.Array) -> Chunks:
        """The same, of operands like these, as an accelerator multiplies them."""
        return self._replace(dtype=jnp.bfloat16 if q.dtype == jnp.bfloat16 else None)

    def of_head(self, constants, found: State, given: Sequence, slots: Slots) -> tuple[State, list[jax.Array]]:
        """The state of one head with one chunk, and outputs [t, Hv] of each of the queries that share it."""
        rule = self.rule_of(constants)
        write = self._written(rule, given, slots)
        by_group = write._replace(channels=state.apart(write, write.channels))
        chunk = state.meet(state.apart(write, found), by_group, self.standing_of(slots))
        read = lambda q: chunk.read(state.apart(write, self._rounded(rule.read(q, slots.query_at))))
        return state.together(write, chunk.after()), [rule.finish(read(q)) for q in given.q]

    def written(self, constants, given: Sequence, slots: Slots) -> Write:
        """What tokens of one head write."""
        return self._written(self.rule_of(constants), given, slots)

    def readers(self, constants, q: jax.Array, slots: Slots) -> tuple[jax.Array, ...]:
        """What queries [t, H] read the channels of a state with."""
        return self._rounded(self.rule_of(constants).read(q, slots.query_at))

    def finished(self, constants, read: tuple[jax.Array, ...]) -> jax.Array:
        """Outputs [t, Hv], from what was read of each of the values."""
        return self.rule_of(constants).finish(read)

    def powers(self, width: int) -> tuple[float, ...] | None:
        """By which products of queries and keys make weights; None where that is not known."""
        powers = self.rule_of(self.constants).powers
        found = () if powers is None else powers(width)
        return found if found and all(isinstance(x, int | float) for x in found) else None

    def empty(self) -> State:
        """The state of one head before the first token."""
        return state.empty(self.write)

    def met(self, laid: Laid, found: State | None, *, leaves_state: bool) -> tuple[jax.Array, State | None]:
        """Outputs [chunks, B, t, N, Hv], and the state that is left where it is asked for."""
        if found is None and not leaves_state and len(laid.given.q) == 1:
            return self.advanced(None, *_first(laid[:2]))[1][None], None
        found = varying.as_of(found, laid.given)
        in_turn = functools.partial(Chunks._met_in_turn, leaves_state=leaves_state)
        at_once = functools.partial(Chunks._met_at_once, leaves_state=leaves_state)
        return self._in_one_of(in_turn, at_once, laid, found)

    def transition(self, laid: Laid) -> Transition:
        """What all tokens do to a state that they find."""
        return self._in_one_of(Chunks._turned_in_turn, Chunks._turned_at_once, laid)

    def _in_one_of(self, in_turn: Callable, at_once: Callable, laid: Laid, *found):
        """One of two ways to the same, chosen where the program is lowered.

        At once nothing is kept for gradients but operands, which the other way keeps as well: jax has one place for
        what is of one shape in both, and so a program of a CPU keeps no more than it would without the choice.
        """
        rounded = functools.partial(at_once, self.rounding(laid.given.q))
        in_turn, at_once = functools.partial(in_turn, self), jax.checkpoint(rounded)
        operands = *laid[:2], *found
        if self.at_once is None:
            return jax.lax.platform_dependent(*operands, cpu=in_turn, default=at_once)
        return at_once(*operands) if self.at_once else in_turn(*operands)

    def _met_in_turn(self, given: Sequence, slots: Slots, found: State | None, *, leaves_state: bool):
        start = self._start(found, given)
        kept = start if leaves_state and slots.segment is not None else None
        advance = lambda carry, chunk: self.advanced(carry, *chunk)
        (left, kept), out = _scanned(advance, (start, kept), (given, slots))
        return out, (left if kept is None else kept) if leaves_state else None

    def _met_at_once(self, given: Sequence, slots: Slots, found: State | None, *, leaves_state: bool):
        each, solved = self._transitions(given, slots)
        upto, start = transitions.up_to_each(each), self._start(found, given)
        after = upto.written if found is None else upto.of(jax.tree.map(lambda x: x[None], found))
        states = jax.tree.map(lambda first, x: jnp.concatenate([first[None], x[:-1]]), start, after)

        def head(rule, carry, given, slots):
            (found, solved), write = carry, self._written(rule, given, slots)
            chunk = transitions.meeting(found, write, self.standing_of(slots), solved)
            return self._outputs(rule, chunk, given, slots)

        out = heads.over_axis(self._each(head), given.q.shape[0])((states, solved), given, slots)
        out = jax.vmap(_with_all_heads)(out)
        if not leaves_state or slots.segment is None:
            return out, jax.tree.map(lambda x: x[-1], after) if leaves_state else None
        is_here = jnp.any(slots.segment == slots.wanted[..., None], axis=-1)
        last = jnp.max(jnp.where(is_here, jnp.arange(len(is_here))[:, None], 0), axis=0)
        states, *there = jax.tree.map(lambda x: x[last, jnp.arange(len(last))], (states, given, slots))
        (_, kept), _ = self.advanced((states, start), *there)
        return out, kept

    def _turned_in_turn(self, given: Sequence, slots: Slots) -> Transition:
        step = lambda before, chunk: (self._transition(*chunk)[0].after(before), None)
        like = jax.eval_shape(lambda *chunk: self._transition(*chunk)[0], *_first((given, slots)))
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like).nothing()
        return _scanned(step, varying.as_of(start, given), (given, slots))[0]

    def _turned_at_once(self, given: Sequence, slots: Slots) -> Transition:
        return jax.tree.map(lambda x: x[-1], transitions.up_to_each(self._transitions(given, slots)[0]))

    def _transitions(self, given: Sequence, slots: Slots) -> tuple[Transition, jax.Array | None]:
        """Those of all chunks, each for itself."""
        return heads.over_axis(self._transition, given.q.shape[0])(given, slots)

    def _transition(self, given: Sequence, slots: Slots) -> tuple[Transition, jax.Array | None]:
        """That of one chunk, and how what its tokens write depends on what they find: leaves lead with [B, own]."""

        def head(rule, _, given, slots):
            return transitions.of_chunk(self._written(rule, given, slots), self.standing_of(slots))

        return self._each(head)((), given, slots)

    def advanced(self, carry, given: Sequence, slots: Slots):
        """The carry with one chunk, and its outputs [B, t, N, Hv].

        Args:
          carry: the state that is found, and the last one of the segment that is asked for, if any; None where a chunk
            is alone.
        """

        def head(rule, carry, given, slots):
            found = None if carry is None else carry[0]
            chunk = state.meet(found, self._written(rule, given, slots), self.standing_of(slots))
            return None if carry is None else _left(chunk, carry[1], slots), self._outputs(rule, chunk, given, slots)

        carry, out = self._each(head)(carry, given, slots)
        return carry, _with_all_heads(out)

    def _each(self, head: Callable) -> Callable:
        """`head(rule, carry, given, slots)` of each head that has a state, of all examples, of one chunk.

        Chunks keep the layout [B, t, N, H] of the whole; heads are moved outward one chunk at a time, in cache.
        """

        def one(constants, carry, given, slots):
            return head(self.rule_of(constants), carry, given, slots)

        def example(carry, given, slots):
            q, *rest = jax.tree.map(lambda x: jnp.moveaxis(heads.precise(x), 1, 0), given)
            rest = jax.tree.map(lambda x: jnp.repeat(x, self.own // len(x), axis=0), rest)
            by_state = Sequence(q.reshape(self.own, -1, *q.shape[1:]), *rest)
            return heads.over_axis(functools.partial(one, slots=slots), self.own)(self.constants, carry, by_state)

        return lambda carry, given, slots: heads.over_axis(example, given.q.shape[0])(carry, given, slots)

    def _written(self, rule: Rule, given: Sequence, slots: Slots) -> Write:
        write = rule.write(given.k, given.v, slots.key_at, **given.tokens)
        channels = tuple(x._replace(key=self._rounded(x.key)) for x in write.channels)
        return write._replace(values=self._rounded(write.values), channels=channels)

    def _outputs(self, rule: Rule, chunk: state.Chunk, given: Sequence, slots: Slots) -> jax.Array:
        """Of all queries that share a state: [g, t, Hv]."""
        read = lambda q: self._output(rule, chunk, q, slots)
        return heads.over_axis(read, len(given.q))(given.q)

    def _output(self, rule: Rule, chunk: state.Chunk, q: jax.Array, slots: Slots) -> jax.Array:
        return rule.finish(chunk.read(self._rounded(rule.read(q, slots.query_at))))

    def _rounded(self, tree: Any) -> Any:
        return tree if self.dtype is None else jax.tree.map(lambda x: x.astype(self.dtype), tree)

    def _start(self, found: State | None, given: Sequence) -> State:
        """The state before the first chunk."""
        if found is not None:
            return found
        return varying.as_of(_empty(self.write, given.q.shape[1], self.own), given)


def _scanned(step: Callable, carry: Any, chunks: Any) -> tuple[Any, Any]:
    """`jax.lax.scan` of leaves [chunks, B or 1, ...], which alone are kept for gradients.

    Their axis of one is taken out, for whose sake XLA would copy all of them.
    """
    is_one = lambda axis, tree: jax.tree.map(lambda x: x.shape[axis] == 1, tree)
    squeezed = lambda axis, ones, tree: jax.tree.map(lambda one, x: jnp.squeeze(x, axis) if one else x, ones, tree)
    widened = lambda axis, ones, tree: jax.tree.map(lambda one, x: jnp.expand_dims(x, axis) if one else x, ones, tree)
    given, given_out = is_one(1, chunks), []

    def bare(carry, chunk):
        carry, out = step(carry, widened(0, given, chunk))
        given_out.append(is_one(0, out))
        return carry, squeezed(0, given_out[-1], out)

    carry, out = jax.lax.scan(jax.checkpoint(bare), carry, squeezed(1, given, chunks))
    return carry, widened(1, given_out[-1], out)


def _with_all_heads(out: jax.Array) -> jax.Array:
    """[B, heads that have a state, g, t, Hv] -> [B, t, N, Hv]."""
    return jnp.moveaxis(out.reshape(out.shape[0], -1, *out.shape[3:]), 1, 2)


def _left(chunk: state.Chunk, kept: State | None, slots: Slots) -> tuple[State, State | None]:
    """The state after a chunk, and the last one of the segment that is asked for."""
    if kept is None:
        return chunk.after(), None
    wanted = state.meet(chunk.found, chunk.write._replace(rate=None), leaving(chunk.standing, slots, slots.wanted))
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

    written = jax.eval_shape(write, constants, *given[1:])
    state.check(written)
    return written


def _empty(write: Write, batch: int, num_heads: int) -> State:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, num_heads, *x.shape)), state.empty(write))


def _is_ordered(write: Write) -> bool:
    """Whether it matters to the state in which order tokens come."""
    return write.rate is not None or any(channels.log_decay is not None for channels in write.channels)


def _is_shared(constants) -> bool:
    """Whether all heads have the same constants."""
    return all(x.shape[0] == 1 for x in jax.tree.leaves(constants))


def _first(tree):
    return jax.tree.map(lambda x: x[0], tree)
