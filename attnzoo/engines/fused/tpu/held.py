"""All tiles that a head meets, held at once in the VMEM of a TPU, so that none is fetched twice.

The grid is (B, folds of what is held, steps): a step has a tile whose results are made, of one of the folds that meet
what is held, and goes in a loop through the tiles that are listed beside it. Sums of what is held stay in VMEM as long,
and are written in steps behind these, tile by tile. Lists are in scalar memory, those of heads of a fold one after
another: they may differ, though heads lie side by side.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnzoo.contract import varying
from attnzoo.engines.fused.tpu import mosaic, steps
from attnzoo.engines.fused.tpu.folding import SUBLANES, Heads, stored
from attnzoo.engines.fused.tpu.grid import (
    Array,
    Grid,
    Kernel,
    Place,
    axis_of,
    begin,
    block_of,
    clear,
    end,
    sides,
    write,
)
from attnzoo.engines.progressions import as_arithmetic

ROOM = 64 * 2**20  # bytes of VMEM, the least of a TPU after v4: for interpreters, which have none
BESIDE = 16 * 2**20  # of these, for all that is not held: what the compiler gives a kernel that asks for nothing


@dataclasses.dataclass(frozen=True)
class Held(Grid):
    """A loop over what is listed beside each tile.

    Attributes:
      left: results of what is held, of tiles that all of them have together, whose sums are in float32.
    """

    left: tuple[Array, ...] = ()

    @functools.cached_property
    def heads(self) -> Heads:
        return Heads.of(self.given, are_alike=True)

    @property
    def is_sparing(self) -> bool:
        """Whether there is room, and steps would fetch a tile again, which of drawn lists is taken for granted."""
        other, (_, count) = self.pairs.other, self.met
        fetches = 1 + int(np.count_nonzero(np.diff(other))) if isinstance(other, np.ndarray) else math.inf
        return fetches * self._turns > count and self.inner == 1 and self.has_room

    @property
    def has_room(self) -> bool:
        """For what is held, and in scalar memory for lists."""
        return self.size + BESIDE <= self._room and self._lists_of_fold * self._length <= steps.PAGE

    @property
    def _room(self) -> int:
        """Bytes of the VMEM of the TPU that a program is traced for, if that is here, or named by the mesh in use: of
        one that nobody names it may be a v4's, which holds nothing."""
        if self.interpret:
            return ROOM
        return pltpu.get_tpu_info().vmem_capacity_bytes if pltpu.is_tpu_device() else 0

    @property
    def size(self) -> int:
        """Bytes of all that a fold meets, and of its sums, about."""
        given, (tile, count) = self.given, self.met
        wide, fold = (
            ((given.k, given.v), self.heads.beside) if self.is_by_row else ((given.q, given.v), self.heads.fold)
        )
        has_rows = any(side.run is None or side.segments is not None for _, side in sides(given))
        rows = 0 if self.is_by_row else 3 * fold
        rows += SUBLANES * (has_rows or (self.is_by_row and given.of_key is not None))
        held = stored((rows, tile), jnp.float32) + sum(stored((tile, fold * x.shape[3]), x.dtype) for x in wide)
        return count * (held + sum(stored(x.folded(self.heads.fold), jnp.float32) for x in self.left))

    @property
    def met(self) -> tuple[int, int]:
        """The size of tiles that are met, and how many there are."""
        side = self.given.keys if self.is_by_row else self.given.queries
        return side.tile, side.positions.shape[1] // side.tile

    @property
    def _turns(self) -> int:
        """Folds that meet what is held, one after another."""
        return self.heads.turns if self.is_by_row else 1

    @property
    def _steps(self) -> int:
        """Tiles whose results are made beside what is held."""
        return self._turns * self.tiles

    @property
    def _lists_of_fold(self) -> int:
        """One for all of its heads, or one for each."""
        return 1 if self.are_alike else self.heads.fold

    @property
    def _length(self) -> int:
        """Numbers of a list, where each tile begins, where it is partial, and what stands beside it."""
        return sum(x.shape[2] for x in self.pairs)

    def call(self, kernel, more, results, sums):
        """As of any grid; results of what is held stand behind the others."""
        lists, numbers, arrays = varying.alike((self._lists(), self.numbers(), self.arrays() | more))
        like = self.like(results, arrays["q"], self.heads.folds // self.inner, self.tiles)
        seen, own = self.blocks(arrays, results, like)
        folds, count = self.heads.folds // self._turns, self.met[1]
        like += self.like(self.left, arrays["q"], folds, count)
        blocks = own + [self._behind(x, shape.shape) for x, shape in zip(self.left, like[len(own) :], strict=True)]
        which = lambda b, h, p: (b if len(lists) > 1 else 0, self._fold(h, p) if lists.shape[1] > 1 else 0, 0, 0)
        listed = pl.BlockSpec((1, 1, *lists.shape[2:]), which, memory_space=pltpu.SMEM)
        called = pl.pallas_call(
            functools.partial(self._step, kernel, results, sums),
            out_shape=like,
            grid=(len(self.given.q), folds, self._steps + (count if self.left else 0)),
            in_specs=[listed, {name: pl.BlockSpec(memory_space=pltpu.SMEM) for name in numbers}, seen],
            out_specs=blocks,
            scratch_shapes=[
                *(x.held(self.heads.fold) for x in sums),
                *(x._replace(dtype=jnp.float32).held(self.heads.fold, count) for x in self.left),
            ],
            interpret=self.interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=self.size + BESIDE
            ),
            cost_estimate=self._cost(kernel, lists, arrays, seen, like, blocks),
        )
        return list(mosaic.run(called, lists, numbers, arrays))

    def _lists(self) -> jax.Array:
        """int32 [B or 1, folds or 1, 1, numbers of all lists of a fold]."""
        found = jnp.concatenate([as_arithmetic(x) for x in self.pairs], axis=2)
        return found.reshape(len(found), -1, 1, self._lists_of_fold * self._length)

    def _fold(self, h: Any, p: Any) -> Any:
        """The fold of queries of a step."""
        if self._turns == 1:
            return h
        return h * self._turns + jax.lax.div(jnp.minimum(p, self._steps - 1), np.int32(self.tiles))

    def _own(self, b: Any, h: Any, p: Any, other: Any) -> Place:
        """What a step is about, and a tile beside its own."""
        fold, mine = self._fold(h, p), jax.lax.rem(jnp.minimum(p, self._steps - 1), np.int32(self.tiles))
        return self.place(b, fold, fold, mine, other)

    def block(self, shape, lanes, axis, folds):
        is_own = axis == self.axis

        def index(b, h, p):
            place = self._own(b, h, p, 0)
            return block_of(shape, lanes, place, getattr(place, axis), folds)

        if is_own:
            return pl.BlockSpec((1, 1, 1, shape[3], lanes), index)
        # A second buffer would be as large, and filled no sooner than while the last tile of a fold is at work.
        return pl.BlockSpec((1, 1, *shape[2:4], lanes), index, pipeline_mode=pl.Buffered(1))

    def _behind(self, x: Array, shape: tuple[int, ...]) -> pl.BlockSpec:
        """A tile of what is held, whose sum is written."""
        rows, lanes = x.folded(self.heads.fold)

        def index(b, h, p):
            place = Place(b, h, h, h, 0, 0)
            return block_of(shape, lanes, place, jnp.maximum(p - self._steps, 0), "results")

        return pl.BlockSpec((1, 1, 1, rows, lanes), index)

    def _cost(
        self, kernel: Kernel, lists: jax.Array, arrays: dict, seen: dict, results: list, written: list
    ) -> pl.CostEstimate:
        """All that is held moves once, and so does each tile whose results are made; lists count as long as they may
        be.
        """
        batch, folds = self.given.q.shape[0], self.heads.folds
        own = [(x, seen[name]) for name, x in arrays.items() if axis_of(name) == self.axis]
        moved = sum(batch * folds * self.tiles * stored(block.block_shape, x.dtype) for x, block in own)
        parts_of = lambda x, block: x.size // math.prod(block.block_shape)
        moved += sum(
            parts_of(x, block) * stored(block.block_shape, x.dtype) for x, block in zip(results, written, strict=True)
        )
        for name, x in arrays.items():
            if axis_of(name) != self.axis:
                block = seen[name].block_shape
                parts = x.size // math.prod(block)
                parts *= batch if len(x) == 1 < parts else 1  # parts of what examples share come again in each
                moved += parts * block[2] * stored(block, x.dtype)
        pairs = batch * folds * self.heads.fold * self.pairs.other.shape[2]
        return self.cost(kernel, pairs, moved + 4 * lists.size)

    def _step(self, kernel, results, sums, lists, numbers, arrays, *refs) -> None:
        """The sums of a tile begin, grow with all that is listed beside it, and end; those of what is held begin before
        all tiles, and end behind.
        """
        b, h, p = (pl.program_id(axis) for axis in range(3))
        count = len(results) + len(self.left)
        found, held, kept = refs[:count], refs[count : count + len(sums)], refs[count + len(sums) :]
        mine = jax.lax.rem(p, np.int32(self.tiles))

        def each(other):
            beside = [[x.at[other] for x in of_heads] for of_heads in kept]
            return self.each((*held, *beside), numbers, arrays, self._own(b, h, p, other))

        def tile():
            begin(kernel, each(0), held, sums)
            together = self.heads.fold // self._lists_of_fold
            for n in range(self._lists_of_fold):
                of_list = lambda other, n=n: each(other)[n * together : (n + 1) * together]
                self._meet(kernel, of_list, lambda at, n=n: lists[0, 0, 0, n * self._length + at], mine)
            end(kernel, each(0), results, found[: len(results)])

        if not self.left:
            return tile()

        @pl.when(p == 0)
        def _():
            clear(kept, self.left)

        pl.when(p < self._steps)(tile)

        @pl.when(p >= self._steps)
        def _():
            for x, of_heads, like in zip(found[len(results) :], kept, self.left, strict=True):
                write(x, [whole[p - self._steps] for whole in of_heads], like)

    def _meet(self, kernel: Kernel, each: Callable, listed: Callable, mine: Any) -> None:
        """The sums of the heads of one list grow with all that stands beside a tile, whole tiles first."""
        middles, others = self.tiles + 1, 2 * self.tiles + 1

        def meet(is_partial, place, _):
            for step, sums in each(listed(others + place)):
                kernel.add(step, sums, is_partial)

        start, middle, stop = listed(mine), listed(middles + mine), listed(mine + 1)
        jax.lax.fori_loop(start, middle, functools.partial(meet, False), None)
        jax.lax.fori_loop(middle, stop, functools.partial(meet, True), None)
