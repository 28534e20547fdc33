"""The tiles that a layout visits as flat lists, sorted by the tile whose results stay in fast memory meanwhile.

By row, which is by tile of queries, for outputs and the gradient of queries; by column for those of keys and values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from attnzoo.engines.progressions import Numbers, numpy_of
from attnzoo.engines.schedule import Layout, Schedule


class Pairs(NamedTuple):
    """What stands beside each tile: `other[start[r] : start[r + 1]]`, whole ones before the others.

    Leaves lead with [1 or B, 1 or N]; of one head they lead with nothing. They are NumPy's where known beforehand. What
    follows the last start is no pair.
    """

    start: Numbers  # int32 [..., tiles + 1]
    middle: Numbers  # int32 [..., tiles]: where those begin in which something may be hidden
    other: Numbers  # int32 [..., pairs]


class Lists(NamedTuple):
    """The same pairs, sorted both ways."""

    by_row: Pairs
    by_column: Pairs


def of_layout(layout: Layout) -> Lists:
    """The pairs of one head; what fills tiles up is hidden, whatever the layout says of them."""
    nothing = np.zeros(0, np.int32)
    flat = [_flat(visited) for visited in layout.schedules] or [(nothing, nothing, nothing)]
    xp = numpy_of(*(x for each in flat for x in each))
    row, column, is_partial = (xp.concatenate(each).astype(np.int32) for each in zip(*flat, strict=True))
    count = len(layout.rows), len(layout.columns)
    is_pair = (row >= 0) & (column >= 0)
    if isinstance(layout.rows, np.ndarray) and isinstance(layout.columns, np.ndarray):  # as all that is whole
        rows, columns = ((x < 0).any(axis=1) for x in (layout.rows, layout.columns))
        is_partial = is_partial | xp.asarray(rows)[row] | xp.asarray(columns)[column]
    sides = (row, column, count[0]), (column, row, count[1])
    return Lists(*(_sorted(xp, *side, is_partial, is_pair) for side in sides))


def _flat(visited: Schedule) -> tuple[Numbers, Numbers, Numbers]:
    """Rows, columns and whether something may be hidden, [pairs] each; a column of -1 is none."""
    rows, blocks = visited.rows, visited.blocks
    if visited.turns is not None:
        turn = np.arange(visited.turns.sum()) - np.repeat(np.cumsum(visited.turns) - visited.turns, visited.turns)
        rows, blocks = (np.repeat(x, visited.turns, axis=0) for x in (rows, blocks))
        blocks = blocks + turn[:, None, None] * blocks.shape[2]
    row = numpy_of(rows).repeat(rows.reshape(-1), blocks.shape[2])
    return row, blocks.reshape(-1), np.full(row.shape, not visited.is_whole)


def _sorted(xp: Any, tile: Numbers, other: Numbers, count: int, is_partial: Numbers, is_pair: Numbers) -> Pairs:
    kind = xp.where(is_pair, 2 * tile + is_partial, 2 * count).astype(np.int32)
    order = xp.lexsort((other, kind))
    kind, other = kind[order], other[order]
    bounds = xp.searchsorted(kind, np.arange(2 * count + 1, dtype=np.int32)).astype(np.int32)
    start, middle = bounds[::2], bounds[1::2]
    other = other[: start[-1]] if xp is np else jnp.maximum(other, 0)
    return Pairs(start, middle, other)
