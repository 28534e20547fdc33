"""Pairs of tiles as steps of a kernel of a TPU, which is given one tile of each side in each.

The grid is (B, folds, steps, folds of a group): steps are in scalar memory, from which it is read ahead what is fetched
next, and running sums stay in VMEM until the tile that they belong to is left.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnzoo.contract import varying
from attnzoo.engines.fused.tpu import mosaic
from attnzoo.engines.fused.tpu.folding import Heads, stored
from attnzoo.engines.fused.tpu.grid import Grid, Kernel, Place, axis_of, begin, block_of, blocked, end
from attnzoo.engines.fused.tpu.steps import BITS, FIRST, LAST, PAIR, PARTIAL, Steps


@dataclasses.dataclass(frozen=True)
class Stepped(Grid):
    """All steps, in pages."""

    @functools.cached_property
    def heads(self) -> Heads:
        return Heads.of(self.given, self.are_alike)

    @functools.cached_property
    def steps(self) -> Steps:
        return Steps.of(self.pairs)

    def call(self, kernel, more, results, sums):
        lists = self.steps[:3]
        (tile, other, first), numbers, arrays = varying.alike((lists, self.numbers(), self.arrays() | more))
        like = self.like(results, arrays["q"], self.heads.folds // self.inner, self.axis)

        def call(first, tile, other, found):
            return self._of_page(kernel, (results, sums, like), (first, tile, other, numbers, arrays), found)

        nothing = varying.as_of([jnp.zeros(x.shape, x.dtype) for x in like], arrays["q"])
        return self.steps._replace(tile=tile, other=other, first=first).paged(call, nothing)

    def _of_page(self, kernel: Kernel, made: tuple, operands: tuple, found: list[jax.Array]) -> list[jax.Array]:
        """The results of the tiles of a page, written into those that were found before."""
        (results, sums, like), (*scalars, numbers, arrays) = made, operands
        fetched, written = self.blocks(arrays, results, like)
        before = len(jax.tree.leaves(operands))
        called = pl.pallas_call(
            functools.partial(self._step, kernel, results, sums),
            out_shape=like,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=len(scalars),
                grid=(*self._leading, self.steps.tile.shape[3], self.inner),
                in_specs=[
                    {name: pl.BlockSpec(memory_space=pltpu.SMEM) for name in numbers},
                    fetched,
                    [pl.BlockSpec(memory_space=pl.ANY)] * len(found),
                ],
                out_specs=written,
                scratch_shapes=[x.held(self.heads.fold) for x in sums],
            ),
            input_output_aliases={before + place: place for place in range(len(found))},
            interpret=self.interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary")
            ),
            cost_estimate=self._cost(kernel, arrays, fetched, like, written),
        )
        return list(mosaic.run(called, *scalars, numbers, arrays, found))

    @property
    def _leading(self) -> tuple[int, int]:
        """Examples, and folds of results, of a page."""
        (_, batch, folds, _), (are_all, are_all_heads) = self.steps.tile.shape, self.steps.shared
        return self.given.q.shape[0] if are_all else batch, self.heads.folds // self.inner if are_all_heads else folds

    def _place(self, b, h, p, g, first, tile, other) -> tuple[Place, jax.Array]:
        """What a step is about, by the numbers of the grid and the steps in scalar memory, and what it is."""
        _, batch, folds, count = self.steps.tile.shape
        at = ((b * folds if batch > 1 else 0) + (h if folds > 1 else 0)) * count + p
        b, h = first[0] + b, first[1] + h
        mine, flags = jax.lax.shift_right_logical(tile[at], np.int32(BITS)), tile[at] & ((1 << BITS) - 1)
        return self.place(b, h * self.inner + g, h, mine, other[at]), flags

    def block(self, shape, tile, axis, folds):
        def index(b, h, p, g, *steps):
            place, _ = self._place(b, h, p, g, *steps)
            return block_of(shape, tile[1], place, getattr(place, axis), folds)

        return pl.BlockSpec(blocked(shape, tile), index)

    def _cost(self, kernel: Kernel, arrays: dict, fetched: dict, results: list, written: list) -> pl.CostEstimate:
        """What a page computes and moves, of as much as all; a tile is fetched whenever it is another one than in the
        step before.
        """
        (own, beside), pages = self.steps.turns, len(self.steps.first)
        turns = {"row": own, "column": beside} if self.is_by_row else {"row": beside * self.inner, "column": own}
        moved = sum(turns[axis_of(name)] * stored(fetched[name].block_shape, x.dtype) for name, x in arrays.items())
        moved += sum(own * stored(block.block_shape, x.dtype) for x, block in zip(results, written, strict=True))
        folds = self.given.q.shape[0] * self.heads.folds
        steps = math.prod(self._leading) * self.inner * self.steps.tile.shape[3]
        return self.cost(kernel, steps * self.heads.fold, folds // self.inner * moved // pages)

    def _step(self, kernel, results, sums, first, tile, other, numbers, arrays, _before, *refs) -> None:
        """One step: the sums of a tile begin, grow and end."""
        b, h, p, g = (pl.program_id(axis) for axis in range(4))
        place, flags = self._place(b, h, p, g, first, tile, other)
        found, held = refs[: len(results)], refs[len(results) :]
        is_set = lambda flag: (flags & flag) != 0
        each = self.each(held, numbers, arrays, place)

        @pl.when(is_set(FIRST) & (g == 0))
        def _():
            begin(kernel, each, held, sums)

        def add(is_partial):
            for step, own in each:
                kernel.add(step, own, is_partial)

        @pl.when(is_set(PAIR))
        def _():
            jax.lax.cond(is_set(PARTIAL), lambda: add(True), lambda: add(False))

        @pl.when(is_set(LAST) & (g == self.inner - 1))
        def _():
            end(kernel, each, results, found)
