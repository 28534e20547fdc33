"""Where a sequence ends, as copies of a Hopper GPU know it: zeros come from behind it, and nothing is written there.

Shared memory has tiles of eight rows, as wgmma reads it. Copies that go by tiles know ends that eight divides, for they
see the device's memory in tiles, too. But tiles as wide as their rows lie one behind another as these do: copies see
the same memory without tiles, and any length ends where it ends.
"""

from __future__ import annotations

from typing import Any

from jax.experimental import pallas as pl

from attnzoo.engines.fused.hopper.warpgroups import ROW, TILE, Matrix, Vectors, div, plgpu, rem


def _is_wide(rows: Any) -> bool:
    """Whether a row lies in several tiles."""
    return rows.shape[-1] * rows.dtype.itemsize > ROW


def unit(*rows: Any) -> int:
    """What lengths of sequences of such rows are to be multiples of, so that copies know their end."""
    return TILE if any(map(_is_wide, rows)) else 1


def memory(block: Matrix | Vectors, interpret: Any, *shape: int):
    """Shared memory for a block of [*shape] rows, of which `views` are had."""
    read = block.memory(*shape)
    # Who interprets knows no memory of two kinds.
    return read if interpret or isinstance(block, Vectors) or _is_wide(read) else _by_rows(read)


def staging(block: Matrix | Vectors, interpret: Any, *shape: int):
    """The same for rows that wait to be written: where the end of a sequence lies within tiles, each goes by itself."""
    read = block.memory(*shape)
    if interpret or not _is_wide(read) or block.array.shape[1] % TILE == 0:
        return memory(block, interpret, *shape)
    return _by_rows(read)


def by_rows(block: Matrix, interpret: Any, *shape: int):
    """The same for rows that are copied one by one, in the `pieces` of each."""
    read = block.memory(*shape)
    return read if interpret else _by_rows(read)


def pieces(copied: Any, row: Any) -> list[tuple[Any, Any]]:
    """A row of such memory as copies know it, and the columns of each piece."""
    if len(copied.shape) == 2:
        return [(copied.at[pl.ds(row, 1)], pl.ds(0, copied.shape[1]))]
    _, columns, rows, part = copied.shape
    tile, inside = div(row, rows), rem(row, rows)
    return [(copied.at[tile, i, pl.ds(inside, 1)], pl.ds(i * part, part)) for i in range(columns)]


def _by_rows(read: Any):
    """Memory of tiles in which copies know each row: as it is where a tile is as wide, else tile by tile."""
    (*several, rows, width), (_, part) = read.shape, read.transforms[0].tiling
    return _copied_as(read, (*several, rows // TILE, width // part, TILE, part) if _is_wide(read) else read.shape)


def _copied_as(read: Any, shape: tuple[int, ...]):
    """Memory of tiles that lie one behind another, beside which copies know it in a shape without tiles."""
    return plgpu.RefUnion(read, plgpu.SMEM(shape, read.dtype, transforms=read.transforms[1:]))
