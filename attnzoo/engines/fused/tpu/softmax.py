"""Softmax over listed tiles on a TPU: one Pallas kernel forward, and one each for the gradients of queries and of keys.

Scores are held transposed, [s, t]: largest scores and sums are rows [1, t], found by comparing registers and not
within them, and sums of values are [Hv, t], which fill registers whatever Hv is.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from attnzoo.engines import dense
from attnzoo.engines.fused.device import Device
from attnzoo.engines.fused.operands import Found, Gradients, Operands, Pulled
from attnzoo.engines.fused.pairs import Lists, Pairs
from attnzoo.engines.fused.tpu import chunks, steps
from attnzoo.engines.fused.tpu import sums as tpu_sums
from attnzoo.engines.fused.tpu.folding import SUBLANES
from attnzoo.engines.fused.tpu.grid import Array, Grid, Kernel, Step
from attnzoo.engines.fused.tpu.held import Held
from attnzoo.engines.fused.tpu.stepped import Stepped
from attnzoo.engines.fused.way import Tiles

DTYPES = ("bfloat16", "float32")
CHUNK = 128  # tokens of a recurrence, which fill registers
WIDEST = 256  # head dims of which tiles fit VMEM beside those of scores

OUTER = (((1,), (1,)), ((), ()))  # a b^T
INNER = (((0,), (0,)), ((), ()))  # a^T b
PLAIN = (((1,), (0,)), ((), ()))  # a b


def declined(q: jax.Array, k: jax.Array, v: jax.Array) -> list[str]:
    """Why the kernels cannot take such operands."""
    dtypes = [x.dtype.name for x in (q, k, v) if x.dtype.name not in DTYPES]
    wide = max(q.shape[3], v.shape[3])
    reasons = [f"{dtypes[0]}: it takes {' and '.join(DTYPES)}"] if dtypes else []
    return reasons + ([f"a head dim of {wide}: it takes at most {WIDEST}"] if wide > WIDEST else [])


def crowded(lists: Lists) -> list[str]:
    """Why scalar memory cannot hold a page of such lists."""
    most = max(map(steps.most, lists))
    return [f"{most:,} steps that it must know at once: it knows {steps.PAGE:,}"] * (most > steps.PAGE)


def device(tiles: tuple[Tiles, Tiles], interpret: bool = False) -> Device:
    """A TPU, or what interprets its kernels."""
    of_keyword = functools.partial(functools.partial, interpret=interpret)
    chunk = min(CHUNK, tiles[0].largest)
    of_recurrences = chunks.recurrence(chunk, interpret), tpu_sums.recurrence(chunk, interpret)
    of_softmax = declined, of_keyword(forward), of_keyword(backward)
    return Device("tpu", "a TPU", tiles, *of_softmax, *of_recurrences, crowded)


def forward(given: Operands, by_row: Pairs, *, interpret: bool = False) -> Found:
    """The kernel of `Device.forward`."""
    (grid,) = _grids(given, (by_row,), interpret)
    tile, width = given.queries.tile, given.v.shape[3]
    row, out = Array((1, tile)), Array((tile, width), given.v.dtype, axis=1)
    sums = row._replace(start=-jnp.inf), row, Array((width, tile))
    found = grid.call(_Forward(), {}, (out, row, row), sums)
    return Found(grid.heads.inward(found[0], width), *map(grid.heads.by_query, found[1:]))


def backward(given: Operands, lists: Lists, pulled: Pulled, *, interpret: bool = False) -> Gradients:
    """The kernels of `Device.backward`."""
    if (few := _few(given, lists, interpret)) is not None:
        return _of_all(few, _pulled(few, pulled))
    by_row, by_column = _grids(given, lists, interpret)
    heads, arrays = by_row.heads, _pulled(by_row, pulled)
    d_q, shift, *d_cap = _of_queries(by_row, arrays)
    del arrays["out"], arrays["d_log_total"]
    d_k, d_v, *d_key = _of_keys(by_column, arrays | {"shift": shift})
    by_head = lambda found: heads.by_query(found[0][:, :, :, : heads.fold]) if found else None  # rows are equal
    return Gradients(heads.inward(d_q, given.q.shape[3]), d_k, d_v, by_head(d_key), by_head(d_cap))


def _grids(given: Operands, lists: tuple[Pairs, ...], interpret: bool) -> list[Grid]:
    """By row, and by column where there are two; both have the same folds."""
    sides = [(given, pairs, place == 0, interpret) for place, pairs in enumerate(lists)]
    held, stepped = [Held(*side) for side in sides], [Stepped(*side) for side in sides]
    are_sparing = [grid.is_sparing for grid in held]
    if held[0].heads != stepped[0].heads and not all(are_sparing):
        return [*stepped]
    return [x if is_sparing else y for x, y, is_sparing in zip(held, stepped, are_sparing, strict=True)]


def _pulled(grid: Grid, pulled: Pulled) -> dict[str, jax.Array]:
    """What is known of outputs and their gradients, as kernels are given it."""
    heads, tile = grid.heads, grid.given.queries.tile
    wide = {"out": pulled.out, "d_out": pulled.d_out}
    rows = {"top": pulled.top, "log_total": pulled.log_total, "d_log_total": pulled.d_log_total}
    found = {name: heads.outward(x, tile) for name, x in wide.items()}
    return found | {name: heads.rows(x, tile) for name, x in rows.items()}


def _few(given: Operands, lists: Lists, interpret: bool) -> Held | None:
    """Where one tile has all keys, or all queries, it is held and the others are met once; None elsewhere.

    Heads that share keys have their gradients by keys apart, so that they can be held, and not met.
    """
    by_row, by_column = (Held(given, pairs, place == 0, interpret) for place, pairs in enumerate(lists))
    if given.soft_cap is not None or given.of_key is not None or not by_row.are_alike:
        return None
    grid = next((x for x, other in ((by_row, by_column), (by_column, by_row)) if other.tiles == 1 < x.tiles), None)
    return grid if grid is not None and grid.has_room and grid.inner == 1 else None


def _of_all(grid: Held, arrays: dict[str, jax.Array]) -> Gradients:
    """Gradients of tiles that are met, and sums that are those of what is held."""
    given, heads = grid.given, grid.heads
    of_row, of_column = given.queries.tile, given.keys.tile
    q, k, v = (x.shape[3] for x in (given.q, given.k, given.v))
    if grid.is_by_row:
        own, left = Array((of_row, q), given.q.dtype, axis=1), [Array((of_column, x), axis=1) for x in (k, v)]
        del arrays["out"]
        d_q, *found = grid.call(_KeysHeld(), arrays, (own,), (Array((q, of_row)),), (*left,))
        d_k, d_v = (_by_kv(heads.inward(x, y.shape[3]), y) for x, y in zip(found, (given.k, given.v), strict=True))
        return Gradients(heads.inward(d_q, q), d_k, d_v, None, None)
    sums = tuple(Array((of_column, x), axis=1) for x in (k, v))
    results = tuple(x._replace(dtype=y.dtype) for x, y in zip(sums, (given.k, given.v), strict=True))
    d_k, d_v, d_q = grid.call(_QueriesHeld(), arrays, results, sums, (Array((of_row, q), axis=1),))
    d_q = heads.inward(d_q, q).astype(given.q.dtype)
    return Gradients(d_q, heads.inward(d_k, k), heads.inward(d_v, v), None, None)


def _of_queries(grid: Grid, arrays: dict[str, jax.Array]) -> list[jax.Array]:
    given = grid.given
    tile, width = given.queries.tile, given.q.shape[3]
    rows = [Array((1, tile))] * (1 + (given.soft_cap is not None))
    results = Array((tile, width), given.q.dtype, axis=1), *rows
    return grid.call(_OfQueries(), arrays, results, (Array((width, tile)), *rows))


def _of_keys(grid: Grid, arrays: dict[str, jax.Array]) -> list[jax.Array]:
    """Where heads that share keys are apart, their gradients are summed in float32 here."""
    given = grid.given
    tile, sides = given.keys.tile, (given.k, given.v)
    sums = [Array((tile, x.shape[3]), axis=1) for x in sides]
    more = [Array((SUBLANES, tile))] * (given.of_key is not None)
    results = [x if grid.are_apart else x._replace(dtype=side.dtype) for x, side in zip(sums, sides, strict=True)]
    found = grid.call(_OfKeys(), arrays, (*results, *more), (*sums, *more))
    of_sides = [_by_kv(grid.heads.inward(x, y.shape[3]), y) for x, y in zip(found[:2], sides, strict=True)]
    return [*of_sides, *found[2:]]


def _by_kv(x: jax.Array, like: jax.Array) -> jax.Array:
    """[B, L, N or K, H] -> [B, L, K, H], in the dtype of `like`."""
    return x.reshape(*like.shape[:3], -1, like.shape[3]).sum(axis=3).astype(like.dtype)


class _Forward(Kernel):
    """Outputs, largest scores and logarithms of sums; sums are the largest score, the sum, and that of values."""

    products = 1, 1

    def add(self, step, sums, is_partial):
        top, total, out = sums
        scores, _ = _scores(step, is_partial)
        new = jnp.maximum(top[...], scores.max(axis=0, keepdims=True))
        base = dense.finite(new)
        weights, kept = jnp.exp(scores - base), jnp.exp(top[...] - base)
        v = step.of("v")
        top[...] = new
        total[...] = total[...] * kept + weights.sum(axis=0, keepdims=True)
        out[...] = out[...] * kept + _dot(v, weights.astype(v.dtype), INNER)

    def end(self, step, sums):
        top, total, out = (x[...] for x in sums)
        total = jnp.where(total > 0, total, 1)
        return (out / total).T, top, jnp.log(total)


class _OfQueries(Kernel):
    """Gradients of queries, the shift of those of their scores, and what each adds to that of the soft cap."""

    products = 2, 1

    def begin(self, step, sums):
        sums[1][...] = _shift(step)

    def add(self, step, sums, is_partial):
        _, d_scores, ratio = _weights(step, sums[1][...], is_partial)
        if ratio is not None:
            bounded = jnp.tanh(ratio)
            sums[2][...] += (d_scores * (bounded - ratio * (1 - bounded**2))).sum(axis=0, keepdims=True)
        k = step.of("k")
        sums[0][...] += _dot(k, _uncapped(d_scores, ratio).astype(k.dtype), INNER)

    def end(self, step, sums):
        return (sums[0][...] * step.number("scale")).T, *(x[...] for x in sums[1:])


class _OfKeys(Kernel):
    """Gradients of keys, of values and of what is added to the scores of each key."""

    products = 2, 2

    def add(self, step, sums, is_partial):
        weights, d_scores, ratio = _weights(step, step.of("shift"), is_partial)
        q, d_out = step.of("q"), step.of("d_out")
        d_products = _uncapped(d_scores, ratio) * step.number("scale")
        sums[0][...] += _dot(d_products.astype(q.dtype), q, PLAIN)
        sums[1][...] += _dot(weights.astype(d_out.dtype), d_out, PLAIN)
        if step.given.of_key is not None:
            sums[2][...] += _summed(d_scores)

    def end(self, step, sums):
        return (x[...] for x in sums)


class _KeysHeld(Kernel):
    """Gradients of queries, and sums that are those of keys and values, all of which a query meets at once."""

    products = 3, 2

    def add(self, step, sums, is_partial):
        d_q, d_k, d_v = sums
        weights, products, _ = _weights(step, 0.0, is_partial)
        shift = step.of("d_log_total") - products.sum(axis=0, keepdims=True)
        d_scores = (products + weights * shift) * step.number("scale")
        q, k, d_out = (step.of(name) for name in ("q", "k", "d_out"))
        d_q[...] += _dot(k, d_scores.astype(k.dtype), INNER)
        d_k[...] += _dot(d_scores.astype(q.dtype), q, PLAIN)
        d_v[...] += _dot(weights.astype(d_out.dtype), d_out, PLAIN)

    def end(self, step, sums):
        d_q, *of_keys = (x[...] for x in sums)
        return d_q.T, *of_keys


class _QueriesHeld(Kernel):
    """Gradients of keys and of values, and sums that are those of queries."""

    products = 3, 2

    def add(self, step, sums, is_partial):
        d_k, d_v, d_q = sums
        weights, d_scores, _ = _weights(step, _shift(step), is_partial)
        d_scores *= step.number("scale")
        q, k, d_out = (step.of(name) for name in ("q", "k", "d_out"))
        d_k[...] += _dot(d_scores.astype(q.dtype), q, PLAIN)
        d_v[...] += _dot(weights.astype(d_out.dtype), d_out, PLAIN)
        d_q[...] += _dot(d_scores.astype(k.dtype), k, INNER)

    def end(self, step, sums):
        return (x[...] for x in sums)


def _shift(step: Step) -> jax.Array:
    """What is added to gradients of the weights of queries, [1, t]."""
    products = step.of("d_out").astype(jnp.float32) * step.of("out").astype(jnp.float32)
    return step.of("d_log_total") - _summed(products)[:1]


def _scores(step: Step, is_partial: bool) -> tuple[jax.Array, jax.Array | None]:
    """Scores [s, t], -inf for what is hidden, and, where they are capped, the ratio of score and cap before."""
    scores, ratio = _dot(step.of("k"), step.of("q"), OUTER) * step.number("scale"), None
    if step.given.soft_cap is not None:
        ratio = scores / step.number("soft_cap")
        scores = step.number("soft_cap") * jnp.tanh(ratio)
    if step.given.of_key is not None:
        scores += step.of_key()
    return jnp.where(step.visible(), scores, -jnp.inf) if is_partial else scores, ratio


def _weights(step: Step, shift: jax.Array | float, is_partial: bool) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Weights [s, t], gradients of scores, and ratios as above."""
    scores, ratio = _scores(step, is_partial)
    weights = jnp.exp(scores - step.of("top") - step.of("log_total"))
    return weights, weights * (_dot(step.of("v"), step.of("d_out"), OUTER) + shift), ratio


def _uncapped(d_scores: jax.Array, ratio: jax.Array | None) -> jax.Array:
    """Gradients of capped scores as those of scaled products."""
    return d_scores if ratio is None else d_scores * (1 - jnp.tanh(ratio) ** 2)


def _summed(x: jax.Array) -> jax.Array:
    """[L, width] -> the sum of each of L, as a row, several times: [SUBLANES, L]."""
    return _dot(jnp.ones((SUBLANES, x.shape[1]), x.dtype), x, OUTER)


def _dot(a: jax.Array, b: jax.Array, dimensions) -> jax.Array:
    """A product summed in float32; of float32, precise, whatever the default is where the kernel is traced."""
    dtype = jnp.promote_types(a.dtype, b.dtype)
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), dimensions, precision, preferred_element_type=jnp.float32
    )


# Measured nowhere: the largest whose scores fit VMEM several times, and of a pattern's size those that fill registers.
DEVICE = device((Tiles(quantum=128, largest=512, grain=16),) * 2)
