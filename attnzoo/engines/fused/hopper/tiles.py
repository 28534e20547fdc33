"""A kernel of an NVIDIA Hopper GPU that holds a tile of a sequence and meets listed tiles of another.

One or two warpgroups compute, each with 64 rows of the tile that is held. Who copies what is met is another one, which
gives registers away to those that compute; or the first of them, between its pieces, so that all threads have the 255
registers that there may be without asking for them: a compiler that links afterwards, as that of jax 0.12 does by
default, does not heed who asks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from attnzoo.engines.fused.hopper import warpgroups
from attnzoo.engines.fused.hopper.ends import memory, staging
from attnzoo.engines.fused.hopper.warpgroups import (
    RESERVED,
    ROWS,
    SHARED,
    Blocks,
    Matrix,
    Piece,
    Stream,
    bytes_of,
    dealt,
    div,
    leading,
    plgpu,
    rem,
    staged,
    views,
)
from attnzoo.engines.fused.pairs import Pairs
from attnzoo.engines.progressions import Numbers, numpy_of

COMPUTING, COPYING = 240, 24  # registers of a thread: 2 * 232 + 40 are all there are for 3 * 128 threads


class Work(NamedTuple):
    """What a kernel reads and writes.

    Attributes:
      own: what it reads of the tile that it holds.
      met: what it reads of the tiles that it meets, in streams that come apart, the first one first.
      scalars: of each head, [B or 1, N or 1].
      out: shapes of what it writes, along the tile that it holds: matrices before vectors.
      pairs: the tiles beside each one that it holds, leading with [B or 1, N or 1].
      tile: rows of a tile that is held.
      other: rows of a tile that is met, which comes in pieces of `piece`.
    """

    own: Blocks
    met: tuple[Blocks, ...]
    scalars: dict[str, jax.Array]
    out: Blocks
    pairs: Pairs
    tile: int
    other: int
    piece: int

    @property
    def groups(self) -> int:
        """Warpgroups that compute."""
        return 2 if self.tile % (2 * ROWS) == 0 else 1

    @property
    def rows(self) -> int:
        """Of a block of threads."""
        return self.groups * ROWS

    @property
    def staging(self) -> Blocks:
        """Where matrices wait to be written, one after another where they are alike."""
        return {_kind(x): x for x in self.out.values() if isinstance(x, Matrix)}

    def stages(self, most: int) -> int:
        """Pieces in shared memory at a time, as many as there is room for; blocks of one warpgroup run in pairs."""
        left = SHARED * self.groups // 2 - RESERVED - bytes_of(self.own | self.staging, self.rows)
        return max(1, min(most, left // sum(bytes_of(blocks, self.piece) for blocks in self.met)))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """B, heads, and blocks of threads of each."""
        batch, _, num_heads, _ = next(x.array.shape for x in self.out.values() if isinstance(x, Matrix))
        return batch, num_heads, (self.pairs.start.shape[-1] - 1) * (self.tile // self.rows)


def _kind(matrix: Matrix) -> str:
    return f"{matrix.array.dtype}_{matrix.width}"


class Step(NamedTuple):
    """The rows of a warpgroup beside one piece.

    Attributes:
      own: blocks of its rows.
      met: the piece, in each stream.
      head: number of the query head.
      scalars: of that head.
      own_start: the first of its rows.
      other_start: the first row of the piece.
      is_masked: whether something may be hidden.
      take_turns: called between what is done by tensor cores and what is not, so that of two warpgroups one does each.
    """

    own: Any
    met: list[Piece]
    head: jax.Array
    scalars: dict[str, jax.Array]
    own_start: jax.Array
    other_start: jax.Array
    is_masked: bool
    take_turns: Callable[[], None]


class Rule(NamedTuple):
    """What a warpgroup does.

    Attributes:
      begin: what is carried from piece to piece.
      step: the same after one more of them.
      finish: what is written of it, in the order of `Work.out`; of `Vectors` a tuple.
      is_read: whether threads, and not wgmma alone, read the first stream: where nothing is hidden, and where some is.
      takes_turns: whether `step` takes turns.
      fetches: whether the first one that computes copies what is met.
    """

    begin: Callable[[], tuple]
    step: Callable[[Step, tuple], tuple]
    finish: Callable[[tuple, dict[str, jax.Array]], tuple]
    is_read: tuple[bool, bool]
    takes_turns: bool = False
    fetches: bool = False

    @property
    def most(self) -> int:
        """Pieces in shared memory: 2 are counted in fewer registers than 3, of which one who fetches has none left."""
        return 2 if self.fetches else 3


def launch(name: str, work: Work, rule: Rule, interpret: Any = None) -> list[jax.Array]:
    """The outputs of a kernel; `interpret` is what a CPU interprets it with, or None."""
    groups, stages = work.groups, work.stages(rule.most)
    pairs = [jnp.asarray(x) for x in (*work.pairs, _longest_first(work.pairs))]
    inputs = [x.array for blocks in (work.own, *work.met) for x in blocks.values()]
    has_turns = rule.takes_turns and groups == 2

    def kernel(*refs, **own):
        block = _Block(work, rule, interpret, pairs, refs, SimpleNamespace(**own))
        pl.when(block.group < groups)(block.compute)
        if not rule.fetches:
            pl.when(block.group == groups)(block.copy)

    return warpgroups.launched(
        name,
        kernel,
        [*inputs, *work.scalars.values(), *pairs],
        interpret,
        out_type=[jax.ShapeDtypeStruct(x.array.shape, x.array.dtype) for x in work.out.values()],
        scratch_types={
            "own": {key: memory(x, interpret, groups, ROWS) for key, x in work.own.items()},
            "met": [
                {key: memory(x, interpret, stages, work.piece) for key, x in blocks.items()} for blocks in work.met
            ],
            "staging": {key: staging(x, interpret, groups, ROWS) for key, x in work.staging.items()},
            "loaded": plgpu.Barrier(num_arrivals=len(work.own), num_barriers=groups),
            "filled": [plgpu.Barrier(num_arrivals=len(blocks), num_barriers=stages) for blocks in work.met],
            "free": [plgpu.Barrier(num_arrivals=groups, num_barriers=stages) for _ in work.met],
            "turn": [plgpu.Barrier(num_arrivals=2)] * has_turns,
        },
        grid=work.sizes,
        grid_names=("batch", "heads", "tiles"),
        num_threads=groups + (not rule.fetches),
    )


class _Block:
    """A block of threads, inside the kernel: some rows of a tile, and the tiles that they meet."""

    def __init__(self, work: Work, rule: Rule, interpret: Any, pairs: list, refs, memory: SimpleNamespace):
        self.work, self.rule, self.interpret, self.memory = work, rule, bool(interpret), memory
        self.own, *met, scalars, lists, self.out = dealt(refs, (work.own, *work.met, work.scalars, pairs, work.out))
        b, n, place, self.group = (lax.axis_index(axis) for axis in ("batch", "heads", "tiles", "group"))
        self.example, self.head = b, n
        self.stages = work.stages(rule.most)
        streams = zip(work.met, met, memory.met, memory.filled, memory.free, strict=True)
        self.streams = [Stream(*each, self.stages) for each in streams]
        scalars = zip(work.scalars.items(), scalars, strict=True)
        self.scalars = {key: leading(x, ref, b, n) for (key, x), ref in scalars}
        start, middle, self.other, order = (leading(x, ref, b, n) for x, ref in zip(pairs, lists, strict=True))
        parts, pieces = work.tile // work.rows, work.other // work.piece
        tile, part = order[div(place, parts)], rem(place, parts)
        self.first = start[tile]
        self.count, self.whole = ((end - self.first) * pieces for end in (start[tile + 1], middle[tile]))
        self.own_start = tile * work.tile + part * work.rows + self.group * ROWS

    def compute(self) -> None:
        """What a warpgroup does that computes."""
        if self.rule.fetches:
            self._first_ones(self._fetch_begin)
        elif self.work.groups == 2:
            plgpu.set_max_registers(COMPUTING, action="increase")
        self._load()
        pl.when(self.group == 1)(self._take_turns)
        carry = lax.fori_loop(0, self.whole, functools.partial(self._met, is_masked=False), self.rule.begin())
        carry = lax.fori_loop(self.whole, self.count, functools.partial(self._met, is_masked=True), carry)
        pl.when(self.group == 0)(self._take_turns)
        self._write(self.rule.finish(carry, self._scalars()))
        if self.rule.fetches:
            self._first_ones(self._fetch_end)

    def copy(self) -> None:
        """What another one does, which copies."""
        if self.work.groups == 2:
            plgpu.set_max_registers(COPYING, action="decrease")
        pl.loop(0, self.count)(self._fetch)
        self._fetch_end()

    def _first_ones(self, does: Callable[[], None]) -> None:
        pl.when(self.group == 0)(does)

    def _fetch_begin(self) -> None:
        ahead = jnp.minimum(self.count, self.stages - 1)
        pl.loop(0, ahead.astype(jnp.int32))(self._fetch)

    def _fetch_end(self) -> None:
        for stream in self.streams:
            stream.end(self.count)

    def _fetch(self, turn) -> None:
        begin = self._other_start(turn)
        for stream in self.streams:
            stream.fetch(turn, lambda block, ref: self._rows(block, ref, begin, self.work.piece))

    def _rows(self, block, ref, start, size: int):
        return block.block(ref, self.example, self.head, self.work.sizes[1], start, size)

    def _other_start(self, turn):
        pieces = self.work.other // self.work.piece
        return self.other[self.first + div(turn, pieces)] * self.work.other + rem(turn, pieces) * self.work.piece

    def _load(self) -> None:
        loaded = self.memory.loaded.at[self.group]
        for (key, block), ref in zip(self.work.own.items(), self.own, strict=True):
            source = self._rows(block, ref, self.own_start, ROWS)
            plgpu.copy_gmem_to_smem(source, views(self.memory.own[key])[1].at[self.group], loaded)
        plgpu.barrier_wait(loaded)

    def _scalars(self) -> dict[str, jax.Array]:
        """Read where they are used, so that no registers hold them meanwhile."""
        return {key: ref[...] for key, ref in self.scalars.items()}

    def _take_turns(self) -> None:
        for barrier in self.memory.turn:
            plgpu.barrier_arrive(barrier)
            plgpu.barrier_wait(barrier)

    def _met(self, turn, carry, is_masked: bool):
        if self.rule.fetches:  # where the piece before this one stood
            ahead = turn + self.stages - 1
            pl.when((self.group == 0) & (ahead < self.count))(functools.partial(self._fetch, ahead))
        are_read = [self.interpret or self.rule.is_read[is_masked], *[self.interpret] * (len(self.streams) - 1)]
        met = [stream.piece(turn, is_read) for stream, is_read in zip(self.streams, are_read, strict=True)]
        own = SimpleNamespace(**{key: views(x)[0].at[self.group] for key, x in self.memory.own.items()})
        starts = self.own_start, self._other_start(turn)
        scalars = self._scalars()
        return self.rule.step(Step(own, met, self.head, scalars, *starts, is_masked, self._take_turns), carry)

    def _write(self, found: tuple) -> None:
        for block, ref, rows in zip(self.work.out.values(), self.out, found, strict=True):
            target = self._rows(block, ref, self.own_start, ROWS)
            if isinstance(block, Matrix):
                staged(rows.astype(block.array.dtype), self.memory.staging[_kind(block)], target, self.group)
                plgpu.wait_smem_to_gmem(0)
            else:
                for i, vector in enumerate(rows):
                    target.at[i][...] = vector


def _longest_first(pairs: Pairs) -> Numbers:
    """Tiles in the order in which they are begun, so that those at the end are short: int32 [..., count]."""
    xp = numpy_of(pairs.start)
    return xp.argsort(-xp.diff(pairs.start, axis=-1), axis=-1, stable=True).astype(np.int32)
