"""Softmax over listed tiles on a TPU: one Pallas kernel forward, and one each for the gradients of queries and of keys.

The grid is (B, heads, steps, heads of a group): steps are in scalar memory, from which it is read ahead what is
fetched next, and running sums stay in VMEM until the tile that they belong to is left. Scores are held transposed,
[s, t]: largest scores and sums are rows [1, t], found by comparing registers and not within them, and sums of values
are [Hv, t], which fill registers whatever Hv is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnzoo.contract import varying
from attnzoo.engines import dense
from attnzoo.engines.fused.device import Device
from attnzoo.engines.fused.operands import NOWHERE, Found, Gradients, Operands, Pulled
from attnzoo.engines.fused.pairs import Lists, Pairs
from attnzoo.engines.fused.steps import BITS, FIRST, LAST, PAIR, PARTIAL, Steps
from attnzoo.engines.fused.way import Tiles

DTYPES = ("bfloat16", "float32")
WIDEST = 256  # head dims of which tiles fit VMEM beside those of scores
SUBLANES, LANES = 8, 128  # of a register: fewer take as much

OUTER = (((1,), (1,)), ((), ()))  # a b^T
INNER = (((0,), (0,)), ((), ()))  # a^T b
PLAIN = (((1,), (0,)), ((), ()))  # a b


class Array(NamedTuple):
    """What a kernel holds of one tile: a result, or a running sum, which starts at a number."""

    shape: tuple[int, int]
    dtype: Any = jnp.float32
    start: float = 0.0


def declined(q: jax.Array, k: jax.Array, v: jax.Array) -> list[str]:
    """Why the kernels cannot take such operands."""
    dtypes = [x.dtype.name for x in (q, k, v) if x.dtype.name not in DTYPES]
    wide = max(q.shape[3], v.shape[3])
    reasons = [f"{dtypes[0]}: it takes {' and '.join(DTYPES)}"] if dtypes else []
    return reasons + ([f"a head dim of {wide}: it takes at most {WIDEST}"] if wide > WIDEST else [])


def device(tiles: tuple[Tiles, Tiles], interpret: bool = False) -> Device:
    """A TPU, or what interprets its kernels."""
    of_keyword = functools.partial(functools.partial, interpret=interpret)
    return Device("tpu", "a TPU", tiles, declined, of_keyword(forward), of_keyword(backward))


def forward(given: Operands, by_row: Pairs, *, interpret: bool = False) -> Found:
    """The kernel of `Device.forward`."""
    tile, width = given.queries.tile, given.v.shape[3]
    row, out = Array((1, tile)), Array((tile, width), given.v.dtype)
    sums = row._replace(start=-jnp.inf), row, Array((width, tile))
    found = _Pass(given, Steps.of(by_row), True, interpret).call(_Forward(), {}, (out, row, row), sums)
    return Found(_inward(found[0]), *map(_by_query, found[1:]))


def backward(given: Operands, lists: Lists, pulled: Pulled, *, interpret: bool = False) -> Gradients:
    """The kernels of `Device.backward`."""
    (q_width, v_width), (queries, keys) = (
        (x.shape[3] for x in (given.q, given.v)),
        (given.queries.tile, given.keys.tile),
    )
    more = {"d_out": _outward(pulled.d_out, queries)}
    more |= {name: _in_rows([getattr(pulled, name)], queries) for name in ("top", "log_total", "shift")}
    row, caps, adds = Array((1, queries)), given.soft_cap is not None, given.of_key is not None

    each = _Pass(given, Steps.of(lists.by_row), True, interpret)
    results = Array((queries, q_width), given.q.dtype), *[row] * caps
    d_q, *d_cap = each.call(_OfQueries(), more, results, (Array((q_width, queries)), *[row] * caps))

    each = _Pass(given, Steps.of(lists.by_column), False, interpret)
    sums = Array((keys, q_width)), Array((keys, v_width)), *[Array((SUBLANES, keys))] * adds
    rounded = [x if each.are_apart else x._replace(dtype=y.dtype) for x, y in zip(sums, given[1:3], strict=False)]
    d_k, d_v, *d_key = each.call(_OfKeys(), more, (*rounded, *sums[2:]), sums)
    d_k, d_v = (_inward(x, each.apart).astype(y.dtype) for x, y in zip((d_k, d_v), given[1:3], strict=True))
    by_key = _by_query(d_key[0][..., :1, :]) if d_key else None
    return Gradients(_inward(d_q), d_k, d_v, by_key, _by_query(d_cap[0]) if d_cap else None)


@dataclasses.dataclass(frozen=True)
class _Pass:
    """A kernel over all steps, whose running sums are of a tile of queries, or of one of keys.

    Arrays are [B or 1, heads or 1, tiles, ...], of which it sees one tile at a time.
    """

    given: Operands
    steps: Steps
    is_by_row: bool
    interpret: bool

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.given.q.shape[2] // self.given.k.shape[2]

    @property
    def are_apart(self) -> bool:
        """Whether heads that share keys get gradients of keys apart: tiles beside a key, or what is added, differ."""
        return self.group > 1 and (self.steps.tile.shape[1] > 1 or self.given.of_key is not None)

    @property
    def apart(self) -> int:
        """Heads of results that share a key head."""
        return self.group if self.are_apart else 1

    @property
    def inner(self) -> int:
        """Query heads whose results are summed."""
        return 1 if self.is_by_row else self.group // self.apart

    def call(self, kernel: _Kernel, more: dict, results: tuple[Array, ...], sums: tuple[Array, ...]) -> list[jax.Array]:
        """The results of all tiles: arrays [B, heads, tiles, ...]."""
        given, (batch, _, num_heads, _) = self.given, self.given.q.shape
        steps = self.steps.tile.reshape(-1), self.steps.other.reshape(-1)
        steps, numbers, arrays = varying.alike((steps, self._numbers(), self._arrays() | more))
        axis, side = ("row", given.queries) if self.is_by_row else ("column", given.keys)
        leading = batch, num_heads // self.inner, side.positions.shape[1] // side.tile
        of_mesh = jax.typeof(arrays["q"]).manual_axis_type
        like = [jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype, manual_axis_type=of_mesh) for x in results]
        places = {name: OF_KEYS.get(name, ("row", "head")) for name in arrays}
        blocks = {name: self._block(x.shape, *places[name]) for name, x in arrays.items()}
        return pl.pallas_call(
            functools.partial(self._step, kernel, tuple(x.start for x in sums), len(results)),
            out_shape=like,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=len(steps),
                grid=(*leading[:2], self.steps.tile.shape[2], self.inner),
                in_specs=[{name: pl.BlockSpec(memory_space=pltpu.SMEM) for name in numbers}, blocks],
                out_specs=[self._block(x.shape, axis, "result") for x in like],
                scratch_shapes=[pltpu.VMEM(x.shape, x.dtype) for x in sums],
            ),
            interpret=self.interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary")
            ),
            cost_estimate=self._cost(kernel, [(x, *places[name]) for name, x in arrays.items()], like),
        )(*steps, numbers, arrays)

    def place(self, b, h, p, g, tile, other) -> _Place:
        """What a step is about, by the numbers of the grid and the steps in scalar memory."""
        batch, num_heads, count = self.steps.tile.shape
        head = h * self.inner + g
        at = ((b * num_heads if batch > 1 else 0) + (head if num_heads > 1 else 0)) * count + p
        mine, flags = jax.lax.shift_right_logical(tile[at], BITS), tile[at] & ((1 << BITS) - 1)
        row, column = (mine, other[at]) if self.is_by_row else (other[at], mine)
        kv_head = head if self.group == 1 else jax.lax.div(head, self.group)
        return _Place(b, head, kv_head, h, row, column, flags)

    def _numbers(self) -> dict[str, jax.Array]:
        """What lies in scalar memory, [B or 1, N or 1]."""
        given = self.given
        first = {name: side.positions[:, :1] for name, side in _sides(given) if side.run is not None}
        found = {"scale": given.scale, "soft_cap": given.soft_cap, **first}
        return {name: x for name, x in found.items() if x is not None}

    def _arrays(self) -> dict[str, jax.Array]:
        given = self.given
        found = {"q": _outward(given.q, given.queries.tile)}
        found |= {name: _outward(x, given.keys.tile) for name, x in (("k", given.k), ("v", given.v))}
        for name, side in _sides(given):
            vectors = [] if side.run is not None else [side.positions[:, None]]
            vectors += [] if side.segments is None else [side.segments[:, None]]
            if name == "keys" and given.of_key is not None:
                vectors.append(jax.lax.bitcast_convert_type(given.of_key, jnp.int32))
            found |= {name: _in_rows(vectors, side.tile, SUBLANES)} if vectors else {}
        return found

    def _block(self, shape: tuple[int, ...], side: str, heads: str) -> pl.BlockSpec:
        """One tile of queries or keys, of one head of queries, keys or results."""

        def index(b, h, p, g, tile, other):
            place = self.place(b, h, p, g, tile, other)
            batch, head = place.batch if shape[0] > 1 else 0, getattr(place, heads) if shape[1] > 1 else 0
            return batch, head, getattr(place, side), 0, 0

        return pl.BlockSpec((1, 1, 1, *shape[3:]), index)

    def _cost(self, kernel: _Kernel, fetched: list[tuple[jax.Array, str, str]], results: list) -> pl.CostEstimate:
        """What all steps compute and move; a tile is fetched whenever it is another one than in the step before."""
        given, (batch, num_heads, *_) = self.given, results[0].shape
        own, beside = self.steps.turns
        sides = {"row": own, "column": beside} if self.is_by_row else {"row": beside * self.inner, "column": own}
        moved = sum(sides[side] * _stored(x) for x, side, _ in fetched) + sum(x.shape[2] * _stored(x) for x in results)
        pairs = batch * num_heads * self.inner * self.steps.tile.shape[2] * given.queries.tile * given.keys.tile
        widths = kernel.products[0] * given.q.shape[3] + kernel.products[1] * given.v.shape[3]
        return pl.CostEstimate(2 * pairs * widths, pairs, batch * num_heads * moved)

    def _step(self, kernel, starts, count, tile, other, numbers, arrays, *refs) -> None:
        """One step: the sums of a tile begin, grow and end."""
        b, h, p, g = (pl.program_id(axis) for axis in range(4))
        place = self.place(b, h, p, g, tile, other)
        step, results, sums = _Step(self.given, numbers, arrays, place), refs[:count], refs[count:]
        is_set = lambda flag: (place.flags & flag) != 0

        @pl.when(is_set(FIRST) & (g == 0))
        def _():
            for x, start in zip(sums, starts, strict=True):
                x[...] = jnp.full_like(x, start)

        @pl.when(is_set(PAIR))
        def _():
            partly, whole = (functools.partial(kernel.add, step, sums, is_partial) for is_partial in (True, False))
            jax.lax.cond(is_set(PARTIAL), partly, whole)

        @pl.when(is_set(LAST) & (g == self.inner - 1))
        def _():
            for x, found in zip(results, kernel.end(step, sums), strict=True):
                x[0, 0, 0] = found.astype(x.dtype)


# What is fetched by tile of keys, and whose head it is; all else is of queries.
OF_KEYS = {"k": ("column", "kv_head"), "v": ("column", "kv_head"), "keys": ("column", "head")}


class _Place(NamedTuple):
    """What a step is about: numbers of an example, of heads, and of tiles; and what kind it is."""

    batch: Any
    head: Any
    kv_head: Any
    result: Any  # a head of results
    row: Any
    column: Any
    flags: Any


@dataclasses.dataclass(frozen=True)
class _Step:
    """One pair of tiles as a kernel sees it."""

    given: Operands
    numbers: dict[str, Any]
    arrays: dict[str, Any]
    place: _Place

    def of(self, name: str) -> jax.Array:
        """The tile of an array."""
        return self.arrays[name][0, 0, 0]

    def number(self, name: str) -> jax.Array:
        """A number of scalar memory."""
        ref = self.numbers[name]
        return ref[self.place.batch if ref.shape[0] > 1 else 0, self.place.head if ref.shape[1] > 1 else 0]

    def scores(self, is_partial: bool) -> tuple[jax.Array, jax.Array | None]:
        """Scores [s, t], -inf for what is hidden, and, where they are capped, the ratio of score and cap before."""
        scores, ratio = _dot(self.of("k"), self.of("q"), OUTER) * self.number("scale"), None
        if self.given.soft_cap is not None:
            ratio = scores / self.number("soft_cap")
            scores = self.number("soft_cap") * jnp.tanh(ratio)
        keys = self._keys()
        if self.given.of_key is not None:
            scores += jax.lax.bitcast_convert_type(keys[-1], jnp.float32)
        return jnp.where(self._visible(keys), scores, -jnp.inf) if is_partial else scores, ratio

    def pulled(self, is_partial: bool) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Weights [s, t], gradients of scores, and ratios as above."""
        scores, ratio = self.scores(is_partial)
        weights = jnp.exp(scores - self.of("top") - self.of("log_total"))
        return weights, weights * (_dot(self.of("v"), self.of("d_out"), OUTER) + self.of("shift")), ratio

    def _visible(self, keys: list[jax.Array]) -> jax.Array:
        given = self.given
        queries = [self.of("queries")[n : n + 1] for n in range(SUBLANES)] if "queries" in self.arrays else []
        i = self._positions("queries", self.place.row, queries, 1)
        j = self._positions("keys", self.place.column, keys, 0)
        seen = given.visible(i, j, self.place.head)
        if given.queries.segments is None:
            return seen
        is_second = lambda side: 0 if side.run is not None else 1
        return seen & (queries[is_second(given.queries)] == keys[is_second(given.keys)])

    def _keys(self) -> list[jax.Array]:
        """What goes with each key, [s, 1] each."""
        if "keys" not in self.arrays:
            return []
        count = (self.given.keys.run is None) + (self.given.keys.segments is not None) + (self.given.of_key is not None)
        beside = self.of("keys").T
        return [beside[:, n : n + 1] for n in range(count)]

    def _positions(self, name: str, tile, vectors: list[jax.Array], axis: int) -> jax.Array:
        """Where queries [1, t] or keys [s, 1] stand."""
        side = dict(_sides(self.given))[name]
        if side.run is None:
            return vectors[0]
        shape = (1, side.tile) if axis else (side.tile, 1)
        index = tile * side.tile + jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        place = index + self.number(name)
        if side.run == side.positions.shape[1]:
            return place
        return jnp.where(index < side.run, place, -NOWHERE if axis else NOWHERE)


class _Kernel:
    """What is done with each pair of tiles, and with the sums of a tile once all are met.

    Attributes:
      products: of tiles, how many are as wide as queries, and as values.
    """

    products: tuple[int, int]

    def add(self, step: _Step, sums, is_partial: bool) -> None:
        raise NotImplementedError

    def end(self, step: _Step, sums) -> Iterator[jax.Array]:
        raise NotImplementedError


class _Forward(_Kernel):
    """Outputs, largest scores and logarithms of sums; sums are the largest score, the sum, and that of values."""

    products = 1, 1

    def add(self, step, sums, is_partial):
        top, total, out = sums
        scores, _ = step.scores(is_partial)
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


class _OfQueries(_Kernel):
    """Gradients of queries, and what each adds to that of the soft cap."""

    products = 2, 1

    def add(self, step, sums, is_partial):
        _, d_scores, ratio = step.pulled(is_partial)
        if ratio is not None:
            bounded = jnp.tanh(ratio)
            sums[1][...] += (d_scores * (bounded - ratio * (1 - bounded**2))).sum(axis=0, keepdims=True)
        sums[0][...] += _dot(step.of("k"), _operand(_uncapped(d_scores, ratio), step.of("k")), INNER)

    def end(self, step, sums):
        return (sums[0][...] * step.number("scale")).T, *(x[...] for x in sums[1:])


class _OfKeys(_Kernel):
    """Gradients of keys, of values and of what is added to the scores of each key."""

    products = 2, 2

    def add(self, step, sums, is_partial):
        weights, d_scores, ratio = step.pulled(is_partial)
        q, d_out = step.of("q"), step.of("d_out")
        d_products = _uncapped(d_scores, ratio) * step.number("scale")
        sums[0][...] += _dot(_operand(d_products, q), q, PLAIN)
        sums[1][...] += _dot(weights.astype(d_out.dtype), d_out, PLAIN)
        if step.given.of_key is not None:
            sums[2][...] += _dot(jnp.ones((SUBLANES, d_scores.shape[1]), jnp.float32), d_scores, OUTER)

    def end(self, step, sums):
        return (x[...] for x in sums)


def _uncapped(d_scores: jax.Array, ratio: jax.Array | None) -> jax.Array:
    """Gradients of capped scores as those of scaled products."""
    return d_scores if ratio is None else d_scores * (1 - jnp.tanh(ratio) ** 2)


def _operand(pairs: jax.Array, beside: jax.Array) -> jax.Array:
    """Gradients of pairs as an operand of the products that sum them."""
    return pairs.astype(beside.dtype)


def _dot(a: jax.Array, b: jax.Array, dimensions) -> jax.Array:
    """A product summed in float32; of float32, precise, whatever the default is where the kernel is traced."""
    dtype = jnp.promote_types(a.dtype, b.dtype)
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), dimensions, precision, preferred_element_type=jnp.float32
    )


def _sides(given: Operands):
    return ("queries", given.queries), ("keys", given.keys)


def _outward(x: jax.Array, tile: int) -> jax.Array:
    """[B, L, heads, H] -> [B, heads, tiles, tile, H]."""
    x = jnp.moveaxis(x, 2, 1)
    return x.reshape(*x.shape[:2], -1, tile, x.shape[3])


def _inward(x: jax.Array, group: int = 1) -> jax.Array:
    """[B, heads, tiles, tile, H] -> [B, L, heads, H], summed over groups of heads."""
    x = x.reshape(x.shape[0], -1, group, x.shape[2] * x.shape[3], x.shape[4])
    return jnp.moveaxis(x[:, :, 0] if group == 1 else x.sum(axis=2), 1, 2)


def _in_rows(vectors: list[jax.Array], tile: int, rows: int = 1) -> jax.Array:
    """Several [B or 1, heads or 1, L] -> [B or 1, heads or 1, tiles, rows, tile], filled up with zeros."""
    x = jnp.stack(jnp.broadcast_arrays(*vectors), axis=2)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, rows - x.shape[2]), (0, 0)))
    return jnp.moveaxis(x.reshape(*x.shape[:3], -1, tile), 3, 2)


def _stored(x: jax.Array | jax.ShapeDtypeStruct) -> int:
    """Bytes of a tile of an array [B, heads, tiles, rows, lanes] in memory, where lanes are filled up."""
    return x.shape[3] * (-(-x.shape[4] // LANES) * LANES) * x.dtype.itemsize


def _by_query(x: jax.Array) -> jax.Array:
    """[B, heads, tiles, 1, tile] -> [B, heads, L]."""
    return x.reshape(*x.shape[:2], -1)


# Measured nowhere: the largest whose scores fit VMEM several times, and of a pattern's size those that fill registers.
DEVICE = device((Tiles(quantum=128, largest=512, grain=16),) * 2)
