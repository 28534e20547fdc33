"""Softmax over listed tiles on a TPU: one Pallas kernel forward, and one each for the gradients of queries and of keys.

Scores are held transposed, [s, t]: largest scores and sums are rows [1, t], found by comparing registers and not
within them, and sums of values are [Hv, t], which fill registers whatever Hv is.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from attnzoo.engines import dense
from attnzoo.engines.fused.device import Device
from attnzoo.engines.fused.operands import Found, Gradients, Operands, Pulled
from attnzoo.engines.fused.pairs import Lists, Pairs
from attnzoo.engines.fused.tpu import averaged, chunks, projected, steps
from attnzoo.engines.fused.tpu import sums as tpu_sums
from attnzoo.engines.fused.tpu.folding import SUBLANES
from attnzoo.engines.fused.tpu.grid import Array, Grid, Kernel, Step
from attnzoo.engines.fused.tpu.held import Held
from attnzoo.engines.fused.tpu.mosaic import INNER, OUTER, PLAIN, dot
from attnzoo.engines.fused.tpu.stepped import Stepped
from attnzoo.engines.fused.way import Tiles

DTYPES = ("bfloat16", "float32")
CHUNK = 128  # tokens of a recurrence, which fill registers
WIDEST = 256  # head dims of which tiles fit VMEM beside those of scores


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
    longest = tiles[0].largest if interpret else projected.LONGEST
    projects = functools.partial(of_keyword(projected.projected), longest=longest)
    averages = lambda given, lists, runs: averaged.fits(given, lists.by_column, runs, interpret)
    kernels = *of_softmax, lambda q, k, v: 1, *of_recurrences, crowded, projects, averages
    return Device("tpu", "a TPU", tiles, *kernels, gathers=False)


def forward(given: Operands, lists: Lists, *, interpret: bool = False) -> Found:
    """The kernel of `Device.forward`."""
    if given.averages is not None:
        return averaged.forward(given, lists.by_column, _Forward(), interpret)
    (grid,) = _grids(given, (lists.by_row,), interpret)
    tile, width = given.queries.tile, given.v.shape[3]
    row, out = Array((1, tile)), Array((tile, width), given.v.dtype, axis=1)
    sums = row._replace(start=-jnp.inf), row, Array((width, tile))
    found = grid.call(_Forward(), {}, (out, row, row), sums)
    return Found(grid.heads.inward(found[0], width), *map(grid.heads.by_query, found[1:]))


def backward(given: Operands, lists: Lists, pulled: Pulled, *, interpret: bool = False) -> Gradients:
    """The kernels of `Device.backward`: one where it has room for sums of a whole side, or two where that of queries
    has it for those of some keys and one more for the others, and else one for each side.
    """
    if not (held := _at_once(given, lists, interpret)):
        by_row, by_column = _grids(given, lists, interpret)
        arrays = _pulled(by_row, pulled)
        d_q, shift, *d_cap = _of_queries(by_row, arrays, share=0)
        arrays = _with_shift(arrays, shift) | _pulled_of_keys(by_column, pulled)
        return _gradients(by_row, d_q, d_cap, _of_keys(by_column, arrays, has_queries=False))
    grid, *others = held
    arrays = _pulled(grid, pulled)
    if not grid.is_by_row:
        *of_keys, d_q = _of_keys(grid, arrays | _pulled_of_keys(grid, pulled), has_queries=True)
        return _gradients(grid, d_q, [], of_keys)
    if grid.share == grid.met[1] == 1:
        del arrays["out"]  # with all keys at hand, what gradients of weights have in common is a sum of these
    found, count = _of_queries(grid, arrays, grid.share), len(grid.left)
    (d_q, *rows), of_keys = found[:-count], found[-count:]
    for other in others:
        shift, *rows = rows
        of_keys = other.call(_OfKeys(has_queries=False), _with_shift(arrays, shift), (), (), of_keys)
    return _gradients(grid, d_q, rows, of_keys)


def _at_once(given: Operands, lists: Lists, interpret: bool) -> list[Held]:
    """What has all gradients, by sums of all keys, or of queries where these are fewer and of heads that share no keys;
    two where it takes two; nothing where there is no room.
    """
    by_row, by_column = (Held(given, pairs, place == 0, interpret) for place, pairs in enumerate(lists))
    if by_row.tiles < by_column.tiles and by_row.heads.group == 1 and given.soft_cap is None is given.of_key:
        width = by_row.heads.fold * given.q.shape[3]
        left = Array((given.queries.tile, width), given.q.dtype, axis=1, is_shared=True)
        of_queries = dataclasses.replace(by_column, left=(left,))
        if of_queries.has_room:
            return [of_queries]
    if given.averages is not None:  # whose gradients are those of passing keys
        return []
    return by_row.summing(_results_of_keys(by_row, by_row.heads.turns))


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
    found = {name: heads.outward(x) for name, x in wide.items()}
    return found | {name: heads.rows(x, tile) for name, x in rows.items()}


def _pulled_of_keys(grid: Grid, pulled: Pulled) -> dict[str, jax.Array]:
    """What gradients of keys have beside those of queries."""
    return {} if pulled.averages is None else {"averages": averaged.pulled(grid, pulled.averages)}


def _with_shift(arrays: dict[str, jax.Array], shift: jax.Array) -> dict[str, jax.Array]:
    """What a second kernel is given, which need not find the shift."""
    return {name: x for name, x in arrays.items() if name not in ("out", "d_log_total")} | {"shift": shift}


def _of_queries(grid: Grid, arrays: dict[str, jax.Array], share: float) -> list[jax.Array]:
    """Gradients of queries, the shift where another kernel asks for it, those of caps, and of keys that are held."""
    given, row = grid.given, Array((1, grid.given.queries.tile))
    (_, tile), width = row.shape, given.q.shape[3]
    own, caps = Array((tile, width), given.q.dtype, axis=1), [row] * (given.soft_cap is not None)
    results = own, *[row] * (share < 1), *caps
    return grid.call(_OfQueries(share), arrays, results, (Array((width, tile)), row, *caps))


def _of_keys(grid: Grid, arrays: dict[str, jax.Array], has_queries: bool) -> list[jax.Array]:
    """Gradients of keys, of values, of what is added to scores, and of queries that are held."""
    results = _results_of_keys(grid, 1)
    sums = tuple(x._replace(dtype=jnp.float32) for x in results)
    return grid.call(_OfKeys(has_queries), arrays, results, sums)


def _results_of_keys(grid: Grid, turns: int) -> tuple[Array, ...]:
    """Gradients of keys, of values, and of what is added to the scores of each, of so many folds of queries; in float32
    where XLA sums those of heads that share keys.
    """
    given = grid.given
    tile, fold = given.keys.tile, grid.heads.fold if grid.are_apart else grid.heads.beside
    dtype_of = lambda x: jnp.float32 if grid.are_apart else x.dtype
    wide = [Array((tile, fold * x.shape[3]), dtype_of(x), axis=1, is_shared=True) for x in (given.k, given.v)]
    return *wide, *[Array((turns * grid.heads.fold, tile), is_shared=True)] * (given.of_key is not None)


def _gradients(grid: Grid, d_q: jax.Array, d_cap: list[jax.Array], of_keys: list[jax.Array]) -> Gradients:
    """Those of operands from what kernels give."""
    (d_k, d_v, *d_key), given, heads = of_keys, grid.given, grid.heads
    by_kv = lambda x, like: heads.inward(x, like.shape[3]).reshape(*like.shape[:3], -1, like.shape[3]).sum(axis=3)
    d_k, d_v = (by_kv(x, like).astype(like.dtype) for x, like in ((d_k, given.k), (d_v, given.v)))
    by_head = lambda found: heads.by_query(found[0]) if found else None
    return Gradients(heads.inward(d_q, given.q.shape[3]), d_k, d_v, by_head(d_key), by_head(d_cap))


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
        out[...] = out[...] * kept + dot(v, weights.astype(v.dtype), INNER)

    def end(self, step, sums):
        top, total, out = (x[...] for x in sums)
        total = jnp.where(total > 0, total, 1)
        return (out / total).T, top, jnp.log(total)


@dataclasses.dataclass(frozen=True)
class _OfQueries(Kernel):
    """Gradients of queries, the shift of those of their scores, and what each adds to that of the soft cap.

    Attributes:
      share: how much of the keys has sums, too: where all has, nobody else asks for the shift.
    """

    share: float

    @property
    def products(self):
        return 2 + self.share, 1 + self.share

    def begin(self, step, sums):
        if "out" in step.arrays:
            sums[1][...] = _shift(step)

    def add(self, step, sums, is_partial):
        d_q, shift, *more = sums
        weights, d_scores, ratio = _weights(step, shift[...] if "out" in step.arrays else None, is_partial)
        if ratio is not None:
            d_cap, *more = more
            bounded = jnp.tanh(ratio)
            d_cap[...] += (d_scores * (bounded - ratio * (1 - bounded**2))).sum(axis=0, keepdims=True)
        d_products = _uncapped(d_scores, ratio) * step.number("scale")
        k = step.of("k")
        d_q[...] += dot(k, d_products.astype(k.dtype), INNER)
        if more:
            _add_of_keys(step, more, weights, d_scores, d_products)

    def end(self, step, sums):
        d_q, *rows = (x[...] for x in sums[: 2 + (step.given.soft_cap is not None)])
        return d_q.T, *rows[self.share == 1 :]


@dataclasses.dataclass(frozen=True)
class _OfKeys(Kernel):
    """Gradients of keys, of values and of what is added to the scores of each key.

    Attributes:
      has_queries: whether there is a sum of queries, too.
    """

    has_queries: bool

    @property
    def products(self):
        return (3, 2) if self.has_queries else (2, 2)

    def begin(self, step, sums):
        if "averages" in step.arrays:
            averaged.begin(step, sums[0])

    def add(self, step, sums, is_partial):
        shift = _shift(step) if self.has_queries else step.of("shift")
        weights, d_scores, ratio = _weights(step, shift, is_partial)
        d_products = _uncapped(d_scores, ratio) * step.number("scale")
        _add_of_keys(step, sums, weights, d_scores, d_products)
        if self.has_queries:
            k = step.among("k")
            sums[-1][...] += dot(d_products.astype(k.dtype), k, INNER)

    def end(self, step, sums):
        return [x[...] for x in sums[: len(sums) - self.has_queries]]


def _add_of_keys(step: Step, sums: tuple, weights: jax.Array, d_scores: jax.Array, d_products: jax.Array) -> None:
    """Sums of keys, of values and of what is added to scores grow by those of one pair, in lanes of their head."""
    q, d_out = step.among("q"), step.among("d_out")
    sums[0][...] += dot(d_products.astype(q.dtype), q, PLAIN)
    sums[1][...] += dot(weights.astype(d_out.dtype), d_out, PLAIN)
    if step.given.of_key is not None:
        sums[2][pl.ds(step.row(sums[2].shape[0]), 1)] += _summed(d_scores)[:1]


def _shift(step: Step) -> jax.Array:
    """What is added to gradients of the weights of queries, [1, t]."""
    products = step.of("d_out").astype(jnp.float32) * step.of("out").astype(jnp.float32)
    return step.of("d_log_total") - _summed(products)[:1]


def _scores(step: Step, is_partial: bool) -> tuple[jax.Array, jax.Array | None]:
    """Scores [s, t], -inf for what is hidden, and, where they are capped, the ratio of score and cap before."""
    scores, ratio = dot(step.of("k"), step.of("q"), OUTER) * step.number("scale"), None
    if step.given.soft_cap is not None:
        ratio = scores / step.number("soft_cap")
        scores = step.number("soft_cap") * jnp.tanh(ratio)
    if step.given.of_key is not None:
        scores += step.of_key()
    return jnp.where(step.visible(), scores, -jnp.inf) if is_partial else scores, ratio


def _weights(step: Step, shift: jax.Array | None, is_partial: bool) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Weights [s, t], gradients of scores, and ratios as above; without a shift they are those of all keys."""
    scores, ratio = _scores(step, is_partial)
    weights = jnp.exp(scores - step.of("top") - step.of("log_total"))
    d_weights = dot(step.of("v"), step.of("d_out"), OUTER)
    if shift is None:
        shift = step.of("d_log_total") - (weights * d_weights).sum(axis=0, keepdims=True)
    return weights, weights * (d_weights + shift), ratio


def _uncapped(d_scores: jax.Array, ratio: jax.Array | None) -> jax.Array:
    """Gradients of capped scores as those of scaled products."""
    return d_scores if ratio is None else d_scores * (1 - jnp.tanh(ratio) ** 2)


def _summed(x: jax.Array) -> jax.Array:
    """[L, width] -> the sum of each of L, as a row, several times: [SUBLANES, L]."""
    return dot(jnp.ones((SUBLANES, x.shape[1]), x.dtype), x, OUTER)


# Measured nowhere: the largest whose scores fit VMEM several times, and of a pattern's size those that fill registers.
DEVICE = device((Tiles(quantum=128, largest=512, grain=16),) * 2)
