"""A recurrence of a Hopper GPU whose queries all see the same keys, which have no order in time.

    S = sum_j psi(k_j) v_j^T,    z = sum_j psi(k_j),    o_i = finish(S^T phi(q_i), z . phi(q_i))

One kernel passes over keys and leaves sums, another one passes over queries and reads them. So do gradients: a pass
over queries gives theirs and sums d_S = sum_i phi(q_i) d_i^T, of which one over keys has theirs and those of values:
that of psi(k_j) is d_S v_j + d_z, and that of v_j is d_S^T psi(k_j). Features are made of rows, outputs finished and
differentiated in kernels (`told`), or by XLA where these do not know how. Blocks of threads have parts of a
sequence, whose sums XLA adds up; sums that are read are rounded as operands are. Of more channels than a block of
threads has room for, several blocks of threads sum a share each, and one reads those of all channels, block by block.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.contract import varying
from attnzoo.engines import heads, state
from attnzoo.engines.fused.carried import (
    Carried,
    Changed,
    Gradients,
    Kept,
    Learned,
    Recurrence,
    instantiated,
    kept_of,
    unkept,
)
from attnzoo.engines.fused.hopper import chunks, wide
from attnzoo.engines.fused.hopper import told as hopper_told
from attnzoo.engines.fused.hopper.gained import Found
from attnzoo.engines.fused.hopper.gradient import of_group, of_shared
from attnzoo.engines.fused.hopper.meeting import Given, How, widths
from attnzoo.engines.fused.hopper.passes import Rule
from attnzoo.engines.fused.hopper.recurrence import State
from attnzoo.engines.fused.hopper.sides import Gained, Side, of_side
from attnzoo.engines.fused.hopper.skeleton import both
from attnzoo.engines.fused.hopper.warpgroups import ROWS, Blocks, Matrix, Vectors, loaded, set_block, unclipped
from attnzoo.engines.fused.hopper.whole import grads_beside
from attnzoo.engines.slots import Sequence


def recurrence(interpret: Any = None) -> Recurrence:
    """The kernels, or what interprets them."""
    of_keyword = functools.partial(functools.partial, interpret=interpret)
    return Recurrence(ROWS, chunks.declined, of_keyword(forward), of_keyword(backward))


def forward(carried: Carried, keeps: bool, *, interpret: Any = None) -> tuple[jax.Array, state.State, Kept]:
    """Outputs, the state that all keys leave, and the same where it is kept."""
    operands = carried.learned, jax.tree.map(heads.precise, carried.given)
    out, left = _met(carried, interpret, None, *operands)
    return out, left, kept_of(carried, left) if keeps else Kept([])


def backward(carried: Carried, kept: Kept, d_out, d_left, *, interpret: Any = None) -> Gradients:
    """Gradients, which begin with operands and the state that they left."""
    assert d_left is None
    left = (chunks.found_gains if _has_gains(carried) else chunks.found_of)(unkept(carried, kept), 1)
    return chunks.gradients(carried, lambda *operands: _met(carried, interpret, left, *operands)[0], d_out)


def _has_gains(carried: Carried) -> bool:
    return carried.empty()[0].top is not None


def _met(
    carried: Carried, interpret: Any, kept: Any, learned: Learned, given: Sequence
) -> tuple[jax.Array, state.State]:
    """Outputs [B, T', N, Hv], and the state that all keys leave, or that was kept."""
    if _has_gains(carried):
        (out, _), left = _passed(*hopper_told.gained(carried, learned, given, None, interpret), kept, carried.own)
        return unclipped(out), chunks.left_gains(left, 1)
    group, slots = given.q.shape[2] // carried.own, chunks.along(carried.slots, len(given.q))
    scale = chunks.scale_of(carried, learned, given.q, slots)
    told = hopper_told.of(carried, learned, given, scale, None, None, interpret)
    is_told = told is not None and _fits(*told)
    if told is None or not is_told:
        written = chunks.written_of(carried, learned, given, slots)
        rows = chunks.rows_of(carried, learned, given, slots, scale, written)
        one = None if written.one is None else jnp.repeat(written.one, group, axis=1)
        told = How(None, None, None, 1.0 if scale is None else scale, interpret), Given(*rows, [], [], one)
    how, operands = told
    (out, ones), left = _passed(how, operands, kept, carried.own)
    out = unclipped(out)
    if not is_told:
        out = chunks.finished_of(carried, learned, heads.precise(out[..., : given.v.shape[3]]), ones)
    return out.astype(chunks.DTYPE), chunks.left_of(left, carried.empty(), 1)


def _fits(how: How, given: Given) -> bool:
    """Whether rows, features and values are as wide as blocks of a kernel."""
    if wide.are_many(given, how):
        return wide.fits(given, how)
    channels = widths(how.read, given.read)
    are_rows = all(x % ROWS == 0 for x in (given.read.shape[3], given.value.shape[3], *channels))
    return are_rows and channels == widths(how.key, given.key)


Sums = State | Found


def _passed(how: How, given: Given, kept: Sums | None, own: int) -> tuple[tuple[jax.Array, jax.Array | None], Any]:
    """Outputs, and what is read of counts, as kernels give them, and the sums that are read."""
    group = given.read.shape[2] // own
    left = summed(how, varying.alike(Keys.of(given, group)), kept)
    return read(how, *varying.alike((Queries(given.read, given.beside_read, given.matrices), left))), left


class Keys(NamedTuple):
    """What is summed, of `meeting.Given`: of heads that have a state. Examples may share keys, and heads values."""

    key: jax.Array
    value: jax.Array
    beside: list[Any]
    one: jax.Array | None
    matrices: list[Any]
    plain: jax.Array | None = None

    @staticmethod
    def of(given: Given, group: int) -> Keys:
        """Of heads of queries, so many of which share one."""
        own = lambda x: x[:, ::group]
        each = jax.tree.map(own, (given.beside_key, given.one, given.matrices, given.plain))
        return Keys(given.key, given.value, *each)


class Queries(NamedTuple):
    """What reads sums, likewise: of all heads."""

    read: jax.Array
    beside: list[Any]
    matrices: list[Any]


def _side_of_keys(how: How, keys: Keys, grows: bool) -> Side:
    """That which is summed, or reads gradients of sums."""
    # All examples have values of their own.
    given = Given(keys.value, keys.key, keys.value, [], keys.beside, matrices=keys.matrices)
    return of_side(how, given, keys.value.shape[3], keys.one is not None, keys.plain is not None, grows)


def _side_of_queries(how: How, queries: Queries, sums: Sums) -> Side:
    """That which reads."""
    given = Given(queries.read, queries.read, queries.read, queries.beside, [], matrices=queries.matrices)
    return of_side(how, given, sums.sums.shape[3], sums.ones is not None, isinstance(sums, Found))


def _gains(how: How, keys: Keys) -> jax.Array | None:
    """b of keys, float32 [B, heads that have a state, T]; None where they have none."""
    side = _side_of_keys(how, keys, grows=True)
    if not isinstance(side, Gained):
        return None
    given: Blocks = {"key": Matrix(keys.key)}
    rule = Rule(lambda piece, held, own, _: side.gain(piece, own), write=lambda piece, held, own, gain: (gain,))
    made = side.passing("sums_gains", given | side.beside("key"), {"gain": side.numbers()}, None, rule)
    return made["gain"][:, :, 0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def summed(how: How, keys: Keys, kept: Sums | None) -> Sums:
    """The sums of all keys, of each head that has a state; those that were kept, where they were."""
    if kept is not None:
        return kept
    side, gains = _side_of_keys(how, keys, grows=True), _gains(how, keys)
    make = lambda piece, held, own, _: side.made("key", piece, own)
    add = lambda piece, own, by, sums: side.grown(sums, by, piece.value, piece.one.at[0] if side.has_ones else None)
    blocks, rule = _blocks_of_keys(side, keys, gains), Rule(make, add, begin=side.begin)
    left = side.left(side.passing("sums", blocks, {}, None, rule, left=True))
    return left if gains is None else left._replace(top=gains.max(axis=2))


def _blocks_of_keys(side: Side, keys: Keys, gains: jax.Array | None) -> Blocks:
    blocks: Blocks = {"key": Matrix(keys.key), "value": Matrix(keys.value)}
    blocks |= side.beside("key") | ({} if keys.one is None else {"one": Vectors(keys.one[:, :, None])})
    if gains is None or keys.plain is None:
        return blocks
    weights = jnp.exp(gains - gains.max(axis=2, keepdims=True))
    return blocks | both("plain", keys.plain[:, :, None]) | {"weight": Vectors(weights[:, :, None])}


def _summed_forward(how: How, keys: Any, kept: Any):
    (keys, kept), changed = Changed.told((keys, kept))
    sums = summed(how, keys, kept)
    return sums, (keys, kept, sums, changed)


def _summed_backward(how: How, residuals: tuple[Keys, Sums | None, Sums, Changed], pulled: Any) -> tuple[Keys, None]:
    keys, kept, sums, told = residuals
    changed, _ = told.of_each((keys, kept))
    side, gains = _side_of_keys(how, keys, grows=False), _gains(how, keys)
    make = lambda piece, held, own, _: side.made("key", piece, own)

    def write(piece, held, own, by):
        yield from side.recalled(held, by, counts=False)
        d_made = side.against(held, piece.value, loaded(piece.one.at[0]) if side.has_ones else None)
        yield from side.pulled("key", piece, own, d_made, changed.beside, None)

    out: Blocks = {"value": side.gradient(keys.value), "key": side.gradient(keys.key)}
    out |= side.numbers_beside("key", changed.beside)
    d_sums, rule = instantiated(pulled, keys), Rule(make, write=write)
    given = _blocks_of_keys(side, keys, gains)
    if gains is not None:  # those that are the largest have the gradient of it, by which all sums are divided
        _, pull = jax.vjp(lambda gains: gains.max(axis=2), gains)
        given |= {"d_gain": Vectors(pull(d_sums.top - d_sums.dots(sums))[0][:, :, None])}
    made = side.passing("sums_back", given, out, d_sums, rule)
    d_key = of_group(of_shared(made["key"], keys.key), keys.key)
    d_value = of_group(made["value"], keys.value)
    beside = grads_beside("key", made, keys.beside)
    return Keys(d_key, d_value, beside, None, [None] * len(keys.matrices), None), None


summed.defvjp(_summed_forward, _summed_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def read(how: How, queries: Queries, sums: Sums) -> tuple[jax.Array, jax.Array | None]:
    """Outputs [B, T, N, Hv] of all queries, and float32 [B, N, T] of counts, where nothing finishes outputs."""
    side = _side_of_queries(how, queries, sums)
    make = lambda piece, held, own, _: side.made("read", piece, own)
    write = lambda piece, held, own, by: side.finished(*side.recalled(held, by))
    batch, length, num_heads, _ = queries.read.shape
    out: Blocks = {"out": side.of_heads(side.values, num_heads)}
    out |= {"one": side.numbers()} if side.reads_ones else {}
    made = side.passing("read", _blocks_of_queries(side, queries), out, sums, Rule(make, write=write))
    like: Any = jax.ShapeDtypeStruct((batch, length, num_heads, side.values), side.dtype)
    return of_group(made["out"], like), made["one"][:, :, 0] if side.reads_ones else None


def _blocks_of_queries(side: Side, queries: Queries) -> Blocks:
    blocks: Blocks = {"read": Matrix(queries.read)}
    return blocks | side.beside("read")


def _read_forward(how: How, queries: Any, sums: Any):
    operands, changed = Changed.told((queries, sums))
    return read(how, *operands), (*operands, changed)


def _read_backward(how: How, residuals: tuple[Queries, Sums, Changed], pulled: Any) -> tuple[Queries, Sums]:
    queries, sums, told = residuals
    changed, _ = told.of_each((queries, sums))
    side, (d_out, d_one) = _side_of_queries(how, queries, sums), instantiated(pulled, queries)

    def make(piece, held, own, _):
        by = side.made("read", piece, own)
        if how.finish is None:
            return by, piece.d_out, loaded(piece.d_one_rows.at[0]) if side.reads_ones else None
        d_read, *d_ones = side.unfinished(*side.recalled(held, by), loaded(piece.d_out))
        set_block(own.pulled, d_read.astype(side.dtype))
        for x in d_ones:
            set_block(own.pulled_one, x)
        return by, own.pulled, d_ones[0] if d_ones else None

    def add(piece, own, made, grown):
        by, block, _ = made
        return side.grown(grown, by, block, piece.d_one_columns.at[0] if side.reads_ones else own.pulled_one)

    def write(piece, held, own, made):
        _, block, one = made
        if "pulled" in out:
            yield loaded(block)
            yield from (one for _ in range(side.has_ones))
        d_made = side.against(held, block, one) * how.scale
        yield from side.pulled("read", piece, own, d_made, changed.beside, None)

    out: Blocks = {} if side.grows or how.finish is None else side.pulled_apart(d_out)
    out |= {"read": side.gradient(queries.read)} | side.numbers_beside("read", changed.beside)
    given = _blocks_of_queries(side, queries) | {"d_out": Matrix(d_out)}
    given |= both("d_one", None if d_one is None else d_one[:, :, None])
    if side.grows:
        made = side.passing("read_back", given, out, sums, Rule(make, add, write, side.begin), left=True)
        left = side.left(made)
    else:
        made = side.passing("read_back", given, out, sums, Rule(make, write=write))
        one = made["pulled_one"][:, :, 0] if "pulled_one" in made else d_one
        left = _summed_by_queries(how, queries, made.get("pulled", d_out), one)
    of_state = lambda x, like: x.reshape(*like.shape[:2], -1, *like.shape[2:]).sum(axis=2) * how.scale
    d_sums = jax.tree.map(of_state, left, sums)
    beside = grads_beside("read", made, queries.beside)
    return Queries(of_group(made["read"], queries.read), beside, [None] * len(queries.matrices)), d_sums


def _summed_by_queries(how: How, queries: Queries, value: jax.Array, one: jax.Array | None) -> Sums:
    """What queries write, if they write as keys do."""
    keys = Keys(queries.read, value, queries.beside, one, queries.matrices)
    return summed(how._replace(key=how.read, matrices_key=how.matrices_read), keys, None)


read.defvjp(_read_forward, _read_backward, symbolic_zeros=True)
