"""Which tiles a caller's functions hide entirely, and which they leave whole: asked of all pairs, where it is traced.

That is once for each function and length, takes O(T S) time on the host and remembers a number a tile. Heads share a
list: what one of them sees is visited for all. Bands and blocks are arithmetic and need none of it. Where anything that
a function closes over is traced, no tile is known: all are visited, and masked.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.functions import Program
from attnzoo.contract.mask import Mask
from attnzoo.engines import apart, schedule

NONE, PARTLY, WHOLE = range(3)

NOWHERE = np.int32(-(2**31))  # where no query or key stands

FINEST = 128  # queries and keys in the smallest tile
# Tiles of so many of the smallest, and what a pair costs in them beside one in the largest: small ones pay for loops.
COSTS = {4: 1.0, 2: 1.1, 1: 1.3}


class Positions(NamedTuple):
    """Positions in tiles, [tiles, size], -1 for none, by value: what `apart` remembers must be hashed."""

    shape: tuple[int, int]
    data: bytes

    @staticmethod
    def of(index: np.ndarray, offset: int = 0) -> Positions:
        moved = np.where(index < 0, NOWHERE, index.astype(np.int64) + offset)
        return Positions((index.shape[0], index.shape[1]), moved.astype(np.int32).tobytes())

    def array(self) -> np.ndarray:
        return np.frombuffer(self.data, np.int32).reshape(self.shape)


def is_known(mask: Mask) -> bool:
    """Whether there are functions, and it is known beforehand what they hide."""
    is_whole = mask.is_placed and mask.origin is None
    return bool(mask.mods) and is_whole and all(mod.program.constants is not None for mod in mask.mods)


def kinds(mask: Mask, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`NONE`, `PARTLY` or `WHOLE` of tiles of queries [R, t] beside tiles of keys [C, s], for all heads: [R, C]."""
    given = Positions.of(rows, mask.place), Positions.of(columns)
    each = [_kinds(mod.program, mod.num_heads, *given) for mod in mask.mods]
    return np.minimum.reduce(each)


def sizes(mask: Mask, largest: tuple[int, int]) -> tuple[int, int]:
    """Of tiles of queries and keys, those that are visited for the least."""
    lengths = mask.query_length, mask.key_length
    fine = [schedule.tile_size(length, FINEST) for length in lengths]
    rows, columns = map(schedule.natural, lengths, fine)
    seen = kinds(mask, rows, columns) != NONE

    def cost(times):
        padded = np.pad(seen, [(0, -size % times) for size in seen.shape])
        tiles = padded.reshape(padded.shape[0] // times, times, -1, times).any(axis=(1, 3))
        return np.count_nonzero(tiles) * times**2 * COSTS[times]

    fits = [times for times in COSTS if times * FINEST <= min(largest)] or [1]
    best = min(fits, key=cost)
    of_queries, of_keys = (min(best * size, length) for size, length in zip(fine, lengths, strict=True))
    return of_queries, of_keys


@apart.remembered
def _kinds(program: Program, num_heads: int, rows: Positions, columns: Positions) -> np.ndarray:
    heads = np.arange(num_heads if program.uses_head else 1, dtype=np.int32)

    def tile(constants, i, j):
        seen = jax.vmap(lambda head: program.over(constants, head, i, j))(heads)
        seen &= ((i != NOWHERE)[:, None] & (j != NOWHERE)[None, :])[None]
        return jnp.where(seen.all(), WHOLE, jnp.where(seen.any(), PARTLY, NONE)).astype(jnp.int8)

    def over(constants, rows, columns):
        return jax.lax.map(lambda i: jax.lax.map(lambda j: tile(constants, i, j), columns), rows)

    # Whether there are 64 bits belongs to a thread, too: here those are what they were where the function was traced.
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        constants = list(map(jnp.asarray, program.constants or (), program.dtypes))
        return jax.jit(over)(constants, rows.array(), columns.array())
