"""What a recurrence over chunks asks of a Hopper GPU.

A rule says by which numbers tokens read and write, and how outputs are finished. Where kernels can be told that, they
do it themselves (`told`). Else the program makes these numbers of all tokens at once, rounded to bfloat16, and
outputs of what the kernel has read; where queries, keys and outputs all pass through it, that moves half as much again
as the kernel. Segments stand one behind another, and the state forgets all between them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from attnzoo.contract import varying
from attnzoo.engines import heads, state
from attnzoo.engines.fused.carried import Carried, Gradients, Kept, Learned, Recurrence, is_real, states_kept
from attnzoo.engines.fused.hopper import ends, gains, gradient, meeting, powers_back, skeleton, warpgroups, whole
from attnzoo.engines.fused.hopper import powers as hopper_powers
from attnzoo.engines.fused.hopper import recurrence as hopper_recurrence
from attnzoo.engines.fused.hopper import told as hopper_told
from attnzoo.engines.fused.hopper import wide as hopper_wide
from attnzoo.engines.fused.hopper.gradient import Given, How
from attnzoo.engines.fused.hopper.warpgroups import ROWS, clipped, unclipped
from attnzoo.engines.slots import Sequence, Slots
from attnzoo.engines.state import State, Sums, Write

DTYPE = "bfloat16"  # in which sums of float16 would end
WIDEST = 128  # channels that any kernel holds, and values


def declined(given: Sequence, write: Write) -> list[str]:
    """Why the kernel cannot take a sequence of such types, and what one token of it writes."""
    reasons = warpgroups.missing()
    has_gains = any(x.log_gain is not None for x in write.channels)
    types = sorted({str(x.dtype) for x in given[:3]})
    if types != [DTYPE]:
        reasons.append(f"{' and '.join(types)}: it takes {DTYPE}")
    decays = [x.log_decay for x in write.channels if x.log_decay is not None]
    by_channel = any(x.ndim == 2 for x in decays)
    features = sum(channels.key.shape[-1] for channels in write.channels)
    is_counted = [x.ndim for x in write.values] == [2, 1]
    there = {
        "channels in groups": any(x.key.ndim == 3 for x in write.channels),
        "gains but of many channels beside one channel without, and of counted values": has_gains
        and not _are_gained(write),
        "channels that forget in several ways": bool(decays) and len(write.channels) > 1,
        "values of several kinds": not is_counted and [x.ndim for x in write.values] != [2],
        "decays beside counted values": is_counted and bool(decays),
    }
    reasons += [f"{name}, of which it knows nothing" for name, is_there in there.items() if is_there]
    if has_gains:
        return reasons + _declined_gains(given, write)
    values = write.values[0].shape[-1]
    is_plain = len(write.channels) == 1 and not decays and write.rate is None
    is_wide = is_plain and values == ROWS and given.k.shape[3] <= ROWS
    channels = "channels of a head", hopper_wide.MOST if is_wide else WIDEST
    if by_channel:
        channels = "channels of a head with decays of their own", ROWS
    for (name, most), width in ((channels, features), (("values of a head", WIDEST), values)):
        if width > most:
            reasons.append(f"{width} {name}: it takes up to {most}")
    return reasons


def _are_gained(write: Write) -> bool:
    """Whether kernels of keys with gains know the state."""
    with_gains = [x.log_gain is not None for x in write.channels]
    is_plain = with_gains == [True, False] and write.channels[1].key.shape[-1] == 1 and write.rate is None
    return is_plain and all(x.log_decay is None for x in write.channels) and len(write.values) == 2


def _declined_gains(given: Sequence, write: Write) -> list[str]:
    """Why these do not hold it."""
    features, widths = write.channels[0].key.shape[-1], (given.q.shape[3], given.v.shape[3])
    reasons = []
    widest = hopper_wide.WIDEST
    if features % ROWS or features > widest:
        reasons.append(f"{features} channels of keys with gains: it takes multiples of {ROWS} up to {widest}")
    if widths != (ROWS, ROWS):
        reasons.append(f"keys of {widths[0]} and values of {widths[1]} beside gains: it takes {ROWS}")
    return reasons


def recurrence(interpret: Any = None) -> Recurrence:
    """The kernel, or what interprets it."""
    of_keyword = functools.partial(functools.partial, interpret=interpret)
    return Recurrence(ROWS, declined, of_keyword(forward), of_keyword(backward), apart=False)


def forward(carried: Carried, keeps: bool, *, interpret: Any = None) -> tuple[jax.Array, State, Kept]:
    """Outputs and the state that is left; gradients need no state that was kept."""
    operands = carried.learned, jax.tree.map(heads.precise, carried.given)
    by_powers = functools.partial(hopper_powers.outputs, keeps=keeps)
    out, left, counts = _met(carried, interpret, by_powers, *operands)
    states = states_kept(carried.empty(), carried.given.q, carried.own, carried.runs) if keeps else []
    nothing = varying.as_of([jnp.zeros(x.shape, x.dtype) for x in states], out)
    return out, left, Kept(nothing, [x[:, :, 0, : carried.ends[0]] for x in counts])


def backward(carried: Carried, kept: Kept, d_out, d_left, *, interpret: Any = None) -> Gradients:
    """Gradients, which begin with operands, or with outputs and counts of pairs that weigh powers."""
    given = 1 if d_left is None else 2
    by_powers = functools.partial(powers_back.outputs, kept=kept) if d_left is None else None
    met = lambda learned, own: _met(carried, interpret, by_powers, learned, own)[:given]
    return gradients(carried, met, (d_out, d_left)[:given])


def gradients(carried: Carried, met: Callable[[Learned, Sequence], Any], pulled: Any) -> Gradients:
    """Those of what `met` gives of operands in float32, from those of that."""
    operands = carried.learned, jax.tree.map(heads.precise, carried.given)
    leaves, structure = jax.tree.flatten(operands)
    each = list(zip(leaves, carried.changed, strict=True))

    def of_changed(changed):
        own = iter(changed)
        return met(*jax.tree.unflatten(structure, [next(own) if is_changed else x for x, is_changed in each]))

    _, pull = jax.vjp(of_changed, [x for x, is_changed in each if is_changed])
    grads = iter(pull(pulled)[0])
    all_grads = [next(grads) if is_changed else varying.as_of(jnp.zeros_like(x), x) for x, is_changed in each]
    learned, given = jax.tree.unflatten(structure, all_grads)
    return Gradients([x for x in jax.tree.leaves(learned) if is_real(x)], given)


def _met(
    carried: Carried, interpret: Any, by_powers: Callable | None, learned: Learned, given: Sequence
) -> tuple[jax.Array, State, list[jax.Array]]:
    """Outputs [B, T', N, Hv], the state that is left, and counts if there are any, of operands in float32.

    Args:
      by_powers: outputs, and counts if any are kept, of a call whose pairs weigh powers of q . k; None where somebody
        pulls at the state.
    """
    group = given.q.shape[2] // carried.own
    if carried.empty()[0].top is not None:
        gained = hopper_told.gained(carried, learned, given, found_gains(learned.found, group), interpret)
        out, sums = gains.recur(*gained)
        return unclipped(out), left_gains(sums, group), []
    slots = along(carried.slots, len(given.q))
    scale = scale_of(carried, learned, given.q, slots)
    found = found_of(learned.found, group)
    written, by_query = written_of(carried, learned, given, slots), functools.partial(_by_query, group)
    by_channel = written.log_decay if written.is_by_channel else None
    told = hopper_told.of(carried, learned, given, scale, found, by_channel, interpret)
    if told is not None and (kernels := hopper_told.kernels_of(told[1])).fits(told[1], told[0]):
        how, whole_given = told
        if skeleton.shares(whole_given, how) == 1:
            out, left = kernels.recur(how, whole_given)
            return unclipped(out), left_of(left, carried.empty(), group), []
        out, one, left = whole.read(how._replace(finish=None), whole_given)
        powers = carried.powers
        if by_powers is not None and powers is not None and hopper_powers.fits(how, whole_given, powers):
            shown = None if slots.shown is None else slots.shown.astype(jnp.float32)[:, None]
            out, *counts = by_powers(how, powers, whole_given, shown)
            return out, left_of(left, carried.empty(), group), counts
        finished = finished_of(carried, learned, heads.precise(unclipped(out)), one)
        return finished.astype(DTYPE), left_of(left, carried.empty(), group), []
    rows = rows_of(carried, learned, given, slots, scale, written)
    if by_channel is None:
        decays = by_query(written.log_decay)
    else:
        decays = clipped(wide(by_channel).astype(DTYPE), carried.ends[1], ends.unit(*rows))
    scale = 1.0 if scale is None else scale
    if written.rate is None and by_channel is None:
        operands = Given(*rows, by_query(written.one), decays, found)
        out, one, left = gradient.recur(How(scale, interpret), varying.alike(operands))
    else:
        held = meeting.Given(*rows, [], [], None, decays, found, by_query(written.rate))
        told_nothing = meeting.How(None, None, None, scale, interpret)
        (out, left), one = hopper_told.kernels_of(held).recur(told_nothing, varying.alike(held)), None
    finished = finished_of(carried, learned, heads.precise(unclipped(out)[..., : written.value.shape[3]]), one)
    return finished.astype(DTYPE), left_of(left, carried.empty(), group), []


def _by_query(group: int, x: jax.Array | None) -> jax.Array | None:
    """[B, heads that have a state, T] -> [B, N, T]."""
    return None if x is None else jnp.repeat(x, group, axis=1)


def along(slots: Slots, batch: int) -> Slots:
    """Those of whole sequences: leaves are [B, T'], and none is of a chunk."""
    flat = lambda x: jnp.broadcast_to(x.reshape(len(x), -1), (batch, x.shape[1] * x.shape[2]))
    return jax.tree.map(flat, slots._replace(found=None, wanted=None))


class Written(NamedTuple):
    """What tokens write: Hv numbers, and one more where they are counted, by F others.

    Attributes:
      value: [B, T', heads, Hv].
      one: [B, heads, T'], or None.
      key: [B, T', heads, F].
      log_decay: [B, heads, T'], or of channels [B, T', heads, F], or None.
      rate: of the delta rule, [B, heads, T'], or None.
    """

    value: Any
    one: Any
    key: Any
    log_decay: Any
    rate: Any

    @property
    def is_by_channel(self) -> bool:
        """Whether channels forget by themselves."""
        return self.log_decay is not None and self.log_decay.ndim == 4


def written_of(carried: Carried, learned: Learned, given: Sequence, slots: Slots) -> Written:
    """What all tokens write."""

    def one_head(constants, given, slots):
        write = carried.write(constants, learned.closed, given, slots)
        key = jnp.concatenate([channels.key for channels in write.channels], axis=1)
        (value, *ones), key = write.values, state.where(slots.shown, key)
        one = heads.precise(ones[0]) if ones else None
        return Written(value, one, key, hopper_told.log_decay(write, slots), write.rate)

    of_heads = jax.vmap(one_head, (0, 1, None), -2)  # numbers are led by heads, and rows by tokens
    of_all = jax.vmap(of_heads, (None, 0, 0))
    return of_all(_by_head(learned.constants, carried.own), given._replace(q=given.k), slots)


def scale_of(carried: Carried, learned: Learned, q: jax.Array, slots: Slots) -> float | None:
    """The number that queries are multiplied by, if they read with nothing else: the kernel multiplies what is read."""
    if slots.segment is not None:
        return None
    constants, slots = jax.tree.map(lambda x: x[0], (learned.constants, slots))
    of_head = lambda q: carried.read(constants, learned.closed, q, slots)
    program = jax.make_jaxpr(of_head)(jax.ShapeDtypeStruct(q.shape[1::2], q.dtype))
    known = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    scale, (now,) = 1.0, program.jaxpr.invars
    for equation in program.jaxpr.eqns:
        if (factor := _factor(equation, now, known)) is None:
            return None
        scale, now = scale * factor, equation.outvars[0]
    return scale if program.jaxpr.outvars == [now] and scale else None


def _factor(equation: Any, x: Any, known: dict) -> float | None:
    """By which number an operation multiplies x; None where it does something else."""
    others = [each for each in equation.invars if each is not x]
    if equation.primitive.name == "convert_element_type":
        return None if others else 1.0
    if equation.primitive.name != "mul" or len(others) != 1:
        return None
    number: Any = others[0].val if isinstance(others[0], Literal) else known.get(others[0])
    is_known = number is not None and not isinstance(number, jax.core.Tracer) and np.ndim(number) == 0
    return float(number) if is_known else None


def rows_of(
    carried: Carried, learned: Learned, given: Sequence, slots: Slots, scale: float | None, written: Written
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What all tokens read with, and write by, and write, as wide as a kernel wants.

    Raises:
      NotImplementedError: a kernel holds as many channels only where it makes them, and does not know how.
    """
    if (channels := written.key.shape[3]) > WIDEST:
        raise NotImplementedError(f"{channels} channels: a kernel of a Hopper GPU does not know how they are made here")
    read = _readers(carried, learned, given, slots) if scale is None else given.q.astype(DTYPE)
    return hopper_told.clipped_of(carried, map(wide, (read, written.key, written.value)), DTYPE)


def _readers(carried: Carried, learned: Learned, given: Sequence, slots: Slots) -> jax.Array:
    """What queries read with: [B, T', N, F]."""

    def one_head(constants, q, slots):
        read = jnp.concatenate(carried.read(constants, learned.closed, q, slots), axis=1)
        return read if slots.segment is None else state.where(slots.key_at >= 0, read)  # others stand before all keys

    of_heads = jax.vmap(jax.vmap(one_head, (None, 1, None), 1), (0, 1, None), 1)
    constants = _by_head(learned.constants, carried.own)
    return _ungrouped(jax.vmap(of_heads, (None, 0, 0))(constants, _grouped(given.q, carried.own), slots))


def finished_of(carried: Carried, learned: Learned, out: jax.Array, one: jax.Array | None) -> jax.Array:
    """Outputs [B, T', N, Hv] of what was read."""

    def one_head(constants, *read):
        return carried.finish(constants, learned.closed, read)

    read = [out] if one is None else [out, jnp.moveaxis(one, 1, 2)]
    axes = (1,) * len(read)
    of_heads = jax.vmap(jax.vmap(one_head, (None, *axes), 1), (0, *axes), 1)
    constants, read = _by_head(learned.constants, carried.own), [_grouped(x, carried.own) for x in read]
    return _ungrouped(jax.vmap(of_heads, (None, *(0,) * len(read)))(constants, *read))


def _by_head(constants: Any, own: int) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (own, *x.shape[1:])), constants)


def _grouped(x: jax.Array, own: int) -> jax.Array:
    """[B, T, N, ...] -> [B, T, heads that have a state, those that share it, ...]."""
    return x.reshape(*x.shape[:2], own, -1, *x.shape[3:])


def _ungrouped(x: jax.Array) -> jax.Array:
    """The inverse."""
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def wide(x: jax.Array) -> jax.Array:
    """With zeros behind the numbers of a head, as many as the kernel wants."""
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, -x.shape[-1] % ROWS),))


def found_of(found: State | None, group: int) -> hopper_recurrence.State | None:
    """The state of all channels, of each head of queries."""
    if found is None:
        return None
    sums, *ones = (jnp.repeat(jnp.concatenate(each, axis=2), group, axis=1) for each in _by_value(found))
    channels = sums.shape[2]
    filled = ((0, 0), (0, 0), (0, -channels % (ROWS if channels <= hopper_wide.WIDEST else hopper_wide.WIDEST)))
    tall = jnp.pad(wide(sums), (*filled, (0, 0)))
    return hopper_recurrence.State(tall, jnp.pad(ones[0], filled) if ones else None)


def left_of(left: hopper_recurrence.State, empty: State, group: int) -> State:
    """The inverse, of a state like `empty` for each head that has one."""
    widths = [sums.totals[0].shape[0] for sums in empty]
    ends, columns = np.cumsum(widths), empty[0].totals[0].shape[1]
    of_values = [left.sums[:, ::group, :, :columns], *([] if left.ones is None else [left.ones[:, ::group]])]
    cut = lambda x: jnp.split(x[:, :, : ends[-1]], ends[:-1], axis=2)
    return tuple(Sums(totals) for totals in zip(*map(cut, of_values), strict=True))


def found_gains(found: State | None, group: int) -> gains.Found | None:
    """The same of channels with gains, and of the one without."""
    if found is None:
        return None
    gained, plain = found
    each: Any = *gained.totals, *(x[:, :, 0] for x in plain.totals), gained.top
    return gains.Found(*(jnp.repeat(x, group, axis=1) for x in each))


def left_gains(left: gains.Found, group: int) -> State:
    """The inverse."""
    sums, ones, plain, number, top = (x[:, ::group] for x in left)
    return Sums((sums, ones), top), Sums((plain[:, :, None], number[:, :, None]))


def _by_value(found: State) -> list[tuple[jax.Array, ...]]:
    return list(zip(*(sums.totals for sums in found), strict=True))
