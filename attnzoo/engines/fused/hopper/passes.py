"""A kernel of an NVIDIA Hopper GPU that passes over a sequence once, whose pieces do not wait for each other.

A block of threads is one warpgroup. It has some pieces of a head, beside what is the same for all of them, writes what
it makes of each, and leaves what it sums. It copies pieces itself, some turns ahead; several blocks are at work on a
multiprocessor, of which some compute while others wait. What is the same for all pieces may be more than shared memory
holds: then it comes by blocks, one after another, again for each piece, of which the device's cache has them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from attnzoo.engines.fused.hopper import warpgroups
from attnzoo.engines.fused.hopper.ends import memory, staging
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    Blocks,
    Matrix,
    Stream,
    all_slots,
    dealt,
    div,
    leading,
    plgpu,
    rem,
    shared,
    staged,
)

STAGES = 2  # pieces in shared memory at a time
BLOCKS = 528  # of threads, four for each multiprocessor of an H100, if there are pieces for so many
SHORTEST = 16  # pieces of a block, beside which what it leaves is little


def _summed(*left: jax.Array) -> list[jax.Array]:
    return [x.sum(axis=2) for x in left]


class Pass(NamedTuple):
    """What a kernel reads and writes that passes over a sequence, `ROWS` positions at a time.

    Attributes:
      shape: B, positions, and heads.
      given: what it reads of each piece.
      out: shapes of what it writes of each piece.
      held: what it reads of each head once: [B, heads or fewer, rows, W] as wgmma reads it, or float32 [.., .., W].
      left: shapes of what it sums of each head.
      own: of what it writes for itself: vectors, and [rows, W] as wgmma reads it.
      scalars: of each head, [B or 1, N or 1].
      joined: what all parts of a head leave together, of [B, heads, parts, ...] of each; sums unless given.
      fixed: what it has beside what is its own, as `held`, and for all examples where these are 1; of fewer heads than
        there are, one after another and again.
      brought: what comes by blocks beside what is held and its own, [B or 1, heads or fewer, blocks, ...] of each.
    """

    shape: tuple[int, int, int]
    given: Blocks
    out: Blocks
    held: dict[str, jax.Array]
    left: dict[str, tuple[int, ...]]
    own: dict[str, Any]
    scalars: dict[str, jax.Array] = {}
    joined: Callable[..., Iterable[jax.Array]] = _summed
    fixed: dict[str, jax.Array] = {}
    brought: dict[str, jax.Array] = {}

    @property
    def pieces(self) -> int:
        """Of the sequence."""
        return all_slots(self.shape[1]) // ROWS

    @property
    def run(self) -> int:
        """Pieces of a block of threads, of which the last one may have fewer."""
        batch, _, num_heads = self.shape
        most = max(1, min(BLOCKS // (batch * num_heads), self.pieces // SHORTEST))
        return -(-self.pieces // most)

    @property
    def parts(self) -> int:
        """Blocks of threads of a head."""
        return -(-self.pieces // self.run)

    @property
    def staging(self) -> dict[str, Matrix]:
        """Where matrices wait to be written, one after another where they are alike."""
        return {_kind(x): x for x in self.out.values() if isinstance(x, Matrix)}


def _kind(matrix: Matrix) -> str:
    return f"{matrix.array.dtype}_{matrix.width}"


class Place(NamedTuple):
    """Where a piece stands.

    Attributes:
      head: number of the head.
      start: the first of its positions.
      scalars: of the head.
    """

    head: jax.Array
    start: jax.Array
    scalars: dict[str, jax.Array]


class Rule(NamedTuple):
    """What the warpgroup does. Where blocks are brought, `own.over(step, start)` is `step(slot, carry)` of one after
    another, each of which stands at its slot of what is brought.

    Attributes:
      make: what it makes of a piece beside what is held, into what is its own, and in registers, where it stands.
      add: sums with one more piece, from the piece, what is its own, and what was made.
      write: what is written of it, one after another, from the piece, what is held, what is its own, and what was made.
      begin: the sums before the first piece, in the order of `Pass.left`.
    """

    make: Callable[[Any, Any, Any, Place], Any]
    add: Callable[[Any, Any, Any, tuple], tuple] = lambda piece, own, made, sums: sums
    write: Callable[[Any, Any, Any, Any], Iterable] = lambda piece, held, own, made: ()
    begin: Callable[[], tuple] = tuple


def launch(name: str, work: Pass, rule: Rule, interpret: Any = None) -> dict[str, jax.Array]:
    """What a kernel writes, by name, and the sums that it leaves; `interpret` as for `tiles`."""
    (batch, _, num_heads), parts = work.shape, work.parts

    def kernel(*refs, **own):
        _Block(work, rule, refs, SimpleNamespace(**own)).run()

    shapes = [jax.ShapeDtypeStruct(x.array.shape, x.array.dtype) for x in work.out.values()]
    left = [jax.ShapeDtypeStruct((batch, num_heads, parts, *x), jnp.float32) for x in work.left.values()]
    made = warpgroups.launched(
        name,
        kernel,
        [
            *(x.array for x in work.given.values()),
            *(x for each in (work.held, work.fixed, work.scalars, work.brought) for x in each.values()),
        ],
        interpret,
        out_type=[*shapes, *left],
        scratch_types={
            "held": {key: _of_head(x) for key, x in work.held.items()},
            "own": {key: shared(x) for key, x in work.own.items()}
            | {key: _of_head(x) for key, x in work.fixed.items()},
            "given": {key: memory(x, interpret, STAGES, ROWS) for key, x in work.given.items()},
            "brought": {key: _of_blocks(x) for key, x in work.brought.items()},
            "staging": {key: staging(x, interpret, ROWS) for key, x in work.staging.items()},
            "loaded": plgpu.Barrier(num_arrivals=max(1, len(work.held) + len(work.fixed))),
            "filled": plgpu.Barrier(num_arrivals=len(work.given), num_barriers=STAGES),
            "free": plgpu.Barrier(num_barriers=STAGES),
            "come": plgpu.Barrier(num_arrivals=max(1, len(work.brought)), num_barriers=STAGES),
            "gone": plgpu.Barrier(num_barriers=STAGES),
        },
        grid=(batch, num_heads, parts),
        grid_names=("batch", "heads", "parts"),
        num_threads=1,
    )
    return dict(zip([*work.out, *work.left], [*made[: len(shapes)], *work.joined(*made[len(shapes) :])], strict=True))


def _of_head(x: jax.Array) -> Any:
    """Shared memory for what a head has."""
    return shared(jax.ShapeDtypeStruct(x.shape[2:], x.dtype))


def _of_blocks(x: jax.Array) -> Any:
    """The same for some blocks of what is brought."""
    return shared(jax.ShapeDtypeStruct(x.shape[3:], x.dtype), STAGES)


class _Block:
    """A block of threads, inside the kernel: some pieces of a head."""

    def __init__(self, work: Pass, rule: Rule, refs, memory: SimpleNamespace):
        self.work, self.rule, self.memory = work, rule, memory
        self.example, self.head, self.part = (lax.axis_index(axis) for axis in ("batch", "heads", "parts"))
        alike = work.given, work.held, work.fixed, work.scalars, work.brought, work.out, work.left
        given, self.far, self.fixed, self.scalars, brought, self.out, self.left = dealt(refs, alike)
        self.first = self.part * work.run
        self.count = jnp.minimum(work.run, work.pieces - self.first).astype(jnp.int32)
        self.given = Stream(work.given, given, memory.given, memory.filled, memory.free, STAGES)
        self.brought = Stream(work.brought, brought, memory.brought, memory.come, memory.gone, STAGES)
        self.held = SimpleNamespace(**memory.held, **memory.brought)
        self.own = SimpleNamespace(**memory.own, **memory.brought, over=self._over)

    def run(self) -> None:
        """All that it does."""
        ahead = jnp.minimum(self.count, STAGES - 1).astype(jnp.int32)
        pl.loop(jnp.int32(0), ahead)(self._fetch)
        self._load()
        sums = lax.fori_loop(jnp.int32(0), self.count, self._met, self.rule.begin())
        for ref, x in zip(self.left, sums, strict=True):
            ref.at[self.example, self.head, self.part][...] = x
        plgpu.wait_smem_to_gmem(0)
        self.given.end(self.count)

    def _load(self) -> None:
        for (key, x), ref in zip(self.work.held.items(), self.far, strict=True):
            head = div(self.head, self.work.shape[2] // x.shape[1])
            plgpu.copy_gmem_to_smem(ref.at[self.example, head], self.memory.held[key], self.memory.loaded)
        for (key, x), ref in zip(self.work.fixed.items(), self.fixed, strict=True):
            own = leading(x, ref, self.example, rem(self.head, x.shape[1]))
            plgpu.copy_gmem_to_smem(own, self.memory.own[key], self.memory.loaded)
        if self.work.held or self.work.fixed:
            plgpu.barrier_wait(self.memory.loaded)

    def _over(self, step: Callable[[Any, Any], Any], start: Any) -> Any:
        (count,) = {x.shape[2] for x in self.work.brought.values()}

        def bring(number):
            self.brought.fetch(number, functools.partial(self._of_block, number=number))

        def met(number, carry):
            ahead = number + STAGES - 1
            pl.when(ahead < count)(functools.partial(bring, ahead))
            with self.brought.piece(number, is_read=True):
                return step(rem(number, STAGES), carry)

        pl.loop(jnp.int32(0), jnp.int32(min(count, STAGES - 1)))(bring)
        carry = lax.fori_loop(jnp.int32(0), jnp.int32(count), met, start)
        self.brought.end(count)
        return carry

    def _of_block(self, x, ref, number):
        head = div(self.head, self.work.shape[2] // x.shape[1])
        return ref.at[self.example if x.shape[0] > 1 else 0, head, number]

    def _fetch(self, turn) -> None:
        self.given.fetch(turn, functools.partial(self._of_piece, turn=turn))

    def _met(self, turn, sums: tuple) -> tuple:
        ahead = turn + STAGES - 1  # where the piece before this one stood
        pl.when(ahead < self.count)(functools.partial(self._fetch, ahead))
        with self.given.piece(turn, is_read=True) as piece:
            made = self.rule.make(piece, self.held, self.own, self._place(turn))
            sums = self.rule.add(piece, self.own, made, sums)
            self._write(self.rule.write(piece, self.held, self.own, made), turn)
        return sums

    def _write(self, written: Iterable, turn) -> None:
        occupied = set(self.work.staging)
        for block, ref, rows in zip(self.work.out.values(), self.out, written, strict=True):
            target = self._of_piece(block, ref, turn)
            if isinstance(block, Matrix):
                if (place := _kind(block)) in occupied:
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    occupied.clear()
                occupied.add(place)
                staged(rows.astype(block.array.dtype), self.memory.staging[place], target)
            else:
                target.at[0][...] = rows

    def _place(self, turn) -> Place:
        scalars = zip(self.work.scalars.items(), self.scalars, strict=True)
        of_head = {key: leading(x, ref, self.example, self.head)[...] for (key, x), ref in scalars}
        return Place(self.head, self._start(turn), of_head)

    def _start(self, turn):
        return (self.first + turn) * ROWS

    def _of_piece(self, block, ref, turn):
        return block.block(ref, self.example, self.head, self.work.shape[2], self._start(turn), ROWS)
