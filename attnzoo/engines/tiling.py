"""Between sequences and their tiles: cut by the indices that a layout lists, and brought into order again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.mask import pick
from attnzoo.engines.progressions import Numbers, as_arithmetic, few


def is_natural(index: Numbers, length: int) -> bool:
    """Whether tiles list 0, 1, ... one after another, and it is known."""
    return isinstance(index, np.ndarray) and np.array_equal(index.reshape(-1)[:length], np.arange(length))


def cut(array: jax.Array, index: Numbers) -> jax.Array:
    """[T, ...] -> [R, t, ...]; what stands where `index` is -1 is hidden by the mask."""
    if is_natural(index, len(array)):
        tiles = jnp.pad(array, [(0, index.size - len(array))] + [(0, 0)] * (array.ndim - 1))
    else:
        tiles = jnp.take(array, as_arithmetic(index).reshape(-1), axis=0, mode="clip")
    return tiles.reshape(*index.shape, *array.shape[1:])


def cut_pairs(array: jax.Array, rows: Numbers, columns: Numbers) -> jax.Array:
    """[T or 1, S or 1] -> [R or 1, C or 1, t or 1, s or 1]."""
    row_tiles, column_tiles = ((1, 1) if n == 1 else i.shape for n, i in zip(array.shape, (rows, columns), strict=True))
    for axis, index in enumerate((rows, columns)):
        array = pick(array, as_arithmetic(index).reshape(-1), axis)
    return array.reshape(row_tiles + column_tiles).swapaxes(1, 2)


def join(tiles: jax.Array, index: Numbers, length: int, fill: float) -> jax.Array:
    """[R, t, ...] -> [T, ...], the inverse of `cut`; `fill` for positions that no tile holds."""
    flat = tiles.reshape(-1, *tiles.shape[2:])
    if is_natural(index, length):
        return flat[:length]
    place = _inverse(index, length)
    found = jnp.take(flat, place, axis=0, mode="clip")
    return jnp.where((place < 0).reshape(-1, *(1,) * (flat.ndim - 1)), fill, found)


def _inverse(index: Numbers, length: int) -> Numbers:
    """Where in `index` [R, t] each of 0..length-1 stands, -1 for those that do not.

    Whole numbers are scattered, none of them to a place outside; what they order is gathered.
    """
    index = few(index).reshape(-1)
    if isinstance(index, np.ndarray):
        inverse = np.full(length + 1, -1, np.int32)
        inverse[np.where(index < 0, length, index)] = np.arange(index.size)
        return inverse[:length]
    place = jnp.arange(index.size, dtype=jnp.int32)
    return jnp.full(length + 1, -1, jnp.int32).at[jnp.where(index < 0, length, index)].set(place)[:length]


def join_pairs(pairs: jax.Array, rows: Numbers, columns: Numbers, shape: tuple[int, int]) -> jax.Array:
    """[R or 1, C or 1, t or 1, s or 1] -> [T or 1, S or 1], the inverse of `cut_pairs`."""
    array = pairs.swapaxes(1, 2)
    array = array.reshape(array.shape[0] * array.shape[1], -1)
    for axis, (length, index) in enumerate(zip(shape, (rows, columns), strict=True)):
        if length > 1:
            array = jnp.moveaxis(join(jnp.moveaxis(array, axis, 0)[None], index, length, 0), 0, axis)
    return array
