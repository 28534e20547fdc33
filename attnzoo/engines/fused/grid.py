"""The steps of a kernel of a TPU: which tiles it sees in each, and what is done with them.

The grid is (B, folds, steps, folds of a group): steps are in scalar memory, from which it is read ahead what is fetched
next, and running sums stay in VMEM until the tile that they belong to is left.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnzoo.contract import varying
from attnzoo.engines.fused.folding import SUBLANES, Heads, in_rows, stored
from attnzoo.engines.fused.operands import NOWHERE, Operands, Side
from attnzoo.engines.fused.steps import BITS, FIRST, LAST, PAIR, PARTIAL, Steps

# What is fetched by tile of keys, and whose head it is; all else is of queries.
OF_KEYS = {"k": ("column", "kv"), "v": ("column", "kv"), "keys": ("column", "queries")}
# What has heads side by side, as wide as those of an operand; all else has them one below the other.
WIDE = {"q": "q", "k": "k", "v": "v", "out": "v", "d_out": "v"}


class Array(NamedTuple):
    """What a kernel holds of one tile and head: a result, or a running sum, which starts at a number."""

    shape: tuple[int, int]
    dtype: Any = jnp.float32
    start: float = 0.0
    axis: int = 0  # along which results of a fold stand


class Place(NamedTuple):
    """What a step is about: numbers of an example, of folds and of tiles; and what kind it is."""

    batch: Any
    queries: Any
    kv: Any
    results: Any
    row: Any
    column: Any
    flags: Any


class Kernel:
    """What is done with each pair of tiles of one head, and with its sums once all are met.

    Attributes:
      products: of tiles, how many are as wide as queries, and as values.
    """

    products: tuple[int, int]

    def begin(self, step: Step, sums: tuple[Any, ...]) -> None:
        """Where sums start from more than their numbers."""

    def add(self, step: Step, sums: tuple[Any, ...], is_partial: bool) -> None:
        raise NotImplementedError

    def end(self, step: Step, sums: tuple[Any, ...]) -> Iterable[jax.Array]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Grid:
    """All steps of a kernel, whose running sums are of a tile of queries, or of one of keys.

    Arrays are [B or 1, folds or 1, tiles, ...], of which it sees one tile of one fold at a time.
    """

    given: Operands
    steps: Steps
    is_by_row: bool
    interpret: bool

    @functools.cached_property
    def heads(self) -> Heads:
        return Heads.of(self.given, are_alike=self.steps.shared[1])

    @property
    def are_apart(self) -> bool:
        """Whether heads that share keys get gradients of keys apart: tiles beside a key, or what is added, differ."""
        return not self.steps.shared[1] or self.given.of_key is not None

    @property
    def inner(self) -> int:
        """Folds of queries whose results are summed."""
        return 1 if self.is_by_row or self.are_apart else self.heads.group

    def call(self, kernel: Kernel, more: dict, results: tuple[Array, ...], sums: tuple[Array, ...]) -> list[jax.Array]:
        """The results of all tiles."""
        given, lists = self.given, self.steps[:3]
        (tile, other, first), numbers, arrays = varying.alike((lists, self._numbers(), self._arrays() | more))
        side = given.queries if self.is_by_row else given.keys
        folds, tiles = self.heads.folds // self.inner, side.positions.shape[1] // side.tile
        of_mesh = jax.typeof(arrays["q"]).manual_axis_type
        like = [
            jax.ShapeDtypeStruct(self._shape(x, given.q.shape[0], folds, tiles), x.dtype, manual_axis_type=of_mesh)
            for x in results
        ]

        def call(first, tile, other, found):
            return self._of_page(kernel, (results, sums, like), (first, tile, other, numbers, arrays), found)

        nothing = varying.as_of([jnp.zeros(x.shape, x.dtype) for x in like], arrays["q"])
        return self.steps._replace(tile=tile, other=other, first=first).paged(call, nothing)

    def _of_page(self, kernel: Kernel, made: tuple, operands: tuple, found: list[jax.Array]) -> list[jax.Array]:
        """The results of the tiles of a page, written into those that were found before."""
        (results, sums, like), (*scalars, numbers, arrays), fold = made, operands, self.heads.fold
        axis = "row" if self.is_by_row else "column"
        fetched = {
            name: self._block(x.shape, self._lanes(name, x), *OF_KEYS.get(name, ("row", "queries")))
            for name, x in arrays.items()
        }
        written = [
            self._block(x.shape, _folded(y, fold)[1], axis, "results") for x, y in zip(like, results, strict=True)
        ]
        before = len(jax.tree.leaves(operands))
        called = pl.pallas_call(
            functools.partial(self._step, kernel, results, sums),
            out_shape=like,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=len(scalars),
                grid=(*self._leading, self.steps.tile.shape[3], self.inner),
                in_specs=[
                    {name: pl.BlockSpec(memory_space=pltpu.SMEM) for name in numbers},
                    fetched,
                    [pl.BlockSpec(memory_space=pl.ANY)] * len(found),
                ],
                out_specs=written,
                scratch_shapes=[pltpu.VMEM(x.shape, x.dtype) for x in sums * fold],
            ),
            input_output_aliases={before + place: place for place in range(len(found))},
            interpret=self.interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary")
            ),
            cost_estimate=self._cost(kernel, arrays, fetched, like, written),
        )
        return list(called(*scalars, numbers, arrays, found))

    @property
    def _leading(self) -> tuple[int, int]:
        """Examples, and folds of results, of a page."""
        (_, batch, folds, _), (are_all, are_all_heads) = self.steps.tile.shape, self.steps.shared
        return self.given.q.shape[0] if are_all else batch, self.heads.folds // self.inner if are_all_heads else folds

    def _place(self, b, h, p, g, first, tile, other) -> Place:
        """What a step is about, by the numbers of the grid and the steps in scalar memory."""
        (_, batch, folds, count), group = self.steps.tile.shape, self.heads.group
        at = ((b * folds if batch > 1 else 0) + (h if folds > 1 else 0)) * count + p
        b, h = first[0] + b, first[1] + h
        queries = h * self.inner + g
        mine, flags = jax.lax.shift_right_logical(tile[at], np.int32(BITS)), tile[at] & ((1 << BITS) - 1)
        row, column = (mine, other[at]) if self.is_by_row else (other[at], mine)
        kv = queries if group == 1 else jax.lax.div(queries, np.int32(group))
        return Place(b, queries, kv, h, row, column, flags)

    def _numbers(self) -> dict[str, jax.Array]:
        """What lies in scalar memory, [B or 1, N or 1]."""
        found = {name: side.positions[:, :1] for name, side in sides(self.given) if side.run is not None}
        by_head = {"scale": self.given.scale, "soft_cap": self.given.soft_cap}
        return found | {name: self.heads.numbers(x) for name, x in by_head.items() if x is not None}

    def _arrays(self) -> dict[str, jax.Array]:
        given, outward = self.given, self.heads.outward
        queries, keys = given.queries.tile, given.keys.tile
        found = {"q": outward(given.q, queries), "k": outward(given.k, keys), "v": outward(given.v, keys)}
        for name, side in sides(given):
            vectors = [] if side.run is not None else [side.positions[:, None]]
            vectors += [] if side.segments is None else [side.segments[:, None]]
            if name == "keys" and given.of_key is not None:
                vectors.append(jax.lax.bitcast_convert_type(given.of_key, jnp.int32))
            found |= {name: in_rows(vectors, side.tile)} if vectors else {}
        return found

    def _shape(self, x: Array, batch: int, folds: int, tiles: int) -> tuple[int, ...]:
        """Of a result of all tiles."""
        if x.axis == 1:
            return self.heads.shape(batch, tiles, x.shape[0], folds * self.heads.fold, x.shape[1])
        return batch, folds, tiles, *_folded(x, self.heads.fold)

    def _lanes(self, name: str, x: jax.Array) -> int:
        """Of one fold."""
        return self.heads.fold * getattr(self.given, WIDE[name]).shape[3] if name in WIDE else x.shape[4]

    def _block(self, shape: tuple[int, ...], lanes: int, side: str, folds: str) -> pl.BlockSpec:
        """One tile of queries or keys, of one fold of queries, keys or results."""

        def index(b, h, p, g, *steps):
            place = self._place(b, h, p, g, *steps)
            fold = getattr(place, folds)
            across, beside = (fold if size > 1 else 0 for size in (shape[1], shape[4] // lanes))
            return place.batch if shape[0] > 1 else 0, across, getattr(place, side), 0, beside

        return pl.BlockSpec((1, 1, 1, shape[3], lanes), index)

    def _cost(self, kernel: Kernel, arrays: dict, fetched: dict, results: list, written: list) -> pl.CostEstimate:
        """What a page computes and moves, of as much as all; a tile is fetched whenever it is another one than in the
        step before.
        """
        given, (own, beside), pages = self.given, self.steps.turns, len(self.steps.first)
        turns = {"row": own, "column": beside} if self.is_by_row else {"row": beside * self.inner, "column": own}
        side = lambda name: OF_KEYS.get(name, ("row",))[0]
        moved = sum(turns[side(name)] * stored(fetched[name].block_shape, x.dtype) for name, x in arrays.items())
        moved += sum(own * stored(block.block_shape, x.dtype) for x, block in zip(results, written, strict=True))
        folds = given.q.shape[0] * self.heads.folds
        steps = math.prod(self._leading) * self.inner * self.steps.tile.shape[3]
        pairs = steps * self.heads.fold * given.queries.tile * given.keys.tile
        widths = kernel.products[0] * given.q.shape[3] + kernel.products[1] * given.v.shape[3]
        return pl.CostEstimate(2 * pairs * widths, pairs, folds // self.inner * moved // pages)

    def _step(self, kernel, results, sums, first, tile, other, numbers, arrays, _before, *refs) -> None:
        """One step: the sums of a tile begin, grow and end."""
        b, h, p, g = (pl.program_id(axis) for axis in range(4))
        place = self._place(b, h, p, g, first, tile, other)
        found, held = refs[: len(results)], refs[len(results) :]
        is_set = lambda flag: (place.flags & flag) != 0
        each = [
            (Step(self.given, self.heads, numbers, arrays, place, n), held[n * len(sums) : (n + 1) * len(sums)])
            for n in range(self.heads.fold)
        ]

        @pl.when(is_set(FIRST) & (g == 0))
        def _():
            for x, like in zip(held, sums * self.heads.fold, strict=True):
                x[...] = jnp.full_like(x, like.start)
            for step, own in each:
                kernel.begin(step, own)

        def add(is_partial):
            for step, own in each:
                kernel.add(step, own, is_partial)

        @pl.when(is_set(PAIR))
        def _():
            jax.lax.cond(is_set(PARTIAL), lambda: add(True), lambda: add(False))

        @pl.when(is_set(LAST) & (g == self.inner - 1))
        def _():
            ended = zip(*(kernel.end(step, own) for step, own in each), strict=True)
            for x, of_heads, like in zip(found, ended, results, strict=True):
                x[0, 0, 0] = jnp.concatenate(of_heads, axis=like.axis).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Step:
    """One pair of tiles of one head, as a kernel sees it."""

    given: Operands
    heads: Heads
    numbers: dict[str, Any]
    arrays: dict[str, Any]
    place: Place
    fold: int  # the place of the head in its fold

    def of(self, name: str) -> jax.Array:
        """The tile of an array."""
        tile, own = self.arrays[name], self.fold
        if name not in WIDE:
            return tile[0, 0, 0, own : own + 1]
        width = tile.shape[-1] // self.heads.fold
        return tile[0, 0, 0, :, own * width : (own + 1) * width]

    def number(self, name: str) -> jax.Array:
        """A number of scalar memory."""
        x = self.numbers[name]
        head = self.place.queries * self.heads.fold + self.fold
        return x[self.place.batch if x.shape[0] > 1 else 0, head if x.shape[1] > 1 else 0]

    def of_key(self) -> jax.Array:
        """What is added to the scores of each key, [s, 1]."""
        keys = self.given.keys
        last = (keys.run is None) + (keys.segments is not None)
        return jax.lax.bitcast_convert_type(self._vectors("keys")[last], jnp.float32)

    def visible(self) -> jax.Array:
        """Which keys [s, 1] the queries [1, t] may see, [s, t]."""
        (queries, rows), (keys, columns) = (self._stands(name, side) for name, side in sides(self.given))
        seen = self.given.visible(queries, keys, self.heads.number(self.place.queries, self.fold))
        return seen if self.given.queries.segments is None else seen & (rows == columns)

    def _stands(self, name: str, side: Side) -> tuple[jax.Array, jax.Array | None]:
        """Positions and segments of a tile."""
        vectors = self._vectors(name)
        segments = None if side.segments is None else vectors[side.run is None]
        if side.run is None:
            return vectors[0], segments
        is_keys = name == "keys"
        tile, shape = (self.place.column, (side.tile, 1)) if is_keys else (self.place.row, (1, side.tile))
        index = tile * side.tile + jax.lax.broadcasted_iota(jnp.int32, shape, 1 - is_keys)
        positions = index + self.number(name)
        if side.run < side.positions.shape[1]:
            positions = jnp.where(index < side.run, positions, NOWHERE if is_keys else -NOWHERE)
        return positions, segments

    def _vectors(self, name: str) -> list[jax.Array]:
        """What goes with each query, [1, t], or with each key, [s, 1]."""
        if name not in self.arrays:
            return []
        tile = self.arrays[name][0, 0, 0]
        if name == "queries":
            return [tile[n : n + 1] for n in range(SUBLANES)]
        return [tile.T[:, n : n + 1] for n in range(SUBLANES)]


def sides(given: Operands) -> tuple[tuple[str, Side], tuple[str, Side]]:
    """Queries and keys, by name."""
    return ("queries", given.queries), ("keys", given.keys)


def _folded(x: Array, fold: int) -> tuple[int, ...]:
    """The shape of a result of all heads of a fold."""
    return tuple(size * (fold if axis == x.axis else 1) for axis, size in enumerate(x.shape))
