"""All tiles that a head meets, held at once in the VMEM of a TPU, so that none is fetched twice.

The grid is (B, folds, tiles whose results are made), and each tile meets those that are listed beside it in a loop.
Lists are in scalar memory, those of heads of a fold one after another: they may differ, though heads lie side by side.
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
from attnzoo.engines.fused.tpu.grid import Array, Grid, Kernel, axis_of, begin, block_of, end, folded
from attnzoo.engines.progressions import as_arithmetic

ROOM = 64 * 2**20  # bytes of VMEM, the least of a TPU after v4: for interpreters, which have none
BESIDE = 16 * 2**20  # of these, for all that is not held: what the compiler gives a kernel that asks for nothing


@dataclasses.dataclass(frozen=True)
class Held(Grid):
    """A loop over what is listed beside each tile."""

    @functools.cached_property
    def heads(self) -> Heads:
        return Heads.of(self.given, are_alike=True)

    @property
    def is_sparing(self) -> bool:
        """Whether there is room, and steps would fetch a tile again, which of drawn lists is taken for granted."""
        other, (_, count) = self.pairs.other, self._met
        fetches = 1 + int(np.count_nonzero(np.diff(other))) if isinstance(other, np.ndarray) else math.inf
        return fetches > count and self.inner == 1 and self.has_room

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
        """Bytes of all that a fold meets, about."""
        given, fold, (tile, count) = self.given, self.heads.fold, self._met
        wide = (given.k, given.v) if self.is_by_row else (given.q, given.v)
        rows = stored((SUBLANES + (0 if self.is_by_row else 3 * fold), tile), jnp.float32)
        return count * (rows + sum(stored((tile, fold * x.shape[3]), x.dtype) for x in wide))

    @property
    def _met(self) -> tuple[int, int]:
        """The size of tiles that are met, and how many there are."""
        side = self.given.keys if self.is_by_row else self.given.queries
        return side.tile, side.positions.shape[1] // side.tile

    @property
    def _lists_of_fold(self) -> int:
        """One for all of its heads, or one for each."""
        return 1 if self.are_alike else self.heads.fold

    @property
    def _length(self) -> int:
        """Numbers of a list, where each tile begins, where it is partial, and what stands beside it."""
        return sum(x.shape[2] for x in self.pairs)

    def call(self, kernel, more, results, sums, left: tuple[Array, ...] = ()):
        """As of any grid; `left` are sums of all tiles of a fold, [B, folds, 1, ...], and stand behind those of one."""
        lists, numbers, arrays = varying.alike((self._lists(), self.numbers(), self.arrays() | more))
        like = self.like(results, arrays["q"])
        seen, written = self.blocks(arrays, results, like)
        cost = self._cost(kernel, lists, arrays, seen, like, written, left)
        whole = [(1, 1, 1, *folded(x, self.heads.fold)) for x in left]
        batch, folds, of_mesh = self.given.q.shape[0], self.heads.folds, jax.typeof(arrays["q"]).manual_axis_type
        like += [
            jax.ShapeDtypeStruct((batch, folds, *shape[2:]), x.dtype, manual_axis_type=of_mesh)
            for x, shape in zip(left, whole, strict=True)
        ]
        written += [pl.BlockSpec(shape, lambda b, h, mine: (b, h, 0, 0, 0)) for shape in whole]
        which = lambda b, h, mine: (b if len(lists) > 1 else 0, h if lists.shape[1] > 1 else 0, 0, 0)
        listed = pl.BlockSpec((1, 1, *lists.shape[2:]), which, memory_space=pltpu.SMEM)
        called = pl.pallas_call(
            functools.partial(self._of_tile, kernel, results, sums, left),
            out_shape=like,
            grid=(batch, folds, self.tiles),
            in_specs=[listed, {name: pl.BlockSpec(memory_space=pltpu.SMEM) for name in numbers}, seen],
            out_specs=written,
            scratch_shapes=[pltpu.VMEM(x.shape, x.dtype) for x in (*sums, *left) * self.heads.fold],
            interpret=self.interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=self.size + BESIDE
            ),
            cost_estimate=cost,
        )
        return list(mosaic.run(called, lists, numbers, arrays))

    def _lists(self) -> jax.Array:
        """int32 [B or 1, folds or 1, 1, numbers of all lists of a fold]."""
        found = jnp.concatenate([as_arithmetic(x) for x in self.pairs], axis=2)
        return self.heads.numbers(found).reshape(len(found), -1, 1, self._lists_of_fold * self._length)

    def block(self, shape, lanes, axis, folds):
        is_own = axis == self.axis

        def index(b, h, mine):
            return block_of(shape, lanes, self.place(b, h, h, mine, 0), mine if is_own else 0, folds)

        if is_own:
            return pl.BlockSpec((1, 1, 1, shape[3], lanes), index)
        # A second buffer would be as large, and filled no sooner than while the last tile of a fold is at work.
        return pl.BlockSpec((1, 1, *shape[2:4], lanes), index, pipeline_mode=pl.Buffered(1))

    def _cost(
        self, kernel: Kernel, lists: jax.Array, arrays: dict, seen: dict, results: list, written: list, left: tuple
    ) -> pl.CostEstimate:
        """All that is held moves once, and each tile whose results are made; lists count as long as they may be."""
        batch, folds = self.given.q.shape[0], self.heads.folds
        own = [(x, seen[name]) for name, x in arrays.items() if axis_of(name) == self.axis]
        own += zip(results, written, strict=True)
        moved = sum(batch * folds * self.tiles * stored(block.block_shape, x.dtype) for x, block in own)
        moved += sum(batch * folds * stored(folded(x, self.heads.fold), x.dtype) for x in left)
        for name, x in arrays.items():
            if axis_of(name) != self.axis:
                block = seen[name].block_shape
                parts = x.size // math.prod(block)
                parts *= batch if len(x) == 1 < parts else 1  # parts of what examples share come again in each
                moved += parts * block[2] * stored(block, x.dtype)
        pairs = batch * folds * self.heads.fold * self.pairs.other.shape[2]
        return self.cost(kernel, pairs, moved + 4 * lists.size)

    def _of_tile(self, kernel, results, sums, left, lists, numbers, arrays, *refs) -> None:
        """The sums of a tile begin, grow with all that is listed beside it, and end."""
        b, h, mine = (pl.program_id(axis) for axis in range(3))
        found, held = refs[: len(results) + len(left)], refs[len(results) + len(left) :]
        each = lambda other: self.each(held, numbers, arrays, self.place(b, h, h, mine, other))

        @pl.when(mine == 0)
        def _():
            for x in (x for _, own in each(0) for x in own[len(sums) :]):
                x[...] = jnp.zeros_like(x)

        begin(kernel, each(0), sums)
        together = self.heads.fold // self._lists_of_fold
        for n in range(self._lists_of_fold):
            of_list = lambda other, n=n: each(other)[n * together : (n + 1) * together]
            self._meet(kernel, of_list, lambda at, n=n: lists[0, 0, 0, n * self._length + at], mine)
        end(kernel, each(0), (*results, *left), found)

    def _meet(self, kernel: Kernel, each: Callable, listed: Callable, mine: Any) -> None:
        """The sums of the heads of one list grow with all that stands beside a tile, whole tiles first."""
        middles, others = self.tiles + 1, 2 * self.tiles + 1

        def meet(is_partial, place, _):
            for step, sums in each(listed(others + place)):
                kernel.add(step, sums, is_partial)

        start, middle, stop = listed(mine), listed(middles + mine), listed(mine + 1)
        jax.lax.fori_loop(start, middle, functools.partial(meet, False), None)
        jax.lax.fori_loop(middle, stop, functools.partial(meet, True), None)
