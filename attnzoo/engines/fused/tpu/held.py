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
from attnzoo.engines.fused.operands import Side
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
    blocked,
    clear,
    end,
    lies,
    sides,
    write,
)
from attnzoo.engines.progressions import as_arithmetic

ROOM = 64 * 2**20  # bytes of VMEM, the least of a TPU after v4, which holds nothing: for interpreters, which have none
BESIDE = 8 * 2**20  # of these, for scores of a pair of tiles and what is made of them
BLOCKS = 8  # tiles of each side that are not held, with what is fetched and written ahead


@dataclasses.dataclass(frozen=True)
class Held(Grid):
    """A loop over what is listed beside each tile.

    Attributes:
      left: results of what is held, of tiles that all of them have together, whose sums are in float32.
      first: the tile from which on there are such sums.
      stop: the tile before which all is held, if not to the end; what is listed behind it is left out.
    """

    left: tuple[Array, ...] = ()
    first: int = 0
    stop: int | None = None

    def summing(self, left: tuple[Array, ...]) -> list[Held]:
        """Itself with results of what is held; two where sums of all tiles have no room: one of the last tiles, beside
        all that is held, and one that holds those alone that are left. Nothing where two have none.
        """
        whole, (_, count) = dataclasses.replace(self, left=left), self.met
        if whole.has_room:
            return [whole]
        held, sums = whole._sizes
        first = count - (self._room - (whole.limit - whole.size) - count * held) // sums
        two = [dataclasses.replace(whole, first=first), dataclasses.replace(whole, stop=min(first, count))]
        return two if all(grid.has_room for grid in two) else []

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
        return self.limit <= self._room and self._lists_of_fold * self._length <= steps.PAGE

    @property
    def _room(self) -> int:
        """Bytes of the VMEM of the TPU that a program is traced for, if that is here, or named by the mesh in use: of
        one that nobody names it may be a v4's, which holds nothing."""
        if self.interpret:
            return ROOM
        found = pltpu.get_tpu_info().vmem_capacity_bytes if pltpu.is_tpu_device() else 0
        return found if found >= ROOM else 0

    @property
    def limit(self) -> int:
        """Bytes of VMEM that a kernel asks for."""
        tiles = self.given.queries.tile + self.given.keys.tile
        widest = max((self.given.q, self.given.v), key=lambda x: x.shape[3])
        return self.size + BESIDE + BLOCKS * stored((tiles, self.heads.fold * widest.shape[3]), widest.dtype)

    @property
    def size(self) -> int:
        """Bytes of all that a fold meets, and of its sums, about."""
        held, sums = self._sizes
        return self.met[1] * held + len(self._summed) * sums

    @property
    def _sizes(self) -> tuple[int, int]:
        """Bytes of a tile that is held, and of its sums."""
        given, (tile, _) = self.given, self.met
        wide, fold = (
            ((given.k, given.v), self.heads.beside) if self.is_by_row else ((given.q, given.v), self.heads.fold)
        )
        has_rows = any(side.run is None or side.segments is not None for _, side in sides(given))
        rows = 0 if self.is_by_row else 3 * fold
        rows += SUBLANES * (has_rows or (self.is_by_row and given.of_key is not None))
        held = stored((rows, tile), jnp.float32) + sum(stored((tile, fold * x.shape[3]), x.dtype) for x in wide)
        return held, sum(stored(x.folded(self.heads.fold), jnp.float32) for x in self.left)

    @property
    def met(self) -> tuple[int, int]:
        """The size of tiles that are met, and how many are held."""
        return self._side.tile, self._count if self.stop is None else self.stop

    @property
    def share(self) -> float:
        """Of what is met, how much has sums."""
        return len(self._summed) / self._count

    @property
    def _summed(self) -> range:
        """Tiles that have sums."""
        return range(self.first, self.met[1]) if self.left else range(0)

    @property
    def _count(self) -> int:
        """Tiles that are met, held or not."""
        return self._side.tiles

    @property
    def _side(self) -> Side:
        """What is met."""
        return lies(self.given, self._across)

    @property
    def _across(self) -> str:
        """Along which it lies."""
        return "column" if self.is_by_row else "row"

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

    def call(self, kernel, more, results, sums, found=()):
        """As of any grid; results of what is held stand behind the others, and are written into those that were `found`
        before.
        """
        lists, numbers, arrays = varying.alike((self._lists(), self.numbers(), self.arrays() | more))
        like = self.like(results, arrays["q"], self.heads.folds // self.inner, self.axis)
        seen, own = self.blocks(arrays, results, like)
        folds, count = self.heads.folds // self._turns, len(self._summed)
        like += self.like(self.left, arrays["q"], folds, self._across)
        blocks = own + [self._behind(x, shape.shape) for x, shape in zip(self.left, like[len(own) :], strict=True)]
        which = lambda b, h, p: (b if len(lists) > 1 else 0, self._fold(h, p) if lists.shape[1] > 1 else 0, 0, 0)
        listed = pl.BlockSpec((1, 1, *lists.shape[2:]), which, memory_space=pltpu.SMEM)
        before = len(jax.tree.leaves((lists, numbers, arrays)))
        called = pl.pallas_call(
            functools.partial(self._step, kernel, results, sums),
            out_shape=like,
            grid=(len(self.given.q), folds, self._steps + count),
            in_specs=[
                listed,
                {name: pl.BlockSpec(memory_space=pltpu.SMEM) for name in numbers},
                seen,
                [pl.BlockSpec(memory_space=pl.ANY)] * len(found),
            ],
            out_specs=blocks,
            scratch_shapes=[
                *(x.held(self.heads.fold) for x in sums),
                *(x._replace(dtype=jnp.float32).held(self.heads.fold, count) for x in self.left),
            ],
            input_output_aliases={before + place: len(results) + place for place in range(len(found))},
            interpret=self.interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=self.limit
            ),
            cost_estimate=self._cost(kernel, lists, arrays, seen, like, blocks),
        )
        return list(mosaic.run(called, lists, numbers, arrays, list(found)))

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

    def block(self, shape, tile, axis, folds):
        is_own = axis == self.axis

        def index(b, h, p):
            place = self._own(b, h, p, 0)
            return block_of(shape, tile[1], place, getattr(place, axis), folds)

        if is_own:
            return pl.BlockSpec(blocked(shape, tile), index)
        # A second buffer would be as large, and filled no sooner than while the last tile of a fold is at work.
        return pl.BlockSpec(blocked(shape, tile, self.met[1]), index, pipeline_mode=pl.Buffered(1))

    def _behind(self, x: Array, shape: tuple[int, ...]) -> pl.BlockSpec:
        """A tile of what is held, whose sum is written."""
        tile = x.folded(self.heads.fold)

        def index(b, h, p):
            place = Place(b, h, h, h, 0, 0)
            return block_of(shape, tile[1], place, self.first + jnp.maximum(p - self._steps, 0), "results")

        return pl.BlockSpec(blocked(shape, tile), index)

    def _cost(
        self, kernel: Kernel, lists: jax.Array, arrays: dict, seen: dict, results: list, written: list
    ) -> pl.CostEstimate:
        """All that is held moves once, and so does each tile whose results are made; lists count as long as they may
        be.
        """
        batch, folds = self.given.q.shape[0], self.heads.folds
        own = [(x, seen[name]) for name, x in arrays.items() if axis_of(name) == self.axis]
        moved = sum(batch * folds * self.tiles * stored(block.block_shape, x.dtype) for x, block in own)
        parts_of = lambda x, block: x.shape[0] * x.shape[1] * x.shape[-1] // block.block_shape[-1]
        made = [self.tiles] * (len(results) - len(self.left)) + [len(self._summed)] * len(self.left)
        moved += sum(
            parts_of(x, block) * count * stored(block.block_shape, x.dtype)
            for x, block, count in zip(results, written, made, strict=True)
        )
        for name, x in arrays.items():
            if axis_of(name) != self.axis:
                parts, block = parts_of(x, seen[name]), seen[name].block_shape
                parts *= batch if len(x) == 1 < parts else 1  # parts of what examples share come again in each
                moved += parts * math.prod(block[:-2]) * stored(block, x.dtype)
        pairs = batch * folds * self.heads.fold * self.pairs.other.shape[2] * self.met[1] // self._count
        return self.cost(kernel, pairs, moved + 4 * lists.size)

    def _step(self, kernel, results, sums, lists, numbers, arrays, _before, *refs) -> None:
        """The sums of a tile begin, grow with all that is listed beside it, and end; those of what is held begin before
        all tiles, and end behind.
        """
        b, h, p = (pl.program_id(axis) for axis in range(3))
        count = len(results) + len(self.left)
        found, held, kept = refs[:count], refs[count : count + len(sums)], refs[count + len(sums) :]
        mine = jax.lax.rem(p, np.int32(self.tiles))

        def each(other, has_sums=True):
            beside = [[x.at[other - self.first] for x in of_heads] for of_heads in kept if has_sums]
            return self.each((*held, *beside), numbers, arrays, self._own(b, h, p, other))

        def tile():
            begin(kernel, each(self.first), held, sums)
            together = self.heads.fold // self._lists_of_fold
            for n in range(self._lists_of_fold):
                of_list = lambda *which, n=n: each(*which)[n * together : (n + 1) * together]
                self._meet(kernel, of_list, lambda at, n=n: lists[0, 0, 0, n * self._length + at], mine)
            if results:
                end(kernel, each(self.first), results, found[: len(results)])

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
            other = listed(others + place)

            def add(has_sums):
                for step, sums in each(other, has_sums):
                    kernel.add(step, sums, is_partial)

            if self.stop is not None:
                pl.when(other < np.int32(self.stop))(lambda: add(True))
            elif self.first:
                jax.lax.cond(other < np.int32(self.first), lambda: add(False), lambda: add(True))
            else:
                add(True)

        start, middle, stop = listed(mine), listed(middles + mine), listed(mine + 1)
        jax.lax.fori_loop(start, middle, functools.partial(meet, False), None)
        jax.lax.fori_loop(middle, stop, functools.partial(meet, True), None)
