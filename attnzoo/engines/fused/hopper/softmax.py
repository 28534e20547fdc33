"""Softmax over listed tiles on an NVIDIA Hopper GPU: a kernel forward, and one each for gradients of queries and keys.

Each holds a tile of queries, or of keys, and meets the listed tiles of the other (`tiles`). Tiles in which
nothing is hidden come first, without a mask; in others visibility is asked of positions, which are counted where they
follow each other and read where they do not. Dao 2023, arXiv:2307.08691; Shah et al. 2024, arXiv:2407.08608.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.device import Device
from attnzoo.engines.fused.hopper import averaged, chunks, ends, few, gathered, projected, sums, warpgroups
from attnzoo.engines.fused.hopper import tiles as hopper_tiles
from attnzoo.engines.fused.hopper.scores import Scores, exponent, raised, scalars, vectors_of
from attnzoo.engines.fused.hopper.tiles import Rule, Step, Work
from attnzoo.engines.fused.hopper.warpgroups import (
    DTYPES,
    ROWS,
    WIDTHS,
    Blocks,
    Matrix,
    Vectors,
    added,
    filled,
    products,
    spread,
    widened,
)
from attnzoo.engines.fused.operands import Found, Gradients, Operands, Pulled, Side
from attnzoo.engines.fused.pairs import Lists, Pairs
from attnzoo.engines.fused.way import Tiles

PIECE = 256 * 64  # numbers of a piece of keys forward, at most, of which registers hold the scores


def declined(q, k, v) -> list[str]:
    """Why this GPU's kernel cannot take operands of these shapes and types; empty where it can."""
    reasons = warpgroups.missing()
    types = sorted({str(x.dtype) for x in (q, k, v)})
    if len(types) > 1 or types[0] not in DTYPES:
        reasons.append(f"{' and '.join(types)}: it takes {' or '.join(DTYPES)}, one of them for all operands")
    for name, width in (("head_dim", q.shape[3]), ("a width of values", v.shape[3])):
        if width > WIDTHS[-1]:
            reasons.append(f"{name}={width}: it takes up to {WIDTHS[-1]}")
    return reasons


def forward(given: Operands, lists: Lists, *, interpret: Any = None) -> Found:
    """What queries find."""
    narrow, given = given, _widened(given)
    if given.averages is not None:
        found = averaged.forward(given, interpret)
        assert found.averages is not None
        return found._replace(
            out=found.out[..., : narrow.v.shape[3]], averages=found.averages[..., : narrow.k.shape[3]]
        )
    (batch, length, num_heads, _), width, scores = given.q.shape, given.v.shape[3], Scores(given, 0)
    size, slots = given.keys.tile, given.queries.positions.shape[1]

    def begin():
        return filled(0, ROWS, width), filled(-jnp.inf, ROWS), filled(0, ROWS)

    def step(now: Step, carry):
        out, top, total = carry
        met_keys, met_values = now.met
        with met_keys as keys:
            (made,) = products((now.own.q, keys.k.T), then=now.take_turns)
            tile, _ = scores.of(now, now.own, keys, made)
        largest = jnp.maximum(top, tile.max(axis=1))
        may_be_blind = now.is_masked or scores.is_biased
        base = jnp.where(largest == -jnp.inf, 0.0, largest) if may_be_blind else largest
        weights, faded = scores.power(tile - spread(base, tile.shape)), scores.power(top - base)
        total = total * faded + weights.sum(axis=1)
        out, weights = out * spread(faded, out.shape), weights.astype(given.v.dtype)
        out, largest, total, weights = jax.lax.optimization_barrier((out, largest, total, weights))
        now.take_turns()
        with met_values as values:
            return added(out, weights, values.v, interpret), largest, total

    def finish(carry, scalars):
        out, top, total = carry
        total = jnp.where(total > 0, total, 1.0)
        return out * spread(1 / total, out.shape), (top * (1 / scores.unit), jnp.log(total))

    work = Work(
        own={"q": Matrix(given.q), **_ints("query", given.queries)},
        met=({"k": Matrix(given.k), **_beside_keys(given)}, {"v": Matrix(given.v)}),
        scalars=scalars(given),
        out={"out": _like(given.v.dtype, batch, length, num_heads, width), "rows": _rows(batch, num_heads, 2, slots)},
        pairs=lists.by_row,
        tile=given.queries.tile,
        other=size,
        piece=size if size * max(given.k.shape[3], width) <= PIECE else 2 * ROWS,
    )
    rule = Rule(begin, step, finish, _are_read(given), takes_turns=True)
    out, rows = hopper_tiles.launch("forward", work, rule, interpret)
    return Found(out[..., : narrow.v.shape[3]], rows[:, :, 0], rows[:, :, 1])


def backward(given: Operands, lists: Lists, pulled: Pulled, *, interpret: Any = None) -> Gradients:
    """Gradients of what it was given."""
    narrow, given = given, _widened(given)
    pulled, undo = _in_range(given, pulled._replace(d_out=widened(pulled.d_out)))
    of_queries = given.q.dtype if undo is None else jnp.float32
    of_keys = of_queries if given.q.shape[2] == given.k.shape[2] else jnp.float32
    if few.fits(given, lists):
        beside = None if pulled.averages is None else averaged.pulled(given, widened(pulled.averages))
        d_q, d_k, d_v = few.gradients(given, pulled, of_keys, interpret, beside)
        d_of_key, d_cap = None, None
    else:
        assert pulled.averages is None
        d_q, d_cap = _backward_queries(given, lists.by_row, pulled, of_queries, interpret)
        d_k, d_v, d_of_key = _backward_keys(given, lists.by_column, pulled, of_keys, interpret)

    def finished(x, like):
        """Of heads [B, L, N, W], as those of a group have it."""
        if undo is not None:
            x = x * undo[:, None, :, None]
        if x.shape[2] != like.shape[2]:
            x = x.reshape(*x.shape[:2], like.shape[2], -1, x.shape[3]).sum(axis=3)
        return x[..., : like.shape[3]].astype(like.dtype)

    undone = lambda x: x if x is None or undo is None else x * undo[..., None]
    d_q, d_k, d_v = map(finished, (d_q, d_k, d_v), narrow[:3])
    return Gradients(d_q, d_k, d_v, undone(d_of_key), undone(d_cap))


def _backward_queries(given: Operands, by_row: Pairs, pulled: Pulled, dtype, interpret):
    """d_q [B, T', N, H], and by query [B, N, T'] the gradient of the soft cap, or None."""
    (batch, _, num_heads, width), scores = given.q.shape, Scores(given, 0)
    has_cap = given.soft_cap is not None

    def begin():
        return filled(0, ROWS, width), *[filled(0, ROWS)] * has_cap

    def step(now: Step, carry):
        d_q, *d_cap = carry
        (met,) = now.met
        with met as keys:
            made, d_weights = products((now.own.q, keys.k.T), (now.own.d_out, keys.v.T))
            tile, squashed = scores.of(now, now.own, keys, made)
            d_scores = scores.weights(tile, now.own.kept) * (d_weights + scores.shift(tile.shape, now.own.kept))
            if squashed is not None:
                slope = 1 - squashed * squashed
                by_cap = squashed - made * (now.scalars["scale"] / now.scalars["soft_cap"]) * slope
                d_cap, d_scores = [d_cap[0] + (d_scores * by_cap).sum(axis=1)], d_scores * slope
            return added(d_q, d_scores.astype(given.k.dtype), keys.k, interpret), *d_cap

    def finish(carry, scalars):
        d_q, *d_cap = carry
        return d_q * scalars["scale"], *[(x,) for x in d_cap]

    out: Blocks = {"d_q": _like(dtype, *given.q.shape)}
    work = Work(
        own={"q": Matrix(given.q), "d_out": Matrix(pulled.d_out), **_beside_queries(given, scores, pulled)},
        met=({"k": Matrix(given.k), "v": Matrix(given.v), **_beside_keys(given)},),
        scalars=scalars(given),
        out=out | ({"d_cap": _rows(batch, num_heads, 1, given.queries.positions.shape[1])} if has_cap else {}),
        pairs=by_row,
        tile=given.queries.tile,
        other=given.keys.tile,
        piece=ROWS,
    )
    rule = Rule(begin, step, finish, _are_read(given), fetches=True)
    d_q, *d_cap = hopper_tiles.launch("backward_queries", work, rule, interpret)
    return d_q, d_cap[0][:, :, 0] if d_cap else None


def _backward_keys(given: Operands, by_column: Pairs, pulled: Pulled, dtype, interpret):
    """Of each query head: d_k [B, S', N, H], d_v [B, S', N, Hv], and [B, N, S'] that of what is added, or None."""
    (batch, length, _, width), num_heads, scores = given.k.shape, given.q.shape[2], Scores(given, 1)

    def begin():
        matrices = filled(0, ROWS, width), filled(0, ROWS, given.v.shape[3])
        return *matrices, *[filled(0, ROWS)] * scores.is_biased

    def step(now: Step, carry):
        d_k, d_v, *d_of_key = carry
        (met,) = now.met
        with met as queries:
            (made,) = products((now.own.k, queries.q.T))
            tile, squashed = scores.of(now, queries, now.own, made)
            weights = scores.weights(tile, queries.kept)
            d_v = added(d_v, weights.astype(given.v.dtype), queries.d_out, interpret)
            shift = scores.shift(tile.shape, queries.kept)
            d_scores = weights * added(shift, now.own.v, queries.d_out.T, interpret)  # a sum beside it has no registers
            d_of_key = [x + d_scores.sum(axis=1) for x in d_of_key]
            if squashed is not None:
                d_scores = d_scores * (1 - squashed * squashed)
            return added(d_k, d_scores.astype(given.q.dtype), queries.q, interpret), d_v, *d_of_key

    def finish(carry, scalars):
        d_k, d_v, *d_of_key = carry
        return d_k * scalars["scale"], d_v, *[(x,) for x in d_of_key]

    of_head = batch, length, num_heads
    out: Blocks = {"d_k": _like(dtype, *of_head, width), "d_v": _like(dtype, *of_head, given.v.shape[3])}
    work = Work(
        own={"k": Matrix(given.k), "v": Matrix(given.v), **_beside_keys(given)},
        met=({"q": Matrix(given.q), "d_out": Matrix(pulled.d_out), **_beside_queries(given, scores, pulled)},),
        scalars=scalars(given),
        out=out | ({"d_of_key": _rows(batch, num_heads, 1, given.keys.positions.shape[1])} if scores.is_biased else {}),
        pairs=by_column,
        tile=given.keys.tile,
        other=given.queries.tile,
        piece=ROWS,
    )
    rule = Rule(begin, step, finish, (True, True), fetches=True)
    d_k, d_v, *d_of_key = hopper_tiles.launch("backward_keys", work, rule, interpret)
    return d_k, d_v, d_of_key[0][:, :, 0] if d_of_key else None


def _like(dtype, *shape: int) -> Matrix:
    return Matrix(jax.ShapeDtypeStruct(shape, dtype))


def _rows(*shape: int) -> Vectors:
    return Vectors(jax.ShapeDtypeStruct(shape, jnp.float32))


def _ints(name: str, side: Side) -> Blocks:
    vectors = vectors_of(side)
    return {name: Vectors(jnp.stack(jnp.broadcast_arrays(*vectors), axis=1)[:, None])} if vectors else {}


def _beside_keys(given: Operands) -> Blocks:
    of_key = {} if given.of_key is None else {"of_key": Vectors(given.of_key[:, :, None])}
    return _ints("key", given.keys) | of_key


def _beside_queries(given: Operands, scores: Scores, pulled: Pulled) -> Blocks:
    return _ints("query", given.queries) | {"kept": Vectors(scores.kept(pulled))}


def _are_read(given: Operands) -> tuple[bool, bool]:
    """Whether vectors beside keys are read, where nothing is hidden and where something is."""
    return given.of_key is not None, given.of_key is not None or bool(vectors_of(given.keys))


def _widened(given: Operands) -> Operands:
    return given._replace(q=widened(given.q), k=widened(given.k), v=widened(given.v))


def _in_range(given: Operands, pulled: Pulled) -> tuple[Pulled, jax.Array | None]:
    """What is pulled, so that gradients of pairs are in the range of their type, and [B, N] what undoes it, or None.

    The gradient of the output is divided by its largest, and weights are `raised`.
    """
    if given.q.dtype != jnp.float16:
        return pulled, None
    precise = lambda x: x.astype(jnp.float32)
    down = exponent(jnp.abs(precise(pulled.d_out)).max(axis=(1, 3)))
    factor = jnp.exp2(-down)
    d_out, shift = precise(pulled.d_out) * factor[:, None, :, None], pulled.shift * factor[..., None]
    value = jnp.abs(precise(given.v)).max(axis=(1, 3)).repeat(given.q.shape[2] // given.v.shape[2], axis=1)
    most = jnp.abs(d_out).sum(axis=3).max(axis=1) * value + jnp.abs(shift).max(axis=2)
    up = raised(most)
    log_total = pulled.log_total - up[..., None] * math.log(2)
    return pulled._replace(d_out=d_out.astype(jnp.float16), log_total=log_total, shift=shift), jnp.exp2(down - up)


def device(tiles: tuple[Tiles, Tiles], interpret: Any = None) -> Device:
    """A GPU, or what interprets its kernels."""
    of_keyword = functools.partial(functools.partial, interpret=interpret)
    of_recurrences = chunks.recurrence(interpret), sums.recurrence(interpret)
    of_softmax = of_keyword(forward), of_keyword(backward)
    projects = of_keyword(projected.projected)
    of_all = *of_softmax, ends.unit, *of_recurrences
    return Device(
        "cuda",
        "a Hopper GPU",
        tiles,
        declined,
        *of_all,
        projected=projects,
        averages=averaged.fits,
        gathered=gathered.gathered(interpret),
    )


def interpreter() -> Any:
    """What a CPU interprets the kernels with: it looks for races."""
    return warpgroups.interpreter()


# Measured nowhere: two warpgroups, which meet 128 keys at a time forward and 64 backward.
DEVICE = device((Tiles(quantum=128, largest=128, grain=ROWS),) * 2)
