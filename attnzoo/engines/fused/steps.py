"""Lists of pairs as steps one after another, for a device that writes a tile when it leaves it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.engines.fused.pairs import Pairs
from attnzoo.engines.progressions import Numbers, as_arithmetic

FIRST, LAST, PAIR, PARTIAL = 1, 2, 4, 8  # what a step is
BITS = 4


class Steps(NamedTuple):
    """A step for each pair, and one for each tile beside which none stands, so that it is written, too.

    Attributes:
      tile: whose results are made, and what the step is: int32 [1 or B, 1 or N, steps], tile * 2^BITS + flags.
      other: the tile beside it, of the same shape.
      turns: how often, at most, the tile and the one beside it are another one than in the step before.
    """

    tile: jax.Array
    other: jax.Array
    turns: tuple[int, int]

    @staticmethod
    def of(pairs: Pairs) -> Steps:
        """Where pairs are traced, steps that do nothing follow the last one."""
        if isinstance(pairs.other, np.ndarray):
            tile, other = _of_one(*(x[0, 0] for x in pairs))
            turns = pairs.middle.shape[-1], 1 + int(np.count_nonzero(np.diff(other)))
            return Steps(as_arithmetic(tile)[None, None], as_arithmetic(other)[None, None], turns)
        traced: Any = jax.vmap(jax.vmap(_of_one))
        tile, other = traced(*map(jnp.asarray, pairs))
        return Steps(tile, other, (pairs.middle.shape[-1], tile.shape[-1]))


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
