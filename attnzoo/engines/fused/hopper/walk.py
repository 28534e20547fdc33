"""A kernel of an NVIDIA Hopper GPU that goes along a sequence, from its first piece to the last or the other way.

One warpgroup keeps a state, and tells another one before each piece what it is, which writes outputs from it; a third
one copies what both read, and prepares of each piece what depends on no state, while they are at the one before.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from attnzoo.engines.fused.hopper import warpgroups
from attnzoo.engines.fused.hopper.ends import memory, staging
from attnzoo.engines.fused.hopper.warpgroups import (
    ALIGNED,
    COLUMNS,
    RESERVED,
    ROWS,
    SCRATCH,
    SHARED,
    Blocks,
    Columns,
    Matrix,
    Slices,
    Stream,
    Vectors,
    all_slots,
    bytes_of,
    dealt,
    div,
    ended,
    leading,
    plgpu,
    rem,
    scattered,
    shared,
    staged,
)

HELD = ((2, 2), (2, 1), (1, 1))  # states that are told, and pieces prepared, in shared memory at a time, best first


class Walk(NamedTuple):
    """What a kernel reads and writes that goes along the sequence of each head, `ROWS` positions at a time.

    Blocks of threads have columns of `Slices`, and all else in common; what is written of it the first one writes.

    Attributes:
      given: what it reads of each piece, as many rows as there are in all by the number of pieces.
      out: shapes of what it writes of each piece, likewise: the first one a matrix of `ROWS` rows. `Vectors` have one
        row, or one for each block of threads.
      beside: likewise, of what is written by the warpgroup that keeps the state.
      found: what it reads of each head before the first piece, float32: columns of [B, N, rows, W], or [B, N, rows]
        in common. A single row is a vector.
      left: shapes of what it writes of each head after the last one, likewise.
      told: shapes of what is told: vectors, and [rows, W] as wgmma reads it.
      prepared: likewise, of what is prepared of each piece, beside which it stands.
      own: likewise, of what a warpgroup writes for itself.
      is_backward: whether it begins with the last piece.
      fixed: what shared memory holds for all pieces, [B or 1, N or 1, rows, W], or vectors [B or 1, N or 1, W]; of
        fewer heads than there are, one after another and again.
    """

    given: Blocks
    out: Blocks
    beside: Blocks
    found: dict[str, jax.Array]
    left: dict[str, Any]
    told: dict[str, Any]
    prepared: dict[str, Any]
    own: dict[str, Any]
    is_backward: bool
    fixed: dict[str, jax.Array] = {}

    @property
    def main(self) -> Matrix:
        """The first output, of which each piece has `ROWS` rows."""
        out = next(iter(self.out.values()))
        assert isinstance(out, Matrix)
        return out

    @property
    def parts(self) -> int:
        """Blocks of threads of a head."""
        return self.main.parts if isinstance(self.main, Slices | Columns) else 1

    @property
    def pieces(self) -> int:
        """Of the sequence."""
        return all_slots(self.main.array.shape[1]) // ROWS

    def rows(self, block: Matrix | Vectors) -> int:
        """Of a piece."""
        return all_slots(block.array.shape[1 if isinstance(block, Matrix) else 3]) // self.pieces

    @property
    def waiting(self) -> dict[str, str]:
        """Matrices that are written, each with the one in whose place it waits for that: where there is room for a
        piece or a second one so, those before it in the same warpgroup that are like it, which have left by then.
        """
        return self._together if self._stages(self._apart) < min(2, self._stages(self._together)) else self._apart

    @property
    def _apart(self) -> dict[str, str]:
        return {key: key for key, x in (self.out | self.beside).items() if _is_copied(x)}

    @property
    def _together(self) -> dict[str, str]:
        together: dict[str, str] = {}
        for blocks in (self.out, self.beside):
            kinds: dict[tuple, str] = {}
            for key, x in blocks.items():
                if _is_copied(x):
                    together[key] = kinds.setdefault((x.width, self.rows(x), x.array.dtype), key)
        return together

    @property
    def staging(self) -> dict[str, Matrix]:
        """Where they wait."""
        return self._staging(self.waiting)

    def _staging(self, waiting: dict[str, str]) -> dict[str, Matrix]:
        blocks = self.out | self.beside
        return {key: x for key in dict.fromkeys(waiting.values()) if isinstance(x := blocks[key], Matrix)}

    @property
    def stages(self) -> int:
        """Pieces in shared memory at a time; where there is room for it, blocks of threads run in pairs."""
        return max(1, self._stages(self.waiting))

    def _stages(self, waiting: dict[str, str]) -> int:
        in_pairs, alone = (self._room(most, waiting, *self.held) for most in (SHARED // 2, SHARED))
        return in_pairs if in_pairs >= 2 else alone

    @property
    def held(self) -> tuple[int, int]:
        """States that are told, and pieces prepared, in shared memory at a time."""
        ways = self._apart, self._together
        return next((x for each in ways for x in HELD if self._room(SHARED, each, *x) >= 1), HELD[0])

    def _room(self, most: int, waiting: dict[str, str], told: int, prepared: int) -> int:
        """Pieces for which there is room beside all else, of three at most."""
        sizes = lambda blocks: [bytes_of({key: x}, self.rows(x)) for key, x in blocks.items()]
        wholes = lambda shapes, count=1: [count * x.dtype.itemsize * x.size for x in shapes.values()]
        held = sizes(self._staging(waiting)) + wholes(self.begun) + wholes(self.own) + wholes(self.fixtures)
        held += wholes(self.told, told) + wholes(self.prepared, prepared)
        given = sizes(self.given)
        count = (most - RESERVED - sum(held)) // sum(given)
        # Vectors begin where matrices may, too, so that many of them take more than they have.
        begins = lambda each: sum(-(-x // ALIGNED) * ALIGNED for x in each)
        fits = lambda count: begins(held) + begins([count * x for x in given]) <= most - SCRATCH
        return next((x for x in range(min(count, 3), 0, -1) if fits(x)), 0)

    @property
    def begun(self) -> dict[str, Any]:
        """Where what was found comes to, one after another: a place for each shape."""
        own = [(x.shape[2], ROWS) if x.ndim == 4 else x.shape[2:] for x in self.found.values()]
        return {str(x): jax.ShapeDtypeStruct(x, jnp.float32) for x in own}

    @property
    def fixtures(self) -> dict[str, Any]:
        """Of what is fixed, that of a head."""
        return {key: jax.ShapeDtypeStruct(x.shape[2:], x.dtype) for key, x in self.fixed.items()}


def _is_copied(block: Matrix | Vectors) -> bool:
    """Whether what is written waits in shared memory to be copied."""
    return isinstance(block, Matrix) and not isinstance(block, Columns)


class Rule(NamedTuple):
    """What warpgroups do, to whom the number of their block of threads is `own.part`.

    Attributes:
      begin: the state, from `found(name)`, each time a block of shared memory, for what was found is copied to it as it
        is asked for; in the order of `Walk.left` where it is left.
      tell: writes what is told of it before a piece, from the piece, into what is told, by what is its own.
      keep: the state after one more piece, and what is written beside, from the piece, what was told, and what is its
        own.
      read: what is written, one after another, from the same.
      prepare: writes what is prepared of a piece, from the piece, by what is its own; None where nothing is.
      ready: what the warpgroup that prepares does before, by what is its own.
      writes: names of the outputs that `read` gives; None for all.
    """

    begin: Callable[[Any], tuple]
    tell: Callable[[Any, Any, Any, tuple], None]
    keep: Callable[[Any, Any, Any, tuple], tuple[tuple, tuple]]
    read: Callable[[Any, Any, Any], Iterable]
    prepare: Callable[[Any, Any, Any], None] | None = None
    ready: Callable[[Any], None] = lambda own: None
    writes: tuple[str, ...] | None = None


def launch(name: str, work: Walk, rule: Rule, interpret: Any = None, others: tuple[Rule, ...] = ()) -> list[jax.Array]:
    """The outputs of a kernel, what is beside them, and what it leaves; `interpret` as for `tiles`.

    Args:
      others: what as many blocks of threads more of each head do, with outputs of their own, so that what they all read
        is read by one kernel; nothing is left of a head then.
    """
    batch, _, num_heads, _ = work.main.array.shape
    (told, prepared), rules = work.held, (rule, *others)

    def kernel(*refs, **own):
        blocks = [_Block(work, rules, kind, refs, SimpleNamespace(**own)) for kind in range(len(rules))]
        blocks[0].hold()
        for block in blocks:
            for group, does in enumerate((block.keep, block.read, block.copy)):
                pl.when(block.is_group(group))(does)

    shapes = [jax.ShapeDtypeStruct(x.array.shape, x.array.dtype) for x in (work.out | work.beside).values()]
    return warpgroups.launched(
        name,
        kernel,
        [*(x.array for x in work.given.values()), *work.found.values(), *work.fixed.values()],
        interpret,
        out_type=[*shapes, *work.left.values()],
        scratch_types={
            "own": {key: shared(x) for key, x in (work.own | work.fixtures).items()},
            "told": {key: shared(x, told) for key, x in work.told.items()},
            "given": {key: memory(x, interpret, work.stages, work.rows(x)) for key, x in work.given.items()},
            "prepared": {key: shared(x, prepared) for key, x in work.prepared.items()},
            "staging": {key: staging(x, interpret, work.rows(x)) for key, x in work.staging.items()},
            "begun": {key: plgpu.SMEM(x.shape, x.dtype) for key, x in work.begun.items()},
            "fixed": plgpu.Barrier(num_arrivals=max(1, len(work.fixed))),
            "loaded": plgpu.Barrier(),
            "filled": plgpu.Barrier(num_arrivals=len(work.given), num_barriers=work.stages),
            "free": plgpu.Barrier(num_arrivals=2, num_barriers=work.stages),
            "known": plgpu.Barrier(num_barriers=told),
            "forgotten": plgpu.Barrier(num_barriers=told),
            "ready": plgpu.Barrier(num_barriers=prepared),
            "spent": plgpu.Barrier(num_arrivals=2, num_barriers=prepared),
        },
        grid=(batch, num_heads * len(rules) * work.parts),
        grid_names=("batch", "heads"),
        num_threads=3,
    )


class _Block:
    """A block of threads, inside the kernel: a head, or some columns of it, as one that obeys one of the rules."""

    def __init__(self, work: Walk, rules: tuple[Rule, ...], kind: int, refs, memory: SimpleNamespace):
        self.work, self.rule, self.memory, self.kind, self.kinds = work, rules[kind], memory, kind, len(rules)
        self.example, place, self.group = (lax.axis_index(axis) for axis in ("batch", "heads", "group"))
        self.place, self.part = div(place, work.parts), rem(place, work.parts)
        self.head = div(self.place, self.kinds)
        given, *others = dealt(refs, (work.given, work.found, work.fixed, work.out, work.beside, work.left))
        found, self.fixed, out, self.beside, self.left = others
        writes = work.out if self.rule.writes is None else self.rule.writes
        self.written = {key: block for key, block in work.out.items() if key in writes}
        self.out = [ref for key, ref in zip(work.out, out, strict=True) if key in writes]
        self.found = dict(zip(work.found, map(self._of_head, found), strict=True))
        self.told, prepared = work.held
        self.own = SimpleNamespace(**memory.own, part=self.part)
        self.given = Stream(work.given, given, memory.given, memory.filled, memory.free, work.stages)
        self.prepared = Stream({}, (), memory.prepared, memory.ready, memory.spent, prepared)
        self.turns = jnp.int32(0), jnp.int32(work.pieces)

    def is_group(self, group: int):
        """Whether this is its warpgroup of that number, and it obeys the rule."""
        is_group = self.group == group
        return is_group if self.kinds == 1 else is_group & (rem(self.place, self.kinds) == self.kind)

    def hold(self) -> None:
        """What all warpgroups do before: they wait for what is fixed, which one of them copies."""
        if not self.fixed:
            return

        @pl.when(self.group == 2)
        def _():
            for (key, x), ref in zip(self.work.fixed.items(), self.fixed, strict=True):
                own = leading(x, ref, self.example, rem(self.head, x.shape[1]))
                plgpu.copy_gmem_to_smem(own, self.memory.own[key], self.memory.fixed)

        plgpu.barrier_wait(self.memory.fixed)

    def keep(self) -> None:
        """What the warpgroup does that keeps the state."""
        carry = lax.fori_loop(*self.turns, self._kept, self.rule.begin(self._begun))
        for ref, x in zip(self.left, carry, strict=False):
            target = self._of_head(ref)
            target = target.at[0] if len(x.shape) < len(target.shape) else target
            self._of_first(self.work.parts if len(ref.shape) == 3 else 1, target, x)
        ended(self.work.pieces, self.told, self.memory.forgotten)
        plgpu.wait_smem_to_gmem(0)

    def _begun(self, name: str):
        """Where something that was found has come to, in the place of what was asked for before, and read."""
        ref, loaded = self.found[name], self.memory.loaded
        block = self.memory.begun[str(tuple(ref.shape))]
        plgpu.commit_smem()
        plgpu.copy_gmem_to_smem(ref, block, loaded)
        plgpu.barrier_wait(loaded)
        return block

    def read(self) -> None:
        """What the one does that reads it."""

        @pl.loop(*self.turns)
        def _(turn):
            told, is_known, is_forgotten = self._told(turn)
            with self._piece(turn) as piece:
                plgpu.barrier_wait(is_known)
                self._write(self.written, self.out, self.rule.read(piece, told, self.own), turn)
            plgpu.barrier_arrive(is_forgotten)

        plgpu.wait_smem_to_gmem(0)

    def copy(self) -> None:
        """What the one does that copies: a piece takes the place of one that both others are done with."""
        ahead = max(1, self.work.stages - 1) if self.work.prepared else 0
        self.rule.ready(self.own)

        @pl.loop(jnp.int32(0), jnp.int32(self.work.pieces + ahead))
        def _(turn):
            if self.work.prepared:
                pl.when(turn >= ahead)(functools.partial(self._prepare, turn - ahead))
            pl.when(turn < self.work.pieces)(functools.partial(self._fetch, turn))

        self.given.end(self.work.pieces)
        self.prepared.end(self.work.pieces if self.work.prepared else 0)

    def _fetch(self, turn) -> None:
        self.given.fetch(turn, functools.partial(self._of_piece, turn=turn))

    def _prepare(self, turn) -> None:
        (piece, is_filled, _), (prepared, is_ready, is_spent) = self.given.slot(turn), self.prepared.slot(turn)
        plgpu.barrier_wait(is_filled)
        pl.when(turn >= self.prepared.stages)(functools.partial(plgpu.barrier_wait, is_spent))
        assert self.rule.prepare is not None
        self.rule.prepare(piece, prepared, self.own)
        plgpu.commit_smem()
        plgpu.barrier_arrive(is_ready)

    @contextlib.contextmanager
    def _piece(self, turn) -> Iterator[SimpleNamespace]:
        """That of a turn, and beside it what was prepared of it, and where in the memory of the device it was `far`."""
        with self.given.piece(turn, is_read=True) as piece:
            if not self.work.prepared:
                yield piece
                return
            refs = zip(self.work.given.items(), self.given.refs, strict=True)
            far = {key: self._of_piece(block, ref, turn) for (key, block), ref in refs}
            with self.prepared.piece(turn, is_read=False) as prepared:
                yield SimpleNamespace(**vars(piece), **vars(prepared), far=SimpleNamespace(**far))

    def _kept(self, turn, carry: tuple) -> tuple:
        told, is_known, is_forgotten = self._told(turn)
        with self._piece(turn) as piece:
            pl.when(turn >= self.told)(functools.partial(plgpu.barrier_wait, is_forgotten))
            self.rule.tell(piece, told, self.own, carry)
            plgpu.barrier_arrive(is_known)
            carry, written = self.rule.keep(piece, told, self.own, carry)
        self._write(self.work.beside, self.beside, written, turn)
        return carry

    def _told(self, turn) -> tuple:
        """What is told before a piece, and the barriers which say that it was, and that it was read."""
        slot, memory = rem(turn, self.told), self.memory
        told = SimpleNamespace(**{key: x.at[slot] for key, x in memory.told.items()})
        return told, memory.known.at[slot], memory.forgotten.at[slot]

    def _write(self, blocks: Blocks, refs, written, turn) -> None:
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        occupied = set()
        for (key, block), ref, rows in zip(blocks.items(), refs, written, strict=True):
            target = self._of_piece(block, ref, turn)
            if isinstance(block, Columns):
                for i, x in enumerate(rows):
                    scattered(x.astype(block.array.dtype), target.at[:, self.part * COLUMNS + i])
            elif _is_copied(block):
                place = self.work.waiting[key]
                if place in occupied:
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                occupied.add(place)
                staged(rows.astype(block.array.dtype), self.memory.staging[place], target)
            elif block.width > 1:
                target.at[self.part][...] = rows
            else:
                self._of_first(self.work.parts, target.at[0], rows)

    def _of_first(self, parts: int, target, rows: jax.Array) -> None:
        """Written by the first block of threads of a head alone."""

        def write():
            target[...] = rows

        write() if parts == 1 else pl.when(self.part == 0)(write)

    def _of_piece(self, block, ref, turn):
        size = self.work.rows(block)
        start = (self.work.pieces - 1 - turn if self.work.is_backward else turn) * size
        rows = block.block(ref, self.example, self.head, self.work.main.array.shape[2], start, size)
        return self._columns(rows) if isinstance(block, Slices) else rows

    def _of_head(self, ref):
        rows = ref.at[self.example, self.head]
        return rows if len(rows.shape) == 1 else self._columns(rows)

    def _columns(self, rows):
        return rows if self.work.parts == 1 else rows.at[:, pl.ds(self.part * ROWS, ROWS)]
