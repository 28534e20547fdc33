"""Which tiles of the [T, S] rectangle to visit: the work of a softmax kernel, decided before any arithmetic.

Queries and keys are laid out as tiles of positions (`natural`, `interleaved`), -1 where a tile is not full. A
schedule lists, step by step, a few tiles of queries and, beside each, a few tiles of keys; tiles that the mask hides
entirely are not listed, and tiles that it leaves whole are set apart, since nothing has to be hidden in them. What a
row of tiles sees is a few intervals, so that a schedule is as long as the rows and not as the pairs of tiles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.mask import Mask
from attnzoo.engines import heads
from attnzoo.engines.fused import way
from attnzoo.engines.progressions import Numbers, as_arithmetic, few, numpy_of

# Pairs of queries and keys in one step. Measured on a CPU (length 4096, H = 64, float32): 512 x 4096 is within 3% of
# the best, since scores of all keys need no running maximum, and 512 x 512 loses 40%.
PAIRS = 2**21

# Of several tiles of queries in a step, one head after another: scores that stay in a core's cache. Measured on a CPU
# for a window of 256 keys: at 8,192 tokens 2^17 take two thirds of the time of 2^21, and a single tile a little more.
CACHED = 2**17

# Tiles of a window that are smaller pay for the loop.
SMALLEST_TILE = 128

Index = TypeVar("Index", bound=Numbers)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Steps over tiles. Entry p visits query tiles rows[p, g], each beside key tiles blocks[p, g], -1 for none.

    Attributes:
      rows: int [P, G], none twice in a step.
      blocks: int [P, G, L]. A pair of tiles is listed at most once.
      turns: int [P], the steps that an entry stands for, each with the L blocks that follow those of the one before it;
        None where all are one step.
      is_run: the L key tiles follow each other, so that they are one slice.
      is_whole: nothing is hidden in these pairs of tiles.

    Example:
      >>> from attnzoo.engines import streaming
      >>> layout = streaming.natural_layout(Mask(4, 4, is_causal=True), tile=(2, 2), pairs=4)
      >>> [(x.rows.tolist(), x.blocks.tolist(), x.is_whole) for x in layout.schedules]  # nothing for tile 0 beside 1
      [([[1]], [[[0]]], True), ([[0], [1]], [[[0]], [[1]]], False)]
    """

    rows: Numbers
    blocks: Numbers
    turns: np.ndarray | None = None
    is_run: bool = False
    is_whole: bool = False

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.rows) if self.turns is None else int(self.turns.sum())

    @property
    def visits(self) -> int:
        """How often a tile of queries is taken up."""
        return self.steps * self.rows.shape[1]

    def scan(self, step: Callable[[Any, Numbers, Numbers], Any], carry: Any) -> Any:
        """The carry after `step(carry, rows [G], blocks [G, L])` of all steps."""
        if self.steps == 1:  # a loop would be traced again for every axis that it is mapped over
            return step(carry, few(self.rows[0]), few(self.blocks[0]))
        rows, blocks = as_arithmetic(self.rows), as_arithmetic(self.blocks)
        if self.turns is None:
            return jax.lax.scan(lambda carry, listed: (step(carry, *listed), None), carry, (rows, blocks))[0]
        turns, width = as_arithmetic(self.turns), blocks.shape[2]

        def advance(state, _):
            carry, entry, turn = state
            carry = step(carry, rows[entry], blocks[entry] + turn * width)
            is_last = turn + 1 == turns[entry]
            return (carry, entry + is_last, jnp.where(is_last, 0, turn + 1)), None

        start = carry, jnp.int32(0), jnp.int32(0)
        return jax.lax.scan(advance, start, length=self.steps)[0][0]


class Layout(NamedTuple):
    """How one head is cut into tiles.

    Attributes:
      rows: query indices of each tile, int [R, t], -1 for none.
      columns: key indices of each tile, int [C, s], -1 for none.
      schedules: the steps over these tiles.

    Example:
      >>> from attnzoo.engines import streaming
      >>> layout = streaming.natural_layout(Mask(4, 4, is_causal=True), tile=(2, 2))
      >>> layout.rows.tolist()
      [[0, 1], [2, 3]]
    """

    rows: Numbers
    columns: Numbers
    schedules: tuple[Schedule, ...]


def tile_size(length: int, largest: int) -> int:
    """The size, at most about `largest`, that splits `length` evenly with the least padding, and suits the device."""
    if (suited := way.tiles()) is not None:
        return suited.size(length, largest)
    tiles = max(1, -(-length // largest))
    return max(1, -(-length // tiles))


def window_tile_size(length: int, reach: int, largest: int) -> int:
    """The size for windows whose wider side has so many keys: half as many, beside which fewer hidden ones stand.

    Measured on a CPU for 257 and 513 causal keys, these take a ninth less time than tiles as long as the side forward,
    and a fifth less with gradients. A device that has tiles of its own fetches less for ones as long.
    """
    wanted = reach // 2 if way.tiles() is None else reach
    return tile_size(length, min(max(wanted, SMALLEST_TILE), largest))


def natural(length: int, size: int) -> np.ndarray:
    """Positions 0..length-1 in order: int [tiles, size]."""
    return tiled(np.arange(length), size)


def interleaved(length: int, size: int, dilation: int, offset: int = 0) -> np.ndarray:
    """Indices whose positions (index + offset) are equal modulo `dilation` stand together, in order."""
    index = np.arange(length)
    return tiled(index[np.argsort((index + offset) % dilation, kind="stable")], size)


def tiled(index: Index, size: int) -> Index:
    """Indices in the order given: int [tiles, size]."""
    tiles, xp = max(1, -(-len(index) // size)), numpy_of(index)
    return xp.pad(index, (0, tiles * size - len(index)), constant_values=-1).reshape(tiles, size).astype(np.int32)


def rows_apart(length: int, size: int, dilation: int) -> np.ndarray:
    """Indices of one residue modulo `dilation` stand together, and no tile holds two residues: int [tiles, size]."""
    tiles = -(-max(1, -(-length // dilation)) // size)
    place = np.arange(tiles * size) * dilation
    index = np.arange(max(1, min(dilation, length)))[:, None] + place
    return np.where(index < length, index, -1).reshape(-1, size).astype(np.int32)


class Spans(NamedTuple):
    """Key tiles first .. last beside a tile of queries, each int [...]; those of one row are disjoint, in order."""

    row: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @property
    def widths(self) -> np.ndarray:
        """How many tiles are in each."""
        return self.last - self.first + 1

    def where(self, condition: np.ndarray) -> Spans:
        """Some of them."""
        return Spans(*(x[condition] for x in self))


def visible_tiles(
    mask: Mask,
    rows: np.ndarray,
    columns: np.ndarray,
    *,
    dilation: int = 1,
    pinned: int = 0,
    pairs: int = PAIRS,
    kinds: np.ndarray | None = None,
) -> tuple[Schedule, ...]:
    """The tiles that causality and bands leave visible; where the place of queries is traced, those in reach of it.

    Args:
      mask: of its arrays, only whether they are there is asked.
      rows: query indices [R, t], in an order where those of one residue modulo `dilation` stand together; where their
        place is traced, `rows_apart`.
      columns: key indices [C, s], by residue and then in order; keys that another layout visits may be missing.
      dilation: keys of other residues than the query's are hidden.
      pinned: how many tiles that follow those of `columns` stand beside every query.
      pairs: of queries and keys in one step, at most about.
      kinds: what a caller's functions leave of the tiles, [R, C], as `listing.kinds` tells; None where it is not known.
    """
    if mask.is_known:
        seen = _visible(mask, rows, columns, dilation)
        if pinned:
            beside_all = _spans(np.flatnonzero((rows >= 0).any(axis=1)), len(columns), len(columns) + pinned - 1)
            seen = _united(Spans(*map(np.concatenate, zip(seen, beside_all, strict=True))), len(columns) + pinned)
        return _listed(mask, rows, columns, seen, pairs, pinned, kinds)
    width = _in_reach(mask, rows, columns, dilation)
    if width >= len(columns) or np.count_nonzero(columns >= 0) < mask.key_length:
        return all_tiles(mask, rows, columns, pinned=pinned, pairs=pairs)
    blocks = _first_in_reach(mask, rows, columns, dilation, width)[:, None] + jnp.arange(width)[None]
    if pinned:
        last = jnp.broadcast_to(len(columns) + jnp.arange(pinned), (len(rows), pinned))
        blocks = jnp.concatenate([blocks, last], axis=1)
    return _beside(jnp.arange(len(rows)), blocks, _widest(pairs, rows, columns), not pinned)


def all_tiles(
    mask: Mask, rows: Numbers, columns: np.ndarray, *, pinned: int = 0, pairs: int = PAIRS
) -> tuple[Schedule, ...]:
    """Every tile of keys, `pinned` ones that follow included, beside every tile of queries, whatever their order; rows
    [R, t] may be traced.
    """
    everything = _spans(np.arange(len(rows)), 0, len(columns) + pinned - 1)
    return _listed(mask, rows, columns, everything, pairs, pinned)


def own_blocks(mask: Mask, block_size: int, columns: np.ndarray) -> Layout:
    """A tile of queries for each block of positions, beside the tile of keys of the same block.

    Args:
      mask: of its arrays, only whether they are there is asked.
      columns: keys of each block, int [C, s], counted from the first; not all keys of a block need be there.
    """
    own, rows = in_blocks(mask, block_size)
    if columns.shape[1] == 0:
        return Layout(rows, columns, ())
    together = _together(PAIRS, block_size * columns.shape[1])
    exists = (own >= 0) & (own < len(columns))
    if not mask.is_placed:
        blocks = jnp.where(exists, own, -1)[:, None]
        return Layout(rows, columns, in_steps(jnp.arange(len(rows)), blocks, together))
    low, high = mask.core(np.array([0]), np.array([mask.query_length - 1]))
    is_whole = low[0] == 0 and high[0] == mask.key_length - 1 and bool((rows >= 0).all() and (columns >= 0).all())
    visited = np.flatnonzero(exists).astype(np.int32)
    return Layout(rows, columns, in_steps(visited, own[visited, None], together, False, is_whole))


def in_blocks(mask: Mask, block_size: int) -> tuple[Numbers, Numbers]:
    """The blocks of positions [R] in which queries stand, and the queries [R, block_size] of each; as many as there may
    be where their place is traced.
    """
    place, length, known = mask.query_offset, mask.query_length, mask.is_placed
    first = place // block_size
    count = (place + length - 1) // block_size - first + 1 if known else (length + block_size - 2) // block_size + 1
    xp = np if known else jnp
    own = (first + xp.arange(count)).astype(xp.int32)
    index = own[:, None] * block_size + xp.arange(block_size)[None] - place
    return own, xp.where((index >= 0) & (index < length), index, -1).astype(xp.int32)


def in_steps(rows, blocks, together: int, is_run: bool = False, is_whole: bool = False) -> tuple[Schedule, ...]:
    """Rows [P] and the blocks [P, L] beside them, `together` rows in a step; what is left over is a step of its own."""
    even = len(rows) // together * together
    parts = [(rows[:even], blocks[:even], together), (rows[even:], blocks[even:], len(rows) - even)]
    return tuple(
        Schedule(rows.reshape(-1, group), blocks.reshape(-1, group, blocks.shape[1]), None, is_run, is_whole)
        for rows, blocks, group in parts
        if len(rows)
    )


def _spans(row: np.ndarray, first: int, last: int) -> Spans:
    """The same tiles of keys for every row."""
    return Spans(row, np.full_like(row, first), np.full_like(row, last))


def _visible(mask: Mask, rows: np.ndarray, columns: np.ndarray, dilation: int) -> Spans:
    """What each row sees, as far as causality and bands tell."""
    there = rows >= 0
    row, query = np.nonzero(there)[0], rows[there].astype(np.int64)
    residue = (query + mask.place) % dilation
    begins = np.flatnonzero((np.diff(row, prepend=-1) != 0) | (np.diff(residue, prepend=-1) != 0))
    if not len(begins):
        return Spans(row, row, row)
    row, first, last = row[begins], np.minimum.reduceat(query, begins), np.maximum.reduceat(query, begins)
    residue, (low, high) = residue[begins], mask.span(first, last)
    keys = columns[columns >= 0].astype(np.int64)
    order = keys % dilation * mask.key_length + keys
    low, high = residue * mask.key_length + low, residue * mask.key_length + np.minimum(high, mask.key_length - 1)
    first, last = np.searchsorted(order, low), np.searchsorted(order, high, side="right") - 1
    size = columns.shape[1]
    return _united(Spans(row, first // size, last // size).where((low <= high) & (first <= last)), len(columns))


def _united(found: Spans, width: int) -> Spans:
    """Spans in order, with those joined that overlap or touch."""
    found = found.where(np.lexsort((found.first, found.row)))
    start = found.row * (width + 2)
    reached = np.maximum.accumulate(start + found.last)
    begins = np.flatnonzero(np.append(True, (start + found.first)[1:] > reached[:-1] + 1)[: len(start)])
    if not len(begins):
        return found
    return Spans(found.row[begins], found.first[begins], np.maximum.reduceat(found.last, begins))


def _in_reach(mask: Mask, rows: np.ndarray, columns: np.ndarray, dilation: int) -> int:
    """How many tiles of keys one tile of queries can see, wherever it stands."""
    left, right = (side // dilation for side in mask.reach)
    return -(-(rows.shape[1] - 1 + left + right) // columns.shape[1]) + 1


def _first_in_reach(mask: Mask, rows: np.ndarray, columns: np.ndarray, dilation: int, width: int) -> jax.Array:
    """The first of the `width` tiles of keys that each tile of `rows_apart` can see, int [R]."""
    begin = as_arithmetic(rows[:, 0]) + mask.query_offset
    residue, longer = begin % dilation, mask.key_length % dilation
    place = residue * (mask.key_length // dilation) + jnp.minimum(residue, longer)
    place += jnp.maximum(begin // dilation - mask.reach[0] // dilation, 0)
    return jnp.clip(place // columns.shape[1], 0, len(columns) - width)


def _beside(rows, blocks, widest: int, is_run: bool) -> tuple[Schedule, ...]:
    """Blocks [R, L] beside rows [R]: several rows in a step, or several steps for each row."""
    width = blocks.shape[1]
    if width <= widest:
        return in_steps(rows, blocks, widest // width, is_run)
    turns = -(-width // widest)
    blocks = jnp.pad(blocks, ((0, 0), (0, turns * widest - width)), constant_values=-1)
    return in_steps(jnp.repeat(rows, turns), blocks.reshape(-1, widest), 1)


def _listed(
    mask: Mask, rows, columns: np.ndarray, seen: Spans, pairs: int, pinned: int, kinds: np.ndarray | None = None
) -> tuple[Schedule, ...]:
    """The steps over what each row sees."""
    if kinds is not None:
        mask = dataclasses.replace(mask, mods=())
    inside, partly = _parted(seen, *_whole(mask, rows, columns))
    if kinds is not None:
        seen, inside, partly = _left_of(kinds, seen, inside)
    if not len(seen.row):
        return ()
    widest = _widest(pairs, rows, columns)
    row, begins = np.unique(seen.row, return_index=True)
    counts = np.add.reduceat(seen.widths, begins)
    if counts.max() <= widest and counts.max() * len(row) <= 1.25 * counts.sum():
        each = counts.max() * rows.shape[1] * columns.shape[1]
        together = 1 if way.tiles() is not None else _together(pairs, each)
        return _one_step_a_row(seen, row, begins, counts, len(columns) + pinned, not len(partly.row), together)
    return _several_steps_a_row(inside, partly, widest)


def _widest(pairs: int, rows: Numbers, columns: Numbers) -> int:
    """Tiles of keys beside one of queries in a step of so many pairs; one where a kernel takes them one by one."""
    return 1 if way.tiles() is not None else max(1, pairs // (rows.shape[1] * columns.shape[1]))


def _together(pairs: int, each: int) -> int:
    """Tiles of queries in a step of so many pairs, where each has so many."""
    return max(1, (min(pairs, CACHED) if heads.are_in_turn() else pairs) // each)


def _parted(seen: Spans, start: np.ndarray, stop: np.ndarray) -> tuple[Spans, Spans]:
    """Those of whole tiles, which lie from .. to in each row, and the others."""
    start, stop = start[seen.row], stop[seen.row]
    inside = Spans(seen.row, np.maximum(seen.first, start), np.minimum(seen.last, stop - 1))
    before = Spans(seen.row, seen.first, np.minimum(seen.last, start - 1))
    after = Spans(seen.row, np.maximum(seen.first, stop), seen.last)
    after = after.where(start < stop)  # where none is whole, all is before
    before = Spans(*(np.where(start < stop, x, y) for x, y in zip(before, seen, strict=True)))
    partly = Spans(*map(np.concatenate, zip(before, after, strict=True)))
    return inside.where(inside.widths > 0), partly.where(partly.widths > 0)


def _left_of(kinds: np.ndarray, seen: Spans, inside: Spans) -> tuple[Spans, Spans, Spans]:
    """What functions leave of all tiles, of whole ones, and of the others; `kinds` is 0, 1 or 2 for whole."""
    all_of, whole = _marked(seen, kinds.shape) & (kinds > 0), _marked(inside, kinds.shape) & (kinds == 2)
    return _runs(all_of), _runs(whole), _runs(all_of & ~whole)


def _marked(spans: Spans, shape: tuple[int, ...]) -> np.ndarray:
    """Which tiles are in spans, bool [R, C]."""
    turns = np.zeros((shape[0], shape[1] + 1), np.int32)
    np.add.at(turns, (spans.row, spans.first), 1)
    np.add.at(turns, (spans.row, spans.last + 1), -1)
    return turns.cumsum(axis=1)[:, :-1] > 0


def _runs(marked: np.ndarray) -> Spans:
    """The inverse."""
    turns = np.diff(np.pad(marked, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, first = np.nonzero(turns > 0)
    return Spans(row, first, np.nonzero(turns < 0)[1] - 1)


def _whole(mask: Mask, rows, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tiles of keys from .. to, the last not counted, that all queries of each row see, int [R] both."""
    if not isinstance(rows, np.ndarray):
        return np.zeros(len(rows), int), np.zeros(len(rows), int)
    low, high = mask.core(rows.min(axis=1).astype(np.int64), rows.max(axis=1).astype(np.int64))
    full = (columns >= 0).all(axis=1)
    least, most = (np.where(full, side, mask.key_length) for side in (columns.min(axis=1), columns.max(axis=1)))
    start = np.searchsorted(np.minimum.accumulate(least[::-1])[::-1], low)
    stop = np.searchsorted(np.maximum.accumulate(most), high, side="right")
    some = (rows.min(axis=1) >= 0) & (start < stop)
    return np.where(some, start, 0), np.where(some, stop, 0)


def _one_step_a_row(
    seen: Spans, row, begins, counts, key_tiles: int, is_whole: bool, together: int
) -> tuple[Schedule, ...]:
    """All key tiles of a row at once, `together` rows in a step; what is left over makes another schedule."""
    width = counts.max()
    is_whole = is_whole and bool((counts == width).all())
    first = np.minimum(seen.first[begins], key_tiles - width)
    is_run = bool((np.maximum.reduceat(seen.last, begins) < first + width).all())
    if is_run:
        blocks = first[:, None] + np.arange(width)  # which may reach beyond what is visible; the mask hides that
    else:
        blocks = np.full((len(row), width), -1)
        blocks[np.arange(width) < counts[:, None]] = _expanded(seen.first, seen.widths)
    return in_steps(row.astype(np.int32), blocks.astype(np.int32), together, is_run, is_whole)


def _several_steps_a_row(inside: Spans, partly: Spans, widest: int) -> tuple[Schedule, ...]:
    """Runs of `widest` tiles, or half as many, or a quarter ..., whole ones apart from those with something hidden."""
    schedules = []
    for spans, is_whole in ((inside, True), (partly, False)):
        row, first, left = spans.row, spans.first, spans.widths
        width = widest
        while width and len(row):
            turns = left // width
            some = turns > 0
            if some.any():
                blocks = first[some, None, None] + np.arange(width)
                again = turns[some] if turns.max() > 1 else None
                schedules.append(Schedule(row[some, None], blocks, again, True, is_whole))
            first, left, width = first + turns * width, left % width, width // 2
    return tuple(schedules)


def _expanded(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """first, first + 1, ... for each count, one after another."""
    return np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)
