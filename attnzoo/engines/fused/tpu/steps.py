"""Lists of pairs as steps one after another, for a device that writes a tile when it leaves it.

They come in pages, each of which scalar memory holds: some tiles of a list, or the lists of some examples and heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.engines.fused.pairs import Pairs
from attnzoo.engines.progressions import Numbers, as_arithmetic

FIRST, LAST, PAIR, PARTIAL = 1, 2, 4, 8  # what a step is
BITS = 4

PAGE = 2**16  # steps, each of two numbers of 32 bits, in half of the scalar memory of a TPU


class Steps(NamedTuple):
    """A step for each pair, and one for each tile beside which none stands, so that it is written, too.

    Attributes:
      tile: whose results are made, and what the step is: int32 [pages, b, n, steps], tile * 2^BITS + flags.
      other: the tile beside it, of the same shape.
      first: the example and the head of lists at which a page begins, int32 [pages, 2].
      shared: whether lists are those of all examples, and of all heads, of which a page has one then.
      turns: how often, at most, the tile and the one beside it are another one than in the step before.
    """

    tile: jax.Array
    other: jax.Array
    first: jax.Array
    shared: tuple[bool, bool]
    turns: tuple[int, int]

    @staticmethod
    def of(pairs: Pairs) -> Steps:
        """Where pairs are traced, steps that do nothing follow the last one."""
        if isinstance(pairs.other, np.ndarray):
            known: Any = _of_one(*(x[0, 0] for x in pairs))
            turns = pairs.middle.shape[-1], 1 + int(np.count_nonzero(np.diff(known[1])))
            tile, other = (as_arithmetic(x)[:, None, None] for x in _in_pages(*known))
            return Steps(tile, other, jnp.zeros((len(tile), 2), jnp.int32), (True, True), turns)
        traced: Any = jax.vmap(jax.vmap(_of_one))
        tile, other = traced(*map(jnp.asarray, pairs))
        batch, count, length = tile.shape
        rows, columns = _together(batch, count, length)
        cut = lambda x: x.reshape(batch // rows, rows, count // columns, columns, length).swapaxes(1, 2)
        tile, other = (cut(x).reshape(-1, rows, columns, length) for x in (tile, other))
        first = np.mgrid[:batch:rows, :count:columns].reshape(2, -1).T
        shared, turns = (batch == 1, count == 1), (pairs.middle.shape[-1], length)
        return Steps(tile, other, jnp.asarray(first, jnp.int32), shared, turns)

    def paged(self, call: Callable[..., list[jax.Array]], like: list[jax.Array]) -> list[jax.Array]:
        """What `call(first, tile, other, found)` of each page leaves of what those before it have found.

        Args:
          like: what the first one of several finds; a single one is given nothing.
        """
        pages = self.first, *(x.reshape(len(x), -1) for x in (self.tile, self.other))
        if len(self.first) == 1:
            return call(*(x[0] for x in pages), [])
        of = lambda page: [jax.lax.dynamic_index_in_dim(x, page, keepdims=False) for x in pages]
        add = lambda page, found: call(*of(page), found)
        return jax.lax.fori_loop(np.int32(0), np.int32(len(self.first)), add, like)


def most(pairs: Pairs) -> int:
    """Steps of a page, which holds no less than one tile of known pairs, or one list of others."""
    if isinstance(pairs.other, np.ndarray):
        return int(np.diff(pairs.start[0, 0]).max(initial=1))
    return pairs.other.shape[-1] + pairs.middle.shape[-1]


def _of_one(start: Numbers, middle: Numbers, other: Numbers) -> tuple[Numbers, Numbers]:
    xp = np if isinstance(other, np.ndarray) else jnp
    count = len(middle)
    pairs = start[1:] - start[:-1]
    width = xp.maximum(pairs, 1)
    end = xp.cumsum(width)
    step = np.arange(end[-1] if xp is np else len(other) + count, dtype=np.int32)
    tile = xp.minimum(xp.searchsorted(end, step, side="right"), count - 1)
    turn = step - (end - width)[tile]
    entry = start[tile] + turn
    is_pair = turn < pairs[tile]
    flags = FIRST * (turn == 0) + LAST * (turn == width[tile] - 1) + PAIR * is_pair
    flags += PARTIAL * (is_pair & (entry >= middle[tile]))
    beside = other[xp.clip(entry, 0, max(len(other) - 1, 0))] if len(other) else xp.zeros_like(entry)
    return ((tile << BITS) + flags).astype(np.int32), beside.astype(np.int32)


def _in_pages(tile: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[pages, steps] of whole tiles, which end with steps that do nothing."""
    ends = np.flatnonzero(tile & LAST) + 1
    bounds = [0]
    while bounds[-1] < ends[-1]:
        following, beyond = np.searchsorted(ends, [bounds[-1], bounds[-1] + PAGE], side="right")
        bounds.append(ends[max(following, beyond - 1)])
    begin, end = np.array(bounds[:-1])[:, None], np.array(bounds[1:])[:, None]
    place = begin + np.arange((end - begin).max())
    last = np.minimum(place, end - 1)
    return np.where(place < end, tile[last], tile[last] >> BITS << BITS), other[last]


def _together(batch: int, count: int, length: int) -> tuple[int, int]:
    """Of how many examples and heads a page has lists of so many steps."""
    largest = lambda size, unit: next(x for x in range(size, 0, -1) if size % x == 0 and (x * unit <= PAGE or x == 1))
    columns = largest(count, length)
    return largest(batch, count * length) if columns == count else 1, columns
