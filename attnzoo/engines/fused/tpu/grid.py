"""What a kernel of a TPU sees of one pair of tiles, and what is done with it, however tiles come to it.

They come one pair after another (`stepped.py`), or all that a head meets at once (`held.py`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnzoo.engines.fused.operands import NOWHERE, Operands, Side
from attnzoo.engines.fused.pairs import Pairs
from attnzoo.engines.fused.tpu.folding import LANES, SUBLANES, Heads, among, before, in_rows, picked

# What is fetched by tile of keys, and whose head it is; all else is of queries.
OF_KEYS = {"k": ("column", "kv"), "v": ("column", "kv"), "averages": ("column", "kv"), "keys": ("column", "queries")}
# What has heads side by side, as wide as those of an operand; all else has them one below the other.
WIDE = {"q": "q", "k": "k", "v": "v", "averages": "k", "out": "v", "d_out": "v"}


class Array(NamedTuple):
    """What a kernel holds of one tile and head: a result, or a running sum, which starts at a number.

    Attributes:
      axis: along which results of a fold stand.
      is_shared: whether it is one of all heads of a fold, each of which has lanes or rows in it.
    """

    shape: tuple[int, int]
    dtype: Any = jnp.float32
    start: float = 0.0
    axis: int = 0
    is_shared: bool = False

    def folded(self, fold: int) -> tuple[int, int]:
        """The shape of a result of all heads of a fold."""
        rows, lanes = (
            size * (1 if self.is_shared or axis != self.axis else fold) for axis, size in enumerate(self.shape)
        )
        return rows, lanes

    def held(self, fold: int, *leading: int) -> list[Any]:
        """Memory of a running sum, for each head of a fold, or for all."""
        return [pltpu.VMEM((*leading, *self.shape), self.dtype)] * (1 if self.is_shared else fold)


class Place(NamedTuple):
    """What a pair is: numbers of an example, of folds and of tiles."""

    batch: Any
    queries: Any
    kv: Any
    results: Any
    row: Any
    column: Any


class Kernel:
    """What is done with each pair of tiles of one head, and with its sums once all are met."""

    @property
    def products(self) -> tuple[float, float]:
        """Of tiles, how many are as wide as queries, and as values."""
        raise NotImplementedError

    def begin(self, step: Step, sums: tuple[Any, ...]) -> None:
        """Where sums start from more than their numbers."""

    def add(self, step: Step, sums: tuple[Any, ...], is_partial: bool) -> None:
        raise NotImplementedError

    def end(self, step: Step, sums: tuple[Any, ...]) -> Iterable[jax.Array]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Grid:
    """How a kernel goes over tiles, whose running sums are of a tile of queries, or of one of keys.

    Arrays are [B or 1, folds or 1, L, lanes], where a token is a row, or [B or 1, folds or 1, tiles, rows, tile], of
    which it sees one fold at a time. The former end where the sequence ends: what is read behind that is no number
    until it is hidden, and what is written there is dropped.

    Attributes:
      pairs: what stands beside each of these tiles.
    """

    given: Operands
    pairs: Pairs
    is_by_row: bool
    interpret: bool

    @functools.cached_property
    def heads(self) -> Heads:
        raise NotImplementedError

    def call(self, kernel: Kernel, more: dict, results: tuple[Array, ...], sums: tuple[Array, ...]) -> list[jax.Array]:
        """The results of all tiles; `more` are arrays beside those that each kernel is given."""
        raise NotImplementedError

    @property
    def are_alike(self) -> bool:
        """Whether the same tiles stand beside those of all heads."""
        return self.pairs.start.shape[1] == 1

    @property
    def are_apart(self) -> bool:
        """Whether heads that share keys get results of these apart: tiles beside a key, or what is added, differ."""
        differ = not self.are_alike or self.given.of_key is not None
        return not self.is_by_row and self.heads.group > 1 and differ

    @property
    def inner(self) -> int:
        """Folds of queries whose results are summed."""
        return 1 if self.is_by_row or self.are_apart else self.heads.turns

    @property
    def axis(self) -> str:
        """Along which the tiles lie whose results are made."""
        return "row" if self.is_by_row else "column"

    @property
    def tiles(self) -> int:
        """Of which results are made."""
        return lies(self.given, self.axis).tiles

    def numbers(self) -> dict[str, jax.Array]:
        """What lies in scalar memory, [B or 1, N or 1]."""
        found = {name: side.positions[:, :1] for name, side in sides(self.given) if side.run is not None}
        by_head = {"scale": self.given.scale, "soft_cap": self.given.soft_cap}
        return found | {name: x for name, x in by_head.items() if x is not None}

    def arrays(self) -> dict[str, jax.Array]:
        """What each kernel is given."""
        given = self.given
        found = {name: self.heads.outward(getattr(given, name)) for name in ("q", "k", "v")}
        for name, side in sides(given):
            vectors = [] if side.run is not None else [side.positions[:, None]]
            vectors += [] if side.segments is None else [side.segments[:, None]]
            if name == "keys" and given.of_key is not None:
                added = jax.lax.bitcast_convert_type(given.of_key, jnp.int32)
                own = min(added.shape[1], self.heads.fold)
                vectors += list(jnp.moveaxis(added.reshape(len(added), -1, own, added.shape[2]), 2, 0))
            found |= {name: in_rows(vectors, side.tile)} if vectors else {}
        return found

    def like(self, results: tuple[Array, ...], of: jax.Array, folds: int, axis: str) -> list[jax.ShapeDtypeStruct]:
        """Shapes of the results of so many folds and all tiles of an axis, which vary over a mesh as an array does."""
        of_mesh = jax.typeof(of).manual_axis_type
        shapes = [self._shape(x, folds, axis) for x in results]
        return [
            jax.ShapeDtypeStruct(x, y.dtype, manual_axis_type=of_mesh) for x, y in zip(shapes, results, strict=True)
        ]

    def block(self, shape: tuple[int, ...], tile: tuple[int, int], axis: str, folds: str) -> pl.BlockSpec:
        """What is seen of an array with such tiles of queries or keys, of one fold of queries, keys or results."""
        raise NotImplementedError

    def blocks(self, arrays: dict, results: tuple[Array, ...], like: list) -> tuple[dict, list]:
        """Those of arrays and of results."""
        given = {
            name: self.block(x.shape, self._tile(name, x), axis_of(name), folds_of(name)) for name, x in arrays.items()
        }
        tiles = [x.folded(self.heads.fold) for x in results]
        return given, [self.block(x.shape, own, self.axis, "results") for x, own in zip(like, tiles, strict=True)]

    def place(self, b: Any, queries: Any, results: Any, mine: Any, other: Any) -> Place:
        """Of a pair: an example, folds of queries and of results, a tile whose results are made, and one beside it."""
        turns = self.heads.turns
        kv = queries if turns == 1 else jax.lax.div(queries, np.int32(turns))
        return Place(b, queries, kv, results, *((mine, other) if self.is_by_row else (other, mine)))

    def each(self, held: Any, numbers: dict, arrays: dict, place: Place) -> Each:
        """What each head of a fold sees, and its sums."""
        step = functools.partial(Step, self.given, self.heads, self.are_apart, numbers, arrays, place)
        return [(step(n), tuple(x[n % len(x)] for x in held)) for n in range(self.heads.fold)]

    def cost(self, kernel: Kernel, pairs: int, moved: int) -> pl.CostEstimate:
        """Of so many pairs of tiles, those of all heads counted, and bytes."""
        given = self.given
        scores = pairs * given.queries.tile * given.keys.tile
        widths = kernel.products[0] * given.q.shape[3] + kernel.products[1] * given.v.shape[3]
        return pl.CostEstimate(int(2 * scores * widths), scores, moved)

    def _tile(self, name: str, x: jax.Array) -> tuple[int, int]:
        """That of one fold of an array."""
        if name not in WIDE:
            return x.shape[3], x.shape[4]
        fold = self.heads.beside if folds_of(name) == "kv" else self.heads.fold
        rows = SUBLANES if name == "averages" else lies(self.given, axis_of(name)).tile
        return rows, fold * getattr(self.given, WIDE[name]).shape[3]

    def _shape(self, x: Array, folds: int, axis: str) -> tuple[int, ...]:
        batch, (rows, lanes), side = len(self.given.q), x.folded(self.heads.fold), lies(self.given, axis)
        if x.axis == 0:
            return batch, folds, side.tiles, rows, lanes
        length = ends(self.given, axis) if rows == side.tile else side.tiles * rows
        across = 1 if lanes % LANES == 0 else folds
        return batch, across, length, folds // across * lanes


@dataclasses.dataclass(frozen=True)
class Step:
    """One pair of tiles of one head, as a kernel sees it."""

    given: Operands
    heads: Heads
    are_apart: bool
    numbers: dict[str, Any]
    arrays: dict[str, Any]
    place: Place
    fold: int  # the place of the head in its fold

    def of(self, name: str) -> jax.Array:
        """The tile of an array."""
        own = self.fold
        if name not in WIDE:
            return self.arrays[name][0, 0, self._tile(name), own : own + 1]
        fold, place = (self.heads.beside, self._place_of_key) if folds_of(name) == "kv" else (self.heads.fold, own)
        width = self.arrays[name].shape[3] // fold
        return picked(lambda n: self.wide(name, slice(n * width, (n + 1) * width)), fold, place)

    def wide(self, name: str, lanes: slice = slice(None)) -> jax.Array:
        """Such lanes of the tile of an array, with zeros behind the end of the sequence."""
        axis, tiles = axis_of(name), self.arrays[name]
        tile, length, at = lies(self.given, axis).tile, ends(self.given, axis), getattr(self.place, axis)
        is_held = tiles.shape[2] > tile
        rows = pl.ds(pl.multiple_of(at * tile, tile), tile) if is_held else slice(None)
        x = tiles[0, 0, rows, lanes]
        return before(length - at * tile, x, 0) if length % tile else x

    def among(self, name: str) -> jax.Array:
        """The tile of an array in the lanes that its head has in what is shared by heads, beside zeros."""
        count, place = (self.heads.fold, self.fold) if self.are_apart else (self.heads.beside, self._place_of_key)
        return among(self.of(name), count, place)

    def row(self, count: int) -> Any:
        """Which of so many rows its head has in what is shared by heads."""
        return jax.lax.rem(self.heads.number(self.place.queries, self.fold), np.int32(count))

    @property
    def _place_of_key(self) -> Any:
        return self.heads.place_of_key(self.place.queries, self.fold)

    def _tile(self, name: str) -> Any:
        """Where that of a number of each token lies, which is seen alone or with all."""
        return getattr(self.place, axis_of(name)) if self.arrays[name].shape[2] > 1 else 0

    def number(self, name: str) -> jax.Array:
        """A number of scalar memory."""
        x = self.numbers[name]
        head = self.place.queries * self.heads.fold + self.fold
        return x[self.place.batch if x.shape[0] > 1 else 0, head if x.shape[1] > 1 else 0]

    def of_key(self) -> jax.Array:
        """What is added to the scores of each key, [s, 1]."""
        keys, added = self.given.keys, self.given.of_key
        before = (keys.run is None) + (keys.segments is not None)
        own = self.fold if added is not None and added.shape[1] > 1 else 0
        return jax.lax.bitcast_convert_type(self._vectors("keys")[before + own], jnp.float32)

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
        tile = self.arrays[name][0, 0, self._tile(name)]
        if name == "queries":
            return [tile[n : n + 1] for n in range(SUBLANES)]
        return [tile.T[:, n : n + 1] for n in range(SUBLANES)]


Each = list[tuple[Step, tuple[Any, ...]]]  # heads of a fold, with their sums


def begin(kernel: Kernel, each: Each, held: Any, sums: tuple[Array, ...]) -> None:
    """The sums of a tile, which stand first."""
    clear(held, sums)
    for step, own in each:
        kernel.begin(step, own)


def clear(held: Any, sums: tuple[Array, ...]) -> None:
    """Sums are the numbers that they start from."""
    for of_heads, like in zip(held, sums, strict=True):
        for x in of_heads:
            x[...] = jnp.full_like(x, like.start)


def end(kernel: Kernel, each: Each, results: tuple[Array, ...], found: tuple[Any, ...]) -> None:
    """The results of a tile are written."""
    ended = zip(*(kernel.end(step, own) for step, own in each), strict=True)
    for x, of_heads, like in zip(found, ended, results, strict=True):
        write(x, of_heads, like)


def write(x: Any, of_heads: Any, like: Array) -> None:
    """A result of all heads of a fold is written."""
    whole = of_heads[0] if like.is_shared else jnp.concatenate(of_heads, axis=like.axis)
    x[(0,) * (len(x.shape) - 2)] = whole.astype(x.dtype)


def block_of(shape: tuple[int, ...], lanes: int, place: Place, tile: Any, folds: str) -> tuple[Any, ...]:
    """Which block of an array a pair has, of an example, one fold of queries, keys or results, and a tile."""
    fold = getattr(place, folds)
    across, beside = (fold if size > 1 else 0 for size in (shape[1], shape[-1] // lanes))
    return place.batch if shape[0] > 1 else 0, across, tile, *(0,) * (len(shape) - 4), beside


def blocked(shape: tuple[int, ...], tile: tuple[int, int], count: int = 1) -> tuple[int, ...]:
    """The block of an array that has so many of such tiles, one behind another or each by itself."""
    rows, lanes = tile
    return (1, 1, count * rows, lanes) if len(shape) == 4 else (1, 1, count, rows, lanes)


def sides(given: Operands) -> tuple[tuple[str, Side], tuple[str, Side]]:
    """Queries and keys, by name."""
    return ("queries", given.queries), ("keys", given.keys)


def lies(given: Operands, axis: str) -> Side:
    """What lies along an axis."""
    return given.queries if axis == "row" else given.keys


def ends(given: Operands, axis: str) -> int:
    """Tokens along an axis, where the last tile may have fewer."""
    return (given.q if axis == "row" else given.k).shape[1]


def axis_of(name: str) -> str:
    """Along which the tiles of an array lie."""
    return OF_KEYS.get(name, ("row",))[0]


def folds_of(name: str) -> str:
    """Whose folds an array has."""
    return OF_KEYS.get(name, ("row", "queries"))[1]
