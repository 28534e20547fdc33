"""Which tiles of the [T, S] rectangle to visit: the work of a softmax kernel, decided before any arithmetic.

Queries and keys are laid out as tiles of positions (`natural`, `interleaved`), -1 where a tile is not full. A
schedule lists, step by step, one tile of queries and a few tiles of keys; tiles that the mask hides entirely are
never listed.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from attnzoo.masking import Mask


class Schedule(NamedTuple):
    """Steps over tiles. Step p visits query tile rows[p] and key tiles blocks[p], of which -1 stands for none.

    Attributes:
      rows: int [P].
      blocks: int [P, L]. A pair of tiles is listed at most once.
    """

    rows: np.ndarray | jax.Array
    blocks: np.ndarray | jax.Array


class Layout(NamedTuple):
    """How one head is cut into tiles.

    Attributes:
      rows: query indices of each tile, int [R, t], -1 for none.
      columns: key indices of each tile, int [C, s], -1 for none.
      visited: the steps over these tiles.
    """

    rows: np.ndarray
    columns: np.ndarray
    visited: Schedule


def tile_size(length: int, largest: int) -> int:
    """The size, at most about `largest`, that splits `length` evenly with the least padding."""
    tiles = max(1, -(-length // largest))
    return max(1, -(-length // tiles))


def natural(length: int, size: int) -> np.ndarray:
    """Positions 0..length-1 in order: int [tiles, size]."""
    return _tiled(np.arange(length), size)


def interleaved(length: int, size: int, dilation: int, offset: int = 0) -> np.ndarray:
    """Indices whose positions (index + offset) are equal modulo `dilation` stand together, in order."""
    index = np.arange(length)
    return _tiled(index[np.argsort((index + offset) % dilation, kind="stable")], size)


def _tiled(index: np.ndarray, size: int) -> np.ndarray:
    tiles = max(1, -(-len(index) // size))
    return np.pad(index, (0, tiles * size - len(index)), constant_values=-1).reshape(tiles, size).astype(np.int32)


def visible_tiles(
    mask: Mask, rows: np.ndarray, columns: np.ndarray, *, dilation: int = 1, global_tokens: int = 0, width: int = 1
) -> Schedule:
    """The tiles that causality and bands leave visible.

    Args:
      mask: its structure alone is read, no array.
      rows: query indices [R, t] in an order where those of one residue modulo `dilation` stand together.
      columns: key indices [C, s], likewise.
      dilation: keys of other residues than the query's are hidden, `global_tokens` apart.
      global_tokens: the first keys, listed for every query that causality lets see them.
      width: key tiles a step.
    """
    size = columns.shape[1]
    place = np.empty(mask.key_length, np.int64)
    flat = columns.reshape(-1)
    place[flat[flat >= 0]] = np.flatnonzero(flat >= 0)
    steps = []
    for row, tile in enumerate(rows):
        blocks = sorted(_visible_blocks(mask, tile[tile >= 0], place, size, dilation, global_tokens))
        blocks += [-1] * (-len(blocks) % width)
        steps += [(row, blocks[start : start + width]) for start in range(0, len(blocks), width)]
    return Schedule(
        np.array([row for row, _ in steps], np.int32),
        np.array([blocks for _, blocks in steps], np.int32).reshape(len(steps), width),
    )


def _visible_blocks(mask: Mask, queries: np.ndarray, place: np.ndarray, size: int, dilation: int, global_tokens: int):
    blocks = set()
    positions = queries + mask.query_offset
    for residue in np.unique(positions % dilation):
        same = queries[positions % dilation == residue]
        low, high = mask.span(int(same.min()), int(same.max()))
        low, high = low + (residue - low) % dilation, high - (high - residue) % dilation
        if low <= high:
            blocks.update(range(place[low] // size, place[high] // size + 1))
    if global_tokens and len(queries):
        last = min(global_tokens, len(place), positions.max() + 1 if mask.is_causal else len(place))
        blocks.update(place[: max(last, 0)] // size)
    return blocks
