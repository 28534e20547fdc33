"""Projections along a sequence on a TPU, of each head its own: y_r = sum_s E_rs x_s.

Heads whose numbers fill registers lie side by side, and are a fold. Their E are one below the other, so that a tile of
the sequence is one product, in which each head keeps its own lanes. A tile of E stays while examples take turns: all is
read once. So it is for gradients, d_x = E^T d_y and d_E = sum_b d_y x^T, where d_y has zeros in lanes of other heads.
Products are of numbers rounded as tokens are, and summed in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnzoo.contract import varying
from attnzoo.engines.fused.tpu import mosaic
from attnzoo.engines.fused.tpu.folding import LANES, before, stored
from attnzoo.engines.fused.tpu.mosaic import INNER, OUTER, PLAIN, dot

DTYPES = ("bfloat16", "float32")
LONGEST = 2048  # tokens of a tile, which take longer to come than a step takes to begin
ROOM = 12 * 2**20  # bytes of VMEM, of which a TPU v4 has 16 MiB


def projected(
    projection: jax.Array, x: jax.Array, *, longest: int = LONGEST, interpret: bool = False
) -> jax.Array | None:
    """[B, r, N, H] of E [N, r, S] and x [B, S, K, H], float32; None of other types, and where a tile has no room."""
    if x.dtype.name not in DTYPES or projection.dtype != jnp.float32:
        return None
    folds = Folds.of(projection, x, longest)
    if folds.tile == 0:
        return None
    summed = _summed(folds, interpret, folds.stacked(projection), x.reshape(*x.shape[:2], -1))
    return folds.parted(summed)


class Folds(NamedTuple):
    """How heads and tokens are gone over.

    Attributes:
      heads: that have keys, in a fold. group: projections of each of them.
      rank: rows of a projection.
      folds: of all heads.
      width: numbers of a token of a head.
      batch, length: examples, and tokens.
      tile: tokens that are met at once; 0 where none have room.
    """

    heads: int
    group: int
    rank: int
    folds: int
    width: int
    batch: int
    length: int
    tile: int

    @staticmethod
    def of(projection: jax.Array, x: jax.Array, longest: int) -> Folds:
        (count, rank, _), (batch, length, key_heads, width) = projection.shape, x.shape
        fills = lambda heads: key_heads % heads == 0 and heads * width % LANES == 0
        heads = next(filter(fills, range(1, key_heads + 1)), key_heads)
        folds = Folds(heads, count // key_heads, rank, key_heads // heads, width, batch, length, longest)
        while folds.tile and folds._size(x.dtype) > ROOM:
            folds = folds._replace(tile=folds.tile // 2 if folds.tile > LANES else 0)
        return folds._replace(tile=min(folds.tile, length))

    @property
    def rows(self) -> int:
        """Of all projections of a fold."""
        return self.heads * self.group * self.rank

    @property
    def lanes(self) -> int:
        """Of all heads of a fold."""
        return self.heads * self.width

    def _size(self, dtype: Any) -> int:
        """Bytes that gradients take, with what comes while a step is at work."""
        of_sums, of_rows = (stored(x, jnp.float32) for x in ((self.rows, self.lanes), (self.rows, self.tile)))
        return 4 * (of_rows + stored((self.tile, self.lanes), dtype)) + 2 * self.batch * of_sums

    def stacked(self, projection: jax.Array) -> jax.Array:
        """[N, r, S] -> [folds, rows, S]."""
        return projection.reshape(self.folds, self.rows, self.length)

    def parted(self, sums: jax.Array) -> jax.Array:
        """[B, folds, rows, lanes] -> [B, r, N, H]: each head's own lanes."""
        shape = self.batch, self.folds, self.heads, self.group, self.rank, self.heads, self.width
        own = jnp.diagonal(sums.reshape(shape), axis1=2, axis2=5)  # [B, folds, group, r, H, heads]
        return own.transpose(0, 3, 1, 5, 2, 4).reshape(self.batch, self.rank, -1, self.width)

    @property
    def blocks(self) -> tuple[pl.BlockSpec, pl.BlockSpec, pl.BlockSpec]:
        """What a step, of a fold, a tile and an example, has of E, of tokens, and of the sums of all examples."""
        return (
            pl.BlockSpec((1, self.rows, self.tile), lambda h, s, b: (h, 0, s)),
            pl.BlockSpec((1, self.tile, self.lanes), lambda h, s, b: (b, s, h)),
            pl.BlockSpec((self.batch, 1, self.rows, self.lanes), lambda h, s, b: (0, h, 0, 0)),
        )

    def call(self, body: Callable, results: list, given: list[pl.BlockSpec], written: list[pl.BlockSpec], interpret):
        """A kernel that goes over all steps, examples first, and then tiles."""
        grid = self.folds, pl.cdiv(self.length, self.tile), self.batch

        def called(*operands):
            of_mesh = jax.typeof(operands[0]).manual_axis_type
            like = [jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=of_mesh) for x in results]
            moved = sum(x.size * x.dtype.itemsize for x in (*operands, *like))
            work = 2 * len(results) * self.batch * self.folds * self.rows * self.lanes * self.length
            kernel = pl.pallas_call(
                body,
                out_shape=like,
                grid=grid,
                in_specs=given,
                out_specs=written,
                interpret=interpret,
                compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
                cost_estimate=pl.CostEstimate(work, 0, moved),
            )
            return mosaic.run(kernel, *varying.alike(operands))

        return called


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _summed(folds: Folds, interpret: bool, projection: jax.Array, x: jax.Array) -> jax.Array:
    """float32 [B, folds, rows, lanes] of E [folds, rows, S] and x [B, S, all lanes]."""

    def body(rows, tokens, sums):
        tile, example = pl.program_id(1), pl.program_id(2)

        @pl.when(tile == 0)
        def _():
            sums[example, 0] = jnp.zeros_like(sums[example, 0])

        e, x = rows[0], tokens[0]
        if folds.length % folds.tile:  # what is read behind the end may be no number
            there = functools.partial(before, folds.length - tile * folds.tile)
            e, x = there(e, 1), there(x, 0)
        sums[example, 0] += dot(e.astype(x.dtype), x, PLAIN)

    of_rows, of_tokens, of_sums = folds.blocks
    sums = jax.ShapeDtypeStruct((folds.batch, folds.folds, folds.rows, folds.lanes), jnp.float32)
    (found,) = folds.call(body, [sums], [of_rows, of_tokens], [of_sums], interpret)(projection, x)
    return found


def _forward(folds: Folds, interpret: bool, projection: jax.Array, x: jax.Array):
    return _summed(folds, interpret, projection, x), (projection, x)


def _backward(folds: Folds, interpret: bool, operands: tuple[jax.Array, jax.Array], d_sums: jax.Array):
    def body(rows, tokens, d_sums, d_rows, d_tokens):
        example = pl.program_id(2)

        @pl.when(example == 0)
        def _():
            d_rows[...] = jnp.zeros_like(d_rows)

        x, d = tokens[0], d_sums[example, 0]
        d_rows[0] += dot(d, x, OUTER)
        d_tokens[0] = dot(rows[0].astype(x.dtype), d, INNER).astype(x.dtype)

    of_rows, of_tokens, of_sums = folds.blocks
    d_sums = d_sums.astype(operands[1].dtype)
    call = folds.call(body, list(operands), [of_rows, of_tokens, of_sums], [of_rows, of_tokens], interpret)
    return tuple(call(*operands, d_sums))


_summed.defvjp(_forward, _backward)
