"""A kernel of a Hopper GPU that walks over chunks of rows which lists name: a chunk of queries beside two of keys.

Rows lie in the device's memory as ever, and are copied one by one (TMA) to where their chunk stands in shared memory;
what is made of them is written to where they came from. So nothing is sorted but their numbers. Slots behind the end of
a list have any rows, and of these nothing is written.

A block of threads has a run of chunks. One warpgroup copies, and one computes. A chunk of keys is met by its own chunk
of queries and by the next one, for which it stays; a run begins with the chunk of keys before it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from attnzoo.engines.fused.hopper import warpgroups
from attnzoo.engines.fused.hopper.ends import by_rows, pieces
from attnzoo.engines.fused.hopper.warpgroups import (
    RESERVED,
    ROWS,
    SHARED,
    Matrix,
    bytes_of,
    dealt,
    div,
    ended,
    leading,
    plgpu,
    rem,
    set_block,
    shared,
    views,
)

RUN = 16  # chunks of a block of threads, at most: beside them one of keys is read again
KEPT = 3  # chunks of keys in shared memory: two that are met, and the next one


Rows = dict[str, Matrix]


class Runs(NamedTuple):
    """How the chunks of a list are dealt to blocks of threads."""

    blocks: int  # of threads, of a list
    chunks: int  # of each

    @classmethod
    def of(cls, length: int) -> Runs:
        """Of so many rows."""
        chunks = -(-length // ROWS)
        blocks = -(-chunks // RUN)
        return cls(blocks, -(-chunks // blocks))


class Work(NamedTuple):
    """What a kernel reads and writes.

    Attributes:
      shape: examples, lists of each head, and heads.
      runs: of the lists.
      beyond: chunks of queries that a block meets beside its own, behind these: 0 or 1.
      queries, keys: rows of each side.
      lists: of each side, int32 [examples * lists * heads, chunks, lines, `ROWS`]: rows, and what else is told.
      numbers: of each slot, float32 [examples * lists * heads, chunks, `ROWS`].
      scalars: [examples or 1, heads or 1].
      out: shapes of rows to be written, [lists * examples, L, heads, W].
      left: names of what is left of each slot, float32.
      own: matrices in shared memory, [`ROWS`, W] as wgmma reads them.
    """

    shape: tuple[int, int, int]
    runs: Runs
    beyond: int
    queries: Rows
    keys: Rows
    lists: tuple[jax.Array, jax.Array]
    numbers: dict[str, jax.Array]
    scalars: dict[str, jax.Array]
    out: Rows
    left: tuple[str, ...]
    own: dict[str, Any]

    @property
    def turns(self) -> int:
        """Chunks of queries that a block meets."""
        return self.runs.chunks + self.beyond

    @property
    def staging(self) -> dict[str, Matrix]:
        """Where rows wait to be written, one after another where they are alike."""
        return {kind(x): x for x in self.out.values()}

    @property
    def stages(self) -> int:
        """Chunks of queries in shared memory: 2, or 1 where there is no room."""
        return 2 if self._bytes(2) <= SHARED - RESERVED else 1

    def _bytes(self, stages: int) -> int:
        lists = sum(x.shape[2] for x in self.lists) * (self.runs.chunks + 2) * ROWS * 4
        own = sum(x.size * x.dtype.itemsize for x in self.own.values())
        sides = (self.queries, stages), (self.keys, KEPT), (self.staging, 1)
        return lists + own + sum(bytes_of({**blocks}, ROWS) * count for blocks, count in sides)


def kind(matrix: Matrix) -> str:
    """What memory its rows wait in."""
    return f"{matrix.array.dtype}_{matrix.width}"


class Turn(NamedTuple):
    """A chunk of queries beside its own chunk of keys and the one before.

    Attributes:
      queries, before, own: where their rows lie in shared memory.
      chunk: number of the chunk in the list.
      lines: what lists tell of queries, of keys before, and of its own keys, beside rows: refs [lines, `ROWS`].
      numbers: of queries.
      scalars: of the head.
      memory: what the warpgroup has for itself.
      write: `write(name, rows)` to the places of queries, or `write(name, rows, of_keys=True)` to those of keys before.
      leave: `leave(name, vector)` of queries.
    """

    queries: SimpleNamespace
    before: SimpleNamespace
    own: SimpleNamespace
    chunk: jax.Array
    lines: tuple[Any, Any, Any]
    numbers: dict[str, Any]
    scalars: dict[str, jax.Array]
    memory: SimpleNamespace
    write: Callable[..., None]
    leave: Callable[[str, jax.Array], None]


class Rule(NamedTuple):
    """What the warpgroup does that computes: what it carries before the first turn, and after one more."""

    begin: Callable[[], tuple]
    step: Callable[[Turn, tuple], tuple]


def launch(name: str, work: Work, rule: Rule, interpret: Any = None) -> dict[str, jax.Array]:
    """What a kernel writes, and what it leaves [examples * lists * heads, runs, turns, `ROWS`], by name."""
    (batch, count, num_heads), runs, stages = work.shape, work.runs, work.stages
    blocks = work.queries | work.keys

    def kernel(*refs, **memory):
        block = _Block(work, rule, bool(interpret), refs, SimpleNamespace(**memory))
        pl.when(block.group == 0)(block.compute)
        pl.when(block.group == 1)(block.copy)

    copies = lambda blocks: ROWS * sum(_pieces(x) if not interpret else 1 for x in blocks.values())
    left = jax.ShapeDtypeStruct((batch * count * num_heads, runs.blocks, work.turns, ROWS), jnp.float32)
    made = warpgroups.launched(
        name,
        kernel,
        [*(x.array for x in blocks.values()), *work.lists, *work.numbers.values(), *work.scalars.values()],
        interpret,
        out_type=[*(jax.ShapeDtypeStruct(x.array.shape, x.array.dtype) for x in work.out.values())]
        + [left] * len(work.left),
        scratch_types={
            "queries": {key: by_rows(x, interpret, stages, ROWS) for key, x in work.queries.items()},
            "keys": {key: by_rows(x, interpret, KEPT, ROWS) for key, x in work.keys.items()},
            "staging": {key: by_rows(x, interpret, ROWS) for key, x in work.staging.items()},
            "lists": [plgpu.SMEM((runs.chunks + 2, *x.shape[2:]), jnp.int32) for x in work.lists],
            "own": {key: shared(x) for key, x in work.own.items()},
            "listed": plgpu.Barrier(num_arrivals=2 * len(work.lists)),
            "filled": [
                plgpu.Barrier(num_arrivals=copies(work.queries), num_barriers=stages),
                plgpu.Barrier(num_arrivals=copies(work.keys), num_barriers=KEPT),
            ],
            "free": [plgpu.Barrier(num_barriers=stages), plgpu.Barrier(num_barriers=KEPT)],
            "known": plgpu.Barrier(),
        },
        grid=(batch, count * num_heads, runs.blocks),
        grid_names=("batch", "heads", "runs"),
        num_threads=2,
    )
    return dict(zip([*work.out, *work.left], made, strict=True))


def _pieces(x: Matrix) -> int:
    """Copies of a row."""
    return max(1, x.width * x.array.dtype.itemsize // warpgroups.ROW)


class _Side:
    """Chunks of rows of one side, which are copied some turns ahead of those who read them."""

    def __init__(self, blocks: Rows, refs, memory: dict[str, Any], tokens, filled, free, stages: int):
        self.blocks, self.refs, self.tokens = blocks, refs, tokens
        self.filled, self.free, self.stages = filled, free, stages
        self.read, self.copied = ({key: views(x)[i] for key, x in memory.items()} for i in (0, 1))

    def fetch(self, turn, line, row_of: Callable) -> None:
        """The rows of a line of the list go where all are done with those that stood there."""
        slot = rem(turn, self.stages)
        pl.when(turn >= self.stages)(lambda: plgpu.barrier_wait(self.free.at[slot]))

        @pl.loop(jnp.int32(0), jnp.int32(ROWS))
        def _(i):
            token = self.tokens[line, 0, i]
            for (key, block), ref in zip(self.blocks.items(), self.refs, strict=True):
                for piece, columns in pieces(self.copied[key].at[slot], i):
                    plgpu.copy_gmem_to_smem(row_of(block, ref, token, columns), piece, self.filled.at[slot])

    def wait(self, turn) -> None:
        """Until rows have come."""
        plgpu.barrier_wait(self.filled.at[rem(turn, self.stages)])

    def at(self, turn) -> SimpleNamespace:
        """Where they lie."""
        slot = rem(turn, self.stages)
        return SimpleNamespace(**{key: x.at[slot] for key, x in self.read.items()})

    def done(self, turn) -> None:
        """They may be overwritten."""
        plgpu.barrier_arrive(self.free.at[rem(turn, self.stages)])


class _Block:
    """A block of threads, inside the kernel: a run of chunks."""

    def __init__(self, work: Work, rule: Rule, is_interpreted: bool, refs, memory: SimpleNamespace):
        self.work, self.rule, self.is_interpreted, self.memory = work, rule, is_interpreted, memory
        alike = work.queries, work.keys, work.lists, work.numbers, work.scalars, work.out, work.left
        queries, keys, self.lists, self.numbers, self.scalars, self.out, self.left = dealt(refs, alike)
        self.example, place, self.run, self.group = (lax.axis_index(x) for x in ("batch", "heads", "runs", "group"))
        batch, count, num_heads = work.shape
        self.list, self.head = div(place, num_heads), rem(place, num_heads)
        self.place = (self.example * count + self.list) * num_heads + self.head
        self.target = self.list * batch + self.example
        of_queries, of_keys = memory.lists
        self.queries = _Side(
            work.queries, queries, memory.queries, of_queries, memory.filled[0], memory.free[0], work.stages
        )
        self.keys = _Side(work.keys, keys, memory.keys, of_keys, memory.filled[1], memory.free[1], KEPT)

    def copy(self) -> None:
        """What the warpgroup does that copies."""
        first, some = self.run * self.work.runs.chunks, self.work.runs.chunks + 1
        for ref, memory in zip(self.lists, self.memory.lists, strict=True):
            lines = ref.at[self.place]
            before, own = lines.at[pl.ds(jnp.maximum(first, 1) - 1, 1)], lines.at[pl.ds(first, some)]
            plgpu.copy_gmem_to_smem(before, memory.at[pl.ds(0, 1)], self.memory.listed)
            plgpu.copy_gmem_to_smem(own, memory.at[pl.ds(1, some)], self.memory.listed)
        plgpu.barrier_wait(self.memory.listed)
        plgpu.barrier_arrive(self.memory.known)
        self.keys.fetch(jnp.int32(0), jnp.int32(0), self._row)

        @pl.loop(jnp.int32(0), jnp.int32(self.work.turns))
        def _(turn):
            self.queries.fetch(turn, turn + 1, self._row)
            self.keys.fetch(turn + 1, turn + 1, self._row)

        ended(self.work.turns, self.queries.stages, self.queries.free)
        ended(self.work.turns + 1, self.keys.stages, self.keys.free)

    def compute(self) -> None:
        """What the other one does."""
        plgpu.barrier_wait(self.memory.known)
        self.keys.wait(jnp.int32(0))
        lax.fori_loop(jnp.int32(0), jnp.int32(self.work.turns), self._met, self.rule.begin())
        self.keys.done(jnp.int32(self.work.turns))
        plgpu.wait_smem_to_gmem(0)

    def _row(self, block, ref, token, columns):
        """What is copied of a row."""
        b = self.target if block.array.shape[0] == self.work.shape[0] * self.work.shape[1] else self.example
        head = div(self.head, self.work.shape[2] // block.array.shape[2])
        return ref.at[b, pl.ds(token, 1), head, columns]

    def _met(self, turn, carry):
        self.queries.wait(turn)
        self.keys.wait(turn + 1)
        scalars = zip(self.work.scalars.items(), self.scalars, strict=True)
        chunk, (of_queries, of_keys) = self.run * self.work.runs.chunks + turn, self.memory.lists
        carry = self.rule.step(
            Turn(
                self.queries.at(turn),
                self.keys.at(turn),
                self.keys.at(turn + 1),
                chunk,
                (of_queries.at[turn + 1], of_keys.at[turn], of_keys.at[turn + 1]),
                {
                    key: ref.at[self.place, jnp.minimum(chunk, ref.shape[1] - 1)]
                    for key, ref in zip(self.work.numbers, self.numbers, strict=True)
                },
                {key: leading(x, ref, self.example, self.head)[...] for (key, x), ref in scalars},
                SimpleNamespace(**self.memory.own),
                lambda name, rows, of_keys=False: self._write(turn, name, rows, of_keys),
                lambda name, vector: self._leave(turn, name, vector),
            ),
            carry,
        )
        if self.is_interpreted:  # there, who multiplies reads, and what is copied next comes by another way
            plgpu.commit_smem()
        self.queries.done(turn)
        self.keys.done(turn)
        return carry

    def _write(self, turn, name: str, rows: jax.Array, of_keys: bool) -> None:
        """What is not of this run is written nowhere: keys before it, and queries behind it."""
        names, block = list(self.work.out), self.work.out[name]
        ref = self.out[names.index(name)]
        is_own = turn > 0 if of_keys else turn < self.work.runs.chunks
        tokens, line = self.memory.lists[of_keys], turn if of_keys else turn + 1
        start = (self.run * self.work.runs.chunks + line - 1) * ROWS
        written, copied = views(self.memory.staging[kind(block)])
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        set_block(written, rows.astype(block.array.dtype))

        @pl.loop(jnp.int32(0), jnp.int32(ROWS))
        def _(i):
            @pl.when(is_own & (start + i < block.array.shape[1]))
            def _():
                token = tokens[line, 0, i]
                for piece, columns in pieces(copied, i):
                    plgpu.copy_smem_to_gmem(piece, ref.at[self.target, pl.ds(token, 1), self.head, columns])

    def _leave(self, turn, name: str, vector: jax.Array) -> None:
        ref = self.left[self.work.left.index(name)]
        ref.at[self.place, self.run, turn][...] = vector
