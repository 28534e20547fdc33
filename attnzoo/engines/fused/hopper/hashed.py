"""Which of some directions, or of their opposites, a row is nearest to, on a Hopper GPU: products that are not written.

Directions have more digits than rows, which tensor cores multiply. So they come as three numbers of the type of rows
each, whose products with rows are exact, and add up as in float32.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.hopper import warpgroups
from attnzoo.engines.fused.hopper.passes import Pass, Rule, launch
from attnzoo.engines.fused.hopper.warpgroups import Blocks, Matrix, Vectors, all_slots, products, spread

DIGITS = 3  # numbers for one of float32
TILE = 8  # directions that a product has a multiple of
MOST = 64  # of them, whose products registers hold
ROOM = 128 * 1024  # bytes of shared memory for directions of all rounds


def nearest(rotations: jax.Array, x: jax.Array, *, interpret: Any = None) -> jax.Array | None:
    """argmax [x R; -x R] of R [N, r, H, c] and x [B, L, K, H], int32 [B, r, N, L]; None of what kernels do not take."""
    (num_heads, rounds, _, count), (batch, length, _, _) = rotations.shape, x.shape
    is_known = x.dtype in warpgroups.DTYPES and x.shape[3] <= warpgroups.WIDTHS[-1] and count <= MOST
    if warpgroups.missing() or not is_known:
        return None
    x = warpgroups.widened(x)
    if rounds * DIGITS * count * x.shape[3] * x.dtype.itemsize > ROOM:
        return None
    behind = x.shape[3] - rotations.shape[2], -count % TILE
    rows = jnp.swapaxes(jnp.pad(rotations, ((0, 0), (0, 0), (0, behind[0]), (0, behind[1]))), 2, 3)
    digits, unit = _digits(rows, x.dtype)
    directions = {f"{r}_{i}": each[None, :, r] for r in range(rounds) for i, each in enumerate(digits)}

    def write(piece, held, own, place):
        for r in range(rounds):
            made = products(*((piece.x, getattr(own, f"{r}_{i}").T) for i in range(DIGITS)))
            turned = made[0] + (made[1] + made[2] * unit) * unit
            yield _first(turned, count)

    of_row = Vectors(jax.ShapeDtypeStruct((batch, num_heads, 1, all_slots(length)), jnp.int32))
    out: Blocks = {f"round_{r}": of_row for r in range(rounds)}
    work = Pass((batch, length, num_heads), {"x": Matrix(x)}, out, {}, {}, {}, fixed=directions)
    made = launch("nearest", work, Rule(make=lambda piece, held, own, place: place, write=write), interpret)
    return jnp.stack([made[name][:, :, 0, :length] for name in out], axis=1)


def _digits(x: jax.Array, dtype) -> tuple[list[jax.Array], float]:
    """Numbers of a type whose sum is x, each in units of the last digit of the one before."""
    unit, found = float(jnp.finfo(dtype).eps) / 2, []
    for _ in range(DIGITS):
        found.append(x.astype(dtype))
        x = (x - found[-1].astype(x.dtype)) / unit
    return found, unit


def _first(turned: jax.Array, count: int) -> jax.Array:
    """The first of the largest among columns and, behind `count` of them, their opposites; int32 [rows]."""
    sizes = jnp.abs(turned)
    largest = spread(sizes.max(axis=1), turned.shape)
    column = warpgroups.index(turned.shape, 1).astype(jnp.float32)
    place = jnp.where(turned == largest, column, column + count)
    return (-jnp.where(sizes == largest, -place, -jnp.inf).max(axis=1)).astype(jnp.int32)
