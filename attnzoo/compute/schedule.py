"""Which tiles of the [T, S] rectangle to visit: the work of a softmax kernel, decided before any arithmetic.

Queries and keys are laid out as tiles of positions (`natural`, `interleaved`), -1 where a tile is not full. A
schedule lists, step by step, a few tiles of queries and, beside each, a few tiles of keys; tiles that the mask hides
entirely are not listed, and tiles that it leaves whole are set apart, since nothing has to be hidden in them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from attnzoo.masking import Mask

# Pairs of queries and keys in one step. Measured on a CPU (length 4096, H = 64, float32): 512 x 4096 is within 3% of
# the best, since scores of all keys need no running maximum, and 512 x 512 loses 40%; a window of 257 keys runs a
# fifth faster with several tiles of queries in a step.
PAIRS = 2**21


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """Steps over tiles. Step p visits query tiles rows[p, g], each beside key tiles blocks[p, g], -1 for none.

    Attributes:
      rows: int [P, G], none twice in a step.
      blocks: int [P, G, L]. A pair of tiles is listed at most once.
      is_run: the L key tiles follow each other, so that they are one slice.
      is_whole: nothing is hidden in these pairs of tiles.
    """

    rows: np.ndarray | jax.Array
    blocks: np.ndarray | jax.Array
    is_run: bool = dataclasses.field(default=False, metadata={"static": True})
    is_whole: bool = dataclasses.field(default=False, metadata={"static": True})


class Layout(NamedTuple):
    """How one head is cut into tiles.

    Attributes:
      rows: query indices of each tile, int [R, t], -1 for none.
      columns: key indices of each tile, int [C, s], -1 for none.
      schedules: the steps over these tiles.
    """

    rows: np.ndarray
    columns: np.ndarray
    schedules: tuple[Schedule, ...]


def tile_size(length: int, largest: int) -> int:
    """The size, at most about `largest`, that splits `length` evenly with the least padding."""
    tiles = max(1, -(-length // largest))
    return max(1, -(-length // tiles))


def natural(length: int, size: int) -> np.ndarray:
    """Positions 0..length-1 in order: int [tiles, size]."""
    return tiled(np.arange(length), size)


def interleaved(length: int, size: int, dilation: int, offset: int = 0) -> np.ndarray:
    """Indices whose positions (index + offset) are equal modulo `dilation` stand together, in order."""
    index = np.arange(length)
    return tiled(index[np.argsort((index + offset) % dilation, kind="stable")], size)


def tiled(index: np.ndarray, size: int) -> np.ndarray:
    """Indices in the order given: int [tiles, size]."""
    tiles = max(1, -(-len(index) // size))
    return np.pad(index, (0, tiles * size - len(index)), constant_values=-1).reshape(tiles, size).astype(np.int32)


def visible_tiles(
    mask: Mask,
    rows: np.ndarray,
    columns: np.ndarray,
    *,
    dilation: int = 1,
    global_tokens: int = 0,
    pairs: int = PAIRS,
) -> tuple[Schedule, ...]:
    """The tiles that causality and bands leave visible.

    Args:
      mask: of its arrays, only whether they are there is asked.
      rows: query indices [R, t] in an order where those of one residue modulo `dilation` stand together.
      columns: key indices [C, s], likewise; keys that another layout visits may be missing.
      dilation: keys of other residues than the query's are hidden, `global_tokens` apart.
      global_tokens: the first keys, listed for every query that causality lets see them.
      pairs: of queries and keys in one step, at most about.
    """
    size = columns.shape[1]
    place = np.full(mask.key_length, -1)
    flat = columns.reshape(-1)
    place[flat[flat >= 0]] = np.flatnonzero(flat >= 0)
    visible = {}
    for row, tile in enumerate(rows):
        blocks = sorted(_visible_blocks(mask, tile[tile >= 0], place, size, dilation, global_tokens))
        if blocks:
            visible[row] = blocks
    widest = max(1, pairs // (rows.shape[1] * size))
    counts = [len(blocks) for blocks in visible.values()]
    if not counts:
        return ()
    if max(counts) <= widest and max(counts) * len(counts) <= 1.25 * sum(counts):
        return _one_step_a_row(mask, rows, columns, visible, max(1, widest // max(counts)))
    return _several_steps_a_row(mask, rows, columns, visible, widest)


def own_blocks(mask: Mask, block_size: int, columns: np.ndarray) -> Layout:
    """A tile of queries for each block of positions, beside the tile of keys of the same block.

    Args:
      mask: of its arrays, only whether they are there is asked.
      columns: keys of each block, int [C, s], counted from the first; not all keys of a block need be there.
    """
    first = mask.query_offset // block_size
    last = (mask.query_offset + mask.query_length - 1) // block_size
    own = np.arange(first, last + 1)
    index = own[:, None] * block_size + np.arange(block_size) - mask.query_offset
    rows = np.where((index >= 0) & (index < mask.query_length), index, -1).astype(np.int32)
    if columns.shape[1] == 0:
        return Layout(rows, columns, ())
    visited = np.flatnonzero((own >= 0) & (own < len(columns))).astype(np.int32)
    is_whole = mask.covers((0, mask.query_length - 1), (0, mask.key_length - 1))
    is_whole &= bool((rows >= 0).all() and (columns >= 0).all())
    together = max(1, PAIRS // (block_size * columns.shape[1]))
    blocks = own[visited, None].astype(np.int32)
    return Layout(rows, columns, in_steps(visited, blocks, together, False, is_whole))


def in_steps(rows, blocks, together: int, is_run: bool = False, is_whole: bool = False) -> tuple[Schedule, ...]:
    """Rows [P] and the blocks [P, L] beside them, `together` rows in a step; what is left over is a step of its own."""
    even = len(rows) // together * together
    parts = [(rows[:even], blocks[:even], together), (rows[even:], blocks[even:], len(rows) - even)]
    return tuple(
        Schedule(rows.reshape(-1, group), blocks.reshape(-1, group, blocks.shape[1]), is_run, is_whole)
        for rows, blocks, group in parts
        if len(rows)
    )


def _visible_blocks(mask: Mask, queries: np.ndarray, place: np.ndarray, size: int, dilation: int, global_tokens: int):
    blocks = set()
    positions = queries + mask.query_offset
    for residue in np.unique(positions % dilation):
        same = queries[positions % dilation == residue]
        low, high = mask.span(int(same.min()), int(same.max()))
        low, high = low + (residue - low) % dilation, high - (high - residue) % dilation
        if low <= high:
            first, last = place[low], place[high]
            if first >= 0 and last - first == (high - low) // dilation:
                blocks.update(range(first // size, last // size + 1))
            else:
                blocks.update(np.unique(place[low : high + 1] // size))
    if global_tokens and len(queries):
        last = min(global_tokens, len(place), positions.max() + 1 if mask.is_causal else len(place))
        blocks.update(place[: max(last, 0)] // size)
    return blocks - {-1}


def _one_step_a_row(mask, rows, columns, visible: dict[int, list[int]], together: int) -> tuple[Schedule, ...]:
    """All key tiles of a row at once, `together` rows in a step; what is left over makes another schedule."""
    width = max(map(len, visible.values()))
    is_whole = all(_is_whole(mask, rows[row], columns[blocks]) for row, blocks in visible.items())
    is_whole &= all(len(blocks) == width for blocks in visible.values())
    runs = {row: min(blocks[0], len(columns) - width) for row, blocks in visible.items()}
    is_run = all(visible[row][-1] < start + width for row, start in runs.items())
    if is_run:
        # A run may reach beyond what is visible, which the mask hides.
        visible = {row: list(range(start, start + width)) for row, start in runs.items()}
    listed = [blocks + [-1] * (width - len(blocks)) for blocks in visible.values()]
    return in_steps(np.array(list(visible), np.int32), np.array(listed, np.int32), together, is_run, is_whole)


def _several_steps_a_row(mask, rows, columns, visible: dict[int, list[int]], widest: int) -> tuple[Schedule, ...]:
    """Runs of `widest` tiles, or half as many, or a quarter ..., whole ones apart from those with something hidden."""
    steps: dict[tuple[bool, int], list] = {}
    for row, blocks in visible.items():
        whole = {block: _is_whole(mask, rows[row], columns[[block]]) for block in blocks}
        for is_whole, run in itertools.groupby(_runs(blocks, whole), key=lambda run: whole[run[0]]):
            for start, width in _split(run, widest):
                steps.setdefault((is_whole, width), []).append((row, list(range(start, start + width))))
    schedules = ()
    for is_whole, width in sorted(steps, reverse=True):
        listed_rows, listed = zip(*steps[is_whole, width], strict=True)
        schedules += in_steps(np.array(listed_rows, np.int32), np.array(listed, np.int32), 1, True, is_whole)
    return schedules


def _runs(blocks: list[int], whole: dict[int, bool]) -> Iterable[list[int]]:
    """Neighbours that are all whole, or none of them."""
    for _, run in itertools.groupby(enumerate(blocks), key=lambda item: (item[1] - item[0], whole[item[1]])):
        yield [block for _, block in run]


def _split(runs: Iterable[list[int]], widest: int) -> Iterable[tuple[int, int]]:
    """Starts and widths of pieces of runs, each as wide as `widest` halved some times allows."""
    for run in runs:
        start, left = run[0], len(run)
        while left:
            width = widest
            while width > left:
                width //= 2
            yield start, width
            start, left = start + width, left - width


def _is_whole(mask: Mask, queries: np.ndarray, keys: np.ndarray) -> bool:
    """Whether these queries see all of these keys, as far as structure tells."""
    if queries.min() < 0 or keys.min() < 0:
        return False
    return mask.covers((int(queries.min()), int(queries.max())), (int(keys.min()), int(keys.max())))
