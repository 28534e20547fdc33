"""What a rule does with rows, told to kernels of a Hopper GPU, and the numbers beside them, made of all tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.engines import state
from attnzoo.engines.fused.carried import Carried, Learned, is_real
from attnzoo.engines.fused.hopper import channels as hopper_channels
from attnzoo.engines.fused.hopper import channels_delta, delta, gains, rows, whole
from attnzoo.engines.fused.hopper.ends import unit
from attnzoo.engines.fused.hopper.recurrence import LOWEST
from attnzoo.engines.fused.hopper.recurrence import State as Found
from attnzoo.engines.fused.hopper.rows import Parted
from attnzoo.engines.fused.hopper.warpgroups import clipped
from attnzoo.engines.fused.hopper.whole import Given, How
from attnzoo.engines.slots import Sequence, Slots
from attnzoo.engines.state import Standing, Write

HANDED_ON = Parted(None, [], [])
QUERY, KEY, VALUE = 2, 3, 4  # among operands


def of(
    carried: Carried,
    learned: Learned,
    given: Sequence,
    scale: float | None,
    found: Found | None,
    by_channel: jax.Array | None,
    interpret: Any,
) -> tuple[How, Given] | None:
    """A call as kernels are told it, whether or not it fits one; None where it cannot be told.

    Args:
      scale: by which queries read, if they do with nothing else.
      found: the state of each head of queries.
      by_channel: logarithms of decays that channels have of their own, [B, T', heads that have a state, F].
    """
    rule = _Rule(carried, learned, given)
    queries = HANDED_ON if scale is not None else rule.parted(rule.read, QUERY)
    keys, values, finish = rule.parted(rule.key, KEY), rule.parted(rule.value, VALUE), rule.finish()
    if queries is None or keys is None or finish is None or values is None or values.rows is not None:
        return None
    if finish.fixed or finish.known:
        return None
    if rule.is_counted and not rule.is_fixed(rule.one):
        return None
    dtype = carried.given.q.dtype
    scale, (matrices, *which) = 1.0 if scale is None else scale, rule.matrices(queries, keys)
    how = How(queries.rows, keys.rows, finish.rows, scale, interpret, *which)
    (one,) = rule.numbers(rule.one) if rule.is_counted else [None]
    if by_channel is not None:
        decays: Any = clipped(by_channel.astype(dtype), carried.ends[1], unit(*carried.given[:3]))
    else:
        (decays,) = rule.numbers(rule.log_decay) if rule.forgets else [None]
    beside = rule.beside(rule.read, queries), rule.beside(rule.key, keys)
    q, k, v = clipped_of(carried, given[:3], dtype)
    (rate,) = rule.numbers(rule.rate) if rule.is_corrected else [None]
    whole_given = Given(_filled(q, queries), _filled(k, keys), v, *beside, one, decays, found, rate, matrices)
    return None if matrices and kernels_of(whole_given) is not whole else (how, whole_given)


def gained(
    carried: Carried, learned: Learned, given: Sequence, found: gains.Found | None, interpret: Any
) -> tuple[How, Given]:
    """A call of keys with gains as its kernels take it.

    Raises:
      NotImplementedError: they do not know what a rule does with rows.
    """
    rule = _Rule(carried, learned, given)
    all_told: Any = rule.parted(rule.read, QUERY), rule.parted(rule.gained_key, KEY), rule.finish()
    is_told = all(x is not None and x.rows is not None for x in all_told)
    if (
        not is_told
        or rule.parted(rule.value, VALUE) != HANDED_ON
        or not rule.is_fixed(rule.one)
        or not rule.is_fixed(rule.plain)
    ):
        raise NotImplementedError("keys with gains: a kernel of a Hopper GPU does not know how features are made here")
    queries, keys, finish = all_told
    matrices, *which = rule.matrices(queries, keys)
    how = How(queries.rows, keys.rows, finish.rows, 1.0, interpret, *which)
    (one,), (plain,) = rule.numbers(rule.one), rule.numbers(rule.plain)
    beside = rule.beside(rule.read, queries), rule.beside(rule.gained_key, keys)
    q, k, v = clipped_of(carried, given[:3], carried.given.q.dtype)
    return how, Given(q, k, v, *beside, one, found=found, matrices=matrices, plain=plain)


def _filled(x: jax.Array, part: Parted) -> jax.Array:
    """Rows as wide as the kernel is to have them."""
    width = x.shape[3] if part.rows is None else part.rows.width
    return x if width == x.shape[3] else jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[3])))


def clipped_of(carried: Carried, rows: Any, dtype: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows of queries, keys and values [B, T', heads, W], or of what was made of them, as kernels read them."""
    queries, keys = carried.ends
    q, k, v = (x.astype(dtype) for x in rows)
    own = unit(q, k, v)
    return clipped(q, queries, own), clipped(k, keys, own), clipped(v, keys, own)


def kernels_of(given: Given) -> Any:
    """Those of a recurrence, of the delta rule, of decays by channel, or of both."""
    if given.log_decay is None or given.log_decay.ndim == 3:
        return whole if given.rate is None else delta
    return hopper_channels if given.rate is None else channels_delta


def log_decay(write: Write, slots: Slots) -> jax.Array | None:
    """Logarithms of what each token leaves of the state [t], or of channels [t, F]: nothing where a segment begins."""
    channels, decay = write.channels[0], None
    if channels.log_decay is not None:
        decay = state.decays(channels, Standing(np.ones((1, 1), bool), steps=slots.steps))
    if slots.segment is None:
        return decay
    goes_on = jnp.diff(slots.segment, prepend=slots.segment[:1]) == 0
    return state.where(goes_on, jnp.zeros(len(goes_on), jnp.float32) if decay is None else decay, LOWEST)


class _Operands(NamedTuple):
    """What a rule is given: shapes of one head's, or arrays that lead with [B or 1, heads or 1]."""

    constants: Any
    closed: Any
    query: Any
    key: Any
    value: Any
    tokens: Any
    slots: Any

    @staticmethod
    def of(carried: Carried, learned: Learned, given: Sequence) -> _Operands:
        by_head = lambda x: jnp.moveaxis(x, 2, 1)
        query = given.q.reshape(*given.q.shape[:2], carried.own, -1, given.q.shape[3])[:, :, :, 0]
        q, k, v, tokens = jax.tree.map(by_head, (query, *given[1:]))
        return _Operands(
            jax.tree.map(lambda x: x[None], learned.constants),
            [x[None, None] for x in learned.closed],
            q,
            k,
            v,
            tokens,
            jax.tree.map(lambda x: x.reshape(len(x), 1, -1), carried.slots._replace(found=None, wanted=None)),
        )

    def one(self, tokens: int | None = None) -> _Operands:
        """The shapes of one head's, of so many tokens."""
        shape = jax.ShapeDtypeStruct
        fixed = jax.tree.map(lambda x: shape(x.shape[2:], x.dtype), self[:2])
        of_tokens = lambda x: shape((x.shape[2] if tokens is None else tokens, *x.shape[3:]), x.dtype)
        return _Operands(*fixed, *jax.tree.map(of_tokens, self[2:]))


class _Rule:
    """What a rule does with the tokens of one head, as functions of `_Operands`, and with those of all."""

    def __init__(self, carried: Carried, learned: Learned, given: Sequence):
        self.carried, self.all = carried, _Operands.of(carried, learned, given)
        self.group = given.q.shape[2] // carried.own
        write = jax.eval_shape(self._write, *self.all.one())
        self.is_counted, self.is_corrected = len(write.values) > 1, write.rate is not None
        self.forgets = carried.slots.segment is not None or write.channels[0].log_decay is not None

    def _write(self, *operands: Any) -> Write:
        constants, closed, _, key, value, tokens, slots = operands
        return self.carried.write(constants, closed, Sequence(key, key, value, tokens), slots)

    def read(self, *operands: Any) -> list[jax.Array]:
        """What queries read with, by groups of channels."""
        constants, closed, query, *_, slots = operands
        read = self.carried.read(constants, closed, query, slots)
        shown = None if slots.segment is None else slots.key_at >= 0  # others stand before all keys
        return [state.where(shown, x) for x in read]

    def key(self, *operands: Any) -> list[jax.Array]:
        """What tokens write by, likewise."""
        return [state.where(operands[-1].shown, channels.key) for channels in self._write(*operands).channels]

    def gained_key(self, *operands: Any) -> list[jax.Array]:
        """What tokens write channels with gains by, and these."""
        key, _, gain = self._write(*operands).channels[0]
        assert gain is not None
        return [state.where(operands[-1].shown, key), state.where(operands[-1].shown, gain, state.LOWEST)]

    def plain(self, *operands: Any) -> list[jax.Array]:
        """By which they write the channel without gains."""
        return [state.where(operands[-1].shown, self._write(*operands).channels[1].key)[:, 0]]

    def value(self, *operands: Any) -> list[jax.Array]:
        """What they write."""
        return [self._write(*operands).values[0]]

    def one(self, *operands: Any) -> list[jax.Array]:
        """What stands beside that."""
        return [self._write(*operands).values[1]]

    def rate(self, *operands: Any) -> list[jax.Array | None]:
        """How much of what the state lacks is written, by the delta rule."""
        return [self._write(*operands).rate]

    def log_decay(self, *operands: Any) -> list[jax.Array | None]:
        """What is left of the state."""
        return [log_decay(self._write(*operands), operands[-1])]

    def parted(self, function: Callable, place: int) -> Parted | None:
        """What a kernel does of it with rows of queries, keys or values."""
        number = len(jax.tree.leaves(self.all[:place]))
        return rows.parted(function, self.all.one, [number])

    def finish(self) -> Parted | None:
        """The same of outputs, from what was read."""
        constants, closed, *_ = self.all.one()

        def like(tokens: int):
            totals = self.carried.empty()[0].totals
            return constants, closed, [jax.ShapeDtypeStruct((tokens, *x.shape[1:]), jnp.float32) for x in totals]

        finished = lambda constants, closed, read: [self.carried.finish(constants, closed, tuple(read))]
        before = len(jax.tree.leaves((constants, closed)))
        found = rows.parted(finished, like, [before + i for i in range(1 + self.is_counted)])
        return None if found is None or found.places or (found.rows is None and self.is_counted) else found

    def is_fixed(self, function: Callable) -> bool:
        """Whether numbers of tokens depend on nothing that there is a gradient by."""
        leaves = jax.tree.leaves(self.all)
        return not any(is_real(leaves[i]) for read in rows.read_by(function, self.all.one()) for i in read)

    def beside(self, function: Callable, part: Parted) -> list[jax.Array]:
        """What a kernel needs beside rows, float32 [B or 1, N or 1, T] each."""
        made = lambda *leaves: rows.beside(function, self.all.one(), leaves, part.places)
        return self._of_all(made, part.read)

    def matrices(self, queries: Parted, keys: Parted) -> tuple[list[jax.Array], tuple[int, ...], tuple[int, ...]]:
        """What kernels hold for both programs, [1, N or 1, F, W], or [1, 1, F] of vectors, and which each needs."""
        dtype, leaves = self.carried.given.q.dtype, jax.tree.leaves(self.all)
        by_head = lambda x: x if x.shape[1] == 1 else jnp.repeat(x, self.group, axis=1)
        fixed = list(dict.fromkeys((*queries.fixed, *keys.fixed)))
        known = {(x.shape, x.tobytes()): x for x in (*queries.known, *keys.known)}
        as_held = lambda x: jnp.asarray(x, dtype if x.ndim > 1 else jnp.float32)[None, None]
        held = [*(by_head(leaves[i]).astype(dtype) for i in fixed), *map(as_held, known.values())]
        places = {key: i for i, key in enumerate((*fixed, *known))}
        which = [(*part.fixed, *((x.shape, x.tobytes()) for x in part.known)) for part in (queries, keys)]
        of_read, of_key = (tuple(places[x] for x in each) for each in which)
        return held, of_read, of_key

    def numbers(self, function: Callable) -> list[jax.Array]:
        """Numbers of tokens, likewise."""
        structure = jax.tree.structure(self.all)
        made = lambda *leaves: [x.astype(jnp.float32) for x in function(*jax.tree.unflatten(structure, leaves))]
        return self._of_all(made, rows.read_by(function, self.all.one()))

    def _of_all(self, made: Callable, read: list[frozenset[int]]) -> list[jax.Array]:
        """`made(*leaves)` of each head of queries, or of one where they are alike."""
        leaves = jax.tree.leaves(self.all)

        def of_each(number: int) -> jax.Array:
            sizes = tuple(max([leaves[i].shape[axis] for i in read[number]], default=1) for axis in (0, 1))
            own = [jnp.broadcast_to(x[: sizes[0], : sizes[1]], (*sizes, *x.shape[2:])) for x in leaves]
            found = jax.vmap(jax.vmap(lambda *one: made(*one)[number]))(*own)
            return jnp.repeat(found, self.group, axis=1) if sizes[1] > 1 else found

        return list(map(of_each, range(len(read))))
