"""Kernels of an NVIDIA Hopper GPU: one holds a tile of a sequence and meets listed tiles of another, one goes along.

One warpgroup copies what is met to shared memory, piece by piece, some pieces ahead (TMA); one or two others compute
(wgmma): each with 64 rows of the tile that is held, or, along a sequence, one that keeps a state and one that reads
it. Barriers tell that a piece has come, and that all are done with it. All of Mosaic GPU that attnzoo knows is in this
file: its interface changes with jax.
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
from jax.experimental.pallas import mosaic_gpu

from attnzoo.contract import varying
from attnzoo.engines.fused.pairs import Pairs
from attnzoo.engines.progressions import Numbers, numpy_of

plgpu: Any = mosaic_gpu  # other names and signatures with each jax

OLDEST = (0, 11)  # jax whose Mosaic GPU is the one that is spoken to here
CAPABILITY = "9.0"  # of the GPU: wgmma is Hopper's, and of none after it

ROWS = 64  # of a warpgroup: those of one wgmma
SHARED = 227 * 1024  # bytes of shared memory of one block of threads
RESERVED = 8 * 1024  # of these, for barriers and sums across warps
TOLD = 2  # states in shared memory at a time
COMPUTING, COPYING = 240, 24  # registers of a thread: 2 * 232 + 40 are all there are for 3 * 128 threads


def missing() -> list[str]:
    """Why no kernel can be had here; empty where one can."""
    reasons = []
    if jax.__version_info__ < OLDEST:
        reasons.append(f"jax {jax.__version__}: its Mosaic GPU is another one; it needs {'.'.join(map(str, OLDEST))}")
    if (there := _capability()) not in (None, CAPABILITY):
        reasons.append(
            f"a GPU of compute capability {there}: it needs {CAPABILITY}, whose tensor cores it is written for"
        )
    return reasons


@functools.cache
def _capability() -> str | None:
    """That of the GPU which is here; None where there is none."""
    try:
        return str(jax.devices("cuda")[0].compute_capability)
    except RuntimeError:
        return None


class Matrix(NamedTuple):
    """What each head has of a row of numbers for each position: [B, L, heads, W]."""

    array: Any

    @property
    def width(self) -> int:
        """Numbers of a position."""
        return self.array.shape[3]

    def memory(self, *shape: int):
        """Shared memory for [*shape, W], as wgmma reads it."""
        return _tiled(self.array.dtype, *shape, self.width)

    def block(self, ref, b, n, num_heads: int, start, size: int):
        """Rows start .. start + size of query head n: [size, W]."""
        return ref.at[b, pl.ds(start, size), lax.div(n, jnp.int32(num_heads // self.array.shape[2]))]


class Vectors(NamedTuple):
    """A few numbers for each position: [B or 1, N or 1, W, L]."""

    array: Any

    @property
    def width(self) -> int:
        """Numbers of a position."""
        return self.array.shape[2]

    def memory(self, *shape: int):
        """Shared memory for [*shape[:-1], W, shape[-1]]."""
        return plgpu.SMEM((*shape[:-1], self.width, shape[-1]), self.array.dtype)

    def block(self, ref, b, n, num_heads: int, start, size: int):
        """Those of query head n: [W, size]."""
        return leading(self.array, ref, b, n).at[:, pl.ds(start, size)]


Blocks = dict[str, Matrix | Vectors]


def _tiled(dtype, *shape: int):
    """Shared memory as wgmma reads it."""
    transforms = plgpu.TilingTransform((8, 128 // dtype.itemsize)), plgpu.SwizzleTransform(128)
    return plgpu.SMEM(shape, dtype, transforms=transforms)


class Work(NamedTuple):
    """What a kernel reads and writes.

    Attributes:
      own: what it reads of the tile that it holds.
      first: what it reads of the tiles that it meets.
      second: likewise, which comes apart, and later.
      scalars: of each head, [B or 1, N or 1].
      out: shapes of what it writes, along the tile that it holds: matrices before vectors.
      pairs: the tiles beside each one that it holds, leading with [B or 1, N or 1].
      tile: rows of a tile that is held.
      other: rows of a tile that is met, which comes in pieces of `piece`.
    """

    own: Blocks
    first: Blocks
    second: Blocks
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
    def staging(self) -> Blocks:
        """Where matrices wait to be written, one after another where they are alike."""
        return {_kind(x): x for x in self.out.values() if isinstance(x, Matrix)}

    @property
    def stages(self) -> int:
        """Pieces in shared memory at a time, as many as there is room for; blocks of one warpgroup run in pairs."""
        held = _bytes(self.own | self.staging, self.groups * ROWS)
        left = SHARED * self.groups // 2 - RESERVED - held
        return max(1, min(3, left // _bytes(self.first | self.second, self.piece)))


def _bytes(blocks: Blocks, rows: int) -> int:
    return sum(x.width * x.array.dtype.itemsize * rows for x in blocks.values())


def _kind(matrix: Matrix) -> str:
    return f"{matrix.array.dtype}_{matrix.width}"


class Piece:
    """What has been met in one of the streams, as a context: inside it has come, and after it may be overwritten."""

    def __init__(self, refs: dict[str, Any], filled, free, is_read: bool):
        self.refs, self.filled, self.free, self.is_read = SimpleNamespace(**refs), filled, free, is_read

    def __enter__(self):
        plgpu.barrier_wait(self.filled)
        return self.refs

    def __exit__(self, *_):
        if self.is_read:  # by threads: what is copied next comes by another way, and could overtake them
            plgpu.commit_smem()
        plgpu.barrier_arrive(self.free)


class Step(NamedTuple):
    """The rows of a warpgroup beside one piece.

    Attributes:
      own: blocks of its rows.
      first, second: the piece in two streams.
      head: number of the query head.
      scalars: of that head.
      own_start: the first of its rows.
      other_start: the first row of the piece.
      is_masked: whether something may be hidden.
      take_turns: called between what is done by tensor cores and what is not, so that of two warpgroups one does each.
    """

    own: Any
    first: Piece
    second: Piece
    head: jax.Array
    scalars: dict[str, jax.Array]
    own_start: jax.Array
    other_start: jax.Array
    is_masked: bool
    take_turns: Callable[[], None]


def launch(
    name: str,
    work: Work,
    begin: Callable[[], tuple],
    step: Callable[[Step, tuple], tuple],
    finish: Callable[[tuple, dict[str, jax.Array]], tuple],
    *,
    is_read: tuple[bool, bool],
    in_turns: bool = False,
    interpret: Any = None,
) -> list[jax.Array]:
    """The outputs of a kernel.

    Args:
      begin: what is carried from piece to piece.
      step: the same after one more of them.
      finish: what is written of it, in the order of `work.out`; of `Vectors` a tuple.
      is_read: whether threads, and not wgmma alone, read the first stream: where nothing is hidden, and where some is.
      in_turns: whether `step` takes turns.
      interpret: what a CPU interprets it with, or None.
    """
    groups, stages, size = work.groups, work.stages, work.groups * ROWS
    streams, (batch, length, num_heads) = (work.first, work.second), _sizes(work)
    parts, pieces = work.tile // size, work.other // work.piece
    pairs = [jnp.asarray(x) for x in (*work.pairs, _longest_first(work.pairs))]
    inputs = [x.array for blocks in (work.own, *streams) for x in blocks.values()]

    def kernel(*refs, own_memory, memory, staging, loaded, filled, free, turn):
        own_refs, *stream_refs, scalars, lists, out = _dealt(refs, (work.own, *streams, work.scalars, pairs, work.out))
        b, n, place, group = (lax.axis_index(axis) for axis in ("batch", "heads", "tiles", "group"))
        start, middle, other, order = (leading(x, ref, b, n) for x, ref in zip(pairs, lists, strict=True))
        scalars = {key: leading(x, ref, b, n)[...] for (key, x), ref in zip(work.scalars.items(), scalars, strict=True)}
        tile, part = order[_div(place, parts)], _rem(place, parts)
        begins = start[tile]
        count, whole = (start[tile + 1] - begins) * pieces, (middle[tile] - begins) * pieces
        own_start = tile * work.tile + part * size + group * ROWS

        def start_of(turn):
            return other[begins + _div(turn, pieces)] * work.other + _rem(turn, pieces) * work.piece

        def take_turns():
            for barrier in turn:
                plgpu.barrier_arrive(barrier)
                plgpu.barrier_wait(barrier)

        def computed(turn, carry, is_masked):
            slot, read = _rem(turn, stages), (bool(interpret) or is_read[is_masked], bool(interpret))
            met = [
                Piece({key: x.at[slot] for key, x in memory[i].items()}, filled[i].at[slot], free[i].at[slot], read[i])
                for i in range(2)
            ]
            return step(Step(own, met[0], met[1], n, scalars, own_start, start_of(turn), is_masked, take_turns), carry)

        own = SimpleNamespace(**{key: x.at[group] for key, x in own_memory.items()})

        @pl.when(group < groups)
        def _compute():
            if groups == 2:
                plgpu.set_max_registers(COMPUTING, action="increase")
            for (key, block), ref in zip(work.own.items(), own_refs, strict=True):
                source = block.block(ref, b, n, num_heads, own_start, ROWS)
                plgpu.copy_gmem_to_smem(source, own_memory[key].at[group], loaded.at[group])
            plgpu.barrier_wait(loaded.at[group])
            pl.when(group == 1)(take_turns)
            carry = lax.fori_loop(0, whole, functools.partial(computed, is_masked=False), begin())
            carry = lax.fori_loop(whole, count, functools.partial(computed, is_masked=True), carry)
            pl.when(group == 0)(take_turns)
            for block, ref, rows in zip(work.out.values(), out, finish(carry, scalars), strict=True):
                target = block.block(ref, b, n, num_heads, own_start, ROWS)
                if isinstance(block, Matrix):
                    _written(rows.astype(block.array.dtype), staging[_kind(block)].at[group], target)
                else:
                    for i, vector in enumerate(rows):
                        target.at[i][...] = vector

        @pl.when(group == groups)
        def _copy():
            if groups == 2:
                plgpu.set_max_registers(COPYING, action="decrease")

            @pl.loop(0, count)
            def _(turn):
                begin = start_of(turn)
                source = lambda block, ref: block.block(ref, b, n, num_heads, begin, work.piece)
                for stream in zip(streams, stream_refs, memory, filled, free, strict=True):
                    _fetch(source, turn, stages, *stream)

            _ended(count, stages, free)

    return _launched(
        name,
        kernel,
        [*inputs, *work.scalars.values(), *pairs],
        interpret,
        out_type=[jax.ShapeDtypeStruct(x.array.shape, x.array.dtype) for x in work.out.values()],
        scratch_types={
            "own_memory": {key: x.memory(groups, ROWS) for key, x in work.own.items()},
            "memory": [{key: x.memory(stages, work.piece) for key, x in blocks.items()} for blocks in streams],
            "staging": {key: x.memory(groups, ROWS) for key, x in work.staging.items()},
            "loaded": plgpu.Barrier(num_arrivals=len(work.own), num_barriers=groups),
            "filled": [plgpu.Barrier(num_arrivals=len(blocks), num_barriers=stages) for blocks in streams],
            "free": [plgpu.Barrier(num_arrivals=groups, num_barriers=stages) for _ in streams],
            "turn": [plgpu.Barrier(num_arrivals=2)] * (in_turns and groups == 2),
        },
        grid=(batch, num_heads, length // size),
        grid_names=("batch", "heads", "tiles"),
        num_threads=groups + 1,
    )


class Slices(Matrix):
    """Such rows, of which each block of threads has some columns, beside each other: a multiple of `ROWS` of them."""

    @property
    def width(self) -> int:
        """Columns of a block of threads."""
        return ROWS

    @property
    def parts(self) -> int:
        """Blocks of threads of a head."""
        return self.array.shape[3] // ROWS


class Walk(NamedTuple):
    """What a kernel reads and writes that goes along the sequence of each head, `ROWS` positions at a time.

    One warpgroup keeps a state, and tells another one before each piece what it is, which writes outputs from it.
    Blocks of threads have columns of `Slices`, and all else in common; what is written of it the first one writes.

    Attributes:
      given: what it reads of each piece, as many rows as there are in all by the number of pieces.
      out: shapes of what it writes of each piece, likewise: the first one `Slices` of `ROWS` rows. `Vectors` have one
        row, or one for each block of threads.
      beside: likewise, of what is written by the warpgroup that keeps the state.
      found: what it reads of each head before the first piece, float32: columns of [B, N, rows, W], or [B, N, rows]
        in common. A single row is a vector.
      left: shapes of what it writes of each head after the last one, likewise.
      told: shapes of what is told: vectors, and [rows, W] as wgmma reads it.
      own: likewise, of what the warpgroup that keeps the state writes for itself.
      is_backward: whether it begins with the last piece.
    """

    given: Blocks
    out: Blocks
    beside: Blocks
    found: dict[str, jax.Array]
    left: dict[str, Any]
    told: dict[str, Any]
    own: dict[str, Any]
    is_backward: bool

    @property
    def main(self) -> Slices:
        """The first output, of which each piece has `ROWS` rows."""
        out = next(iter(self.out.values()))
        assert isinstance(out, Slices)
        return out

    @property
    def pieces(self) -> int:
        """Of the sequence."""
        return self.main.array.shape[1] // ROWS

    def rows(self, block: Matrix | Vectors) -> int:
        """Of a piece."""
        return block.array.shape[1 if isinstance(block, Matrix) else 3] // self.pieces

    @property
    def staging(self) -> dict[str, Matrix]:
        """Where matrices wait to be written."""
        return {key: x for key, x in (self.out | self.beside).items() if isinstance(x, Matrix)}

    @property
    def begun(self) -> dict[str, Any]:
        """Of what was found, what a block of threads has."""
        own = lambda x: (*x[:-1], ROWS) if len(x) == 2 else x
        return {key: jax.ShapeDtypeStruct(own(x.shape[2:]), x.dtype) for key, x in self.found.items()}

    @property
    def stages(self) -> int:
        """Pieces in shared memory at a time; where there is room for it, blocks of threads run in pairs."""
        size = lambda blocks: sum(_bytes({key: x}, self.rows(x)) for key, x in blocks.items())
        whole = lambda shapes: sum(x.dtype.itemsize * x.size for x in shapes.values())
        held = size(self.staging) + whole(self.begun) + whole(self.own) + TOLD * whole(self.told)
        room = [min(3, (most - RESERVED - held) // size(self.given)) for most in (SHARED // 2, SHARED)]
        return room[0] if room[0] >= 2 else max(1, room[1])


def walk(
    name: str,
    work: Walk,
    begin: Callable[[Any], tuple],
    tell: Callable[[tuple, Any], None],
    keep: Callable[[Any, Any, tuple], tuple[tuple, tuple]],
    read: Callable[[Any, Any], tuple],
    *,
    interpret: Any = None,
) -> list[jax.Array]:
    """The outputs of a kernel, what is beside them, and what it leaves.

    Args:
      begin: the state, from what was found; in the order of `work.left` where it is left.
      tell: writes what is told of it.
      keep: the state after one more piece, and what is written beside, from the piece and what is its own.
      read: what is written, from the piece and what was told.
      interpret: what a CPU interprets it with, or None.
    """
    batch, _, num_heads, _ = work.main.array.shape
    count, stages, parts = work.pieces, work.stages, work.main.parts

    def kernel(*refs, begun, own, told, memory, staging, loaded, filled, free, known, forgotten):
        given_refs, found, out, beside, left = _dealt(refs, (work.given, work.found, work.out, work.beside, work.left))
        b, place, group = (lax.axis_index(axis) for axis in ("batch", "heads", "group"))
        span = jnp.int32(0), jnp.int32(count)
        n, part = _div(place, parts), _rem(place, parts)

        def columns(rows):
            return rows if parts == 1 else rows.at[:, pl.ds(part * ROWS, ROWS)]

        def of_piece(block, ref, turn):
            size = work.rows(block)
            start = (count - 1 - turn if work.is_backward else turn) * size
            rows = block.block(ref, b, n, num_heads, start, size)
            return columns(rows) if isinstance(block, Slices) else rows

        def of_head(ref):
            rows = ref.at[b, n]
            return rows if len(rows.shape) == 1 else columns(rows)

        def piece(turn):
            slot = _rem(turn, stages)
            return Piece({key: x.at[slot] for key, x in memory.items()}, filled.at[slot], free.at[slot], is_read=True)

        def write(blocks, refs, written, turn):
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            for (key, block), ref, rows in zip(blocks.items(), refs, written, strict=True):
                target = of_piece(block, ref, turn)
                if isinstance(block, Matrix):
                    _staged(rows.astype(block.array.dtype), staging[key], target)
                elif block.width > 1:
                    target.at[part][...] = rows
                else:
                    _of_first(part, parts, target.at[0], rows)

        def of_turn(turn):
            slot = _rem(turn, TOLD)
            return SimpleNamespace(**{key: x.at[slot] for key, x in told.items()}), known.at[slot], forgotten.at[slot]

        def kept(turn, carry):
            into, is_known, is_forgotten = of_turn(turn)
            pl.when(turn >= TOLD)(functools.partial(plgpu.barrier_wait, is_forgotten))
            tell(carry, into)
            plgpu.barrier_arrive(is_known)
            with piece(turn) as blocks:
                carry, written = keep(blocks, SimpleNamespace(**own), carry)
            write(work.beside, beside, written, turn)
            return carry

        @pl.when(group == 0)
        def _keep():
            for key, ref in zip(work.found, found, strict=True):
                plgpu.copy_gmem_to_smem(of_head(ref), begun[key], loaded)
            if begun:
                plgpu.barrier_wait(loaded)
            carry = lax.fori_loop(*span, kept, begin(SimpleNamespace(**begun)))
            for ref, x in zip(left, carry, strict=True):
                target = of_head(ref)
                target = target.at[0] if len(x.shape) < len(target.shape) else target
                _of_first(part, parts if len(ref.shape) == 3 else 1, target, x)
            _ended(count, TOLD, [forgotten])
            plgpu.wait_smem_to_gmem(0)

        @pl.when(group == 1)
        def _read():
            @pl.loop(*span)
            def _(turn):
                state, is_known, is_forgotten = of_turn(turn)
                with piece(turn) as blocks:
                    plgpu.barrier_wait(is_known)
                    written = read(blocks, state)
                plgpu.barrier_arrive(is_forgotten)
                write(work.out, out, written, turn)

            plgpu.wait_smem_to_gmem(0)

        @pl.when(group == 2)
        def _copy():
            @pl.loop(*span)
            def _(turn):
                source = functools.partial(of_piece, turn=turn)
                _fetch(source, turn, stages, work.given, given_refs, memory, filled, free)

            _ended(count, stages, [free])

    shapes = [jax.ShapeDtypeStruct(x.array.shape, x.array.dtype) for x in (work.out | work.beside).values()]
    return _launched(
        name,
        kernel,
        [*(x.array for x in work.given.values()), *work.found.values()],
        interpret,
        out_type=[*shapes, *work.left.values()],
        scratch_types={
            "begun": {key: plgpu.SMEM(x.shape, x.dtype) for key, x in work.begun.items()},
            "own": {key: _shared(x) for key, x in work.own.items()},
            "told": {key: _shared(x, TOLD) for key, x in work.told.items()},
            "memory": {key: x.memory(stages, work.rows(x)) for key, x in work.given.items()},
            "staging": {key: x.memory(work.rows(x)) for key, x in work.staging.items()},
            "loaded": plgpu.Barrier(num_arrivals=max(1, len(work.found))),
            "filled": plgpu.Barrier(num_arrivals=len(work.given), num_barriers=stages),
            "free": plgpu.Barrier(num_arrivals=2, num_barriers=stages),
            "known": plgpu.Barrier(num_barriers=TOLD),
            "forgotten": plgpu.Barrier(num_barriers=TOLD),
        },
        grid=(batch, num_heads * parts),
        grid_names=("batch", "heads"),
        num_threads=3,
    )


def _launched(name: str, kernel: Callable, given: list[jax.Array], interpret: Any, **how: Any) -> list[jax.Array]:
    """What a kernel of groups of threads gives."""
    kernel.__name__ = f"attnzoo_{name}"
    call = plgpu.kernel(
        kernel,
        **how,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **({"interpret": interpret} if interpret else {}),
    )
    return varying.as_of(call(*given), given)


def _fetch(source: Callable, turn, stages: int, blocks: Blocks, refs, memory, filled, free) -> None:
    """The piece of a turn, `source(block, ref)` of each, goes where all are done with the one that stood there."""
    slot = _rem(turn, stages)
    pl.when(turn >= stages)(functools.partial(plgpu.barrier_wait, free.at[slot]))
    for (key, block), ref in zip(blocks.items(), refs, strict=True):
        plgpu.copy_gmem_to_smem(source(block, ref), memory[key].at[slot], filled.at[slot])


def _shared(x: Any, *several: int):
    """Shared memory for a vector, or for a matrix as wgmma reads it."""
    return _tiled(x.dtype, *several, *x.shape) if len(x.shape) == 2 else plgpu.SMEM((*several, *x.shape), x.dtype)


def _of_first(part, parts: int, target, rows: jax.Array) -> None:
    """Written by the first block of threads of a head alone."""

    def write():
        target[...] = rows

    write() if parts == 1 else pl.when(part == 0)(write)


def _ended(count, stages: int, barriers) -> None:
    """Waits for what the last turns arrive at: where kernels are interpreted, a phase that nobody sees is an error."""

    @pl.loop(jnp.maximum(count - stages, 0).astype(jnp.int32), jnp.int32(count))
    def _(turn):
        for barrier in barriers:
            plgpu.barrier_wait(barrier.at[_rem(turn, stages)])


def _sizes(work: Work) -> tuple[int, int, int]:
    """B, rows of what is held, and heads."""
    batch, length, num_heads, _ = next(x.array.shape for x in work.out.values() if isinstance(x, Matrix))
    return batch, length, num_heads


def _written(rows: jax.Array, staging, target) -> None:
    _staged(rows, staging, target)
    plgpu.wait_smem_to_gmem(0)


def _staged(rows: jax.Array, staging, target) -> None:
    set_block(staging, rows)
    plgpu.copy_smem_to_gmem(staging, target)


def set_block(block, rows: jax.Array) -> None:
    """What wgmma and copies read next of shared memory."""
    block[...] = rows
    plgpu.commit_smem()


def leading(array, ref, b, n):
    """What example b and head n have of an array that leads with [B or 1, N or 1]."""
    return ref.at[b if array.shape[0] > 1 else 0, n if array.shape[1] > 1 else 0]


def _dealt(items, like) -> list:
    """Consecutive items, as many to each as it is long."""
    ends = np.cumsum([len(x) for x in like])
    return [items[end - len(x) : end] for x, end in zip(like, ends, strict=True)]


def _longest_first(pairs: Pairs) -> Numbers:
    """Tiles in the order in which they are begun, so that those at the end are short: int32 [..., count]."""
    xp = numpy_of(pairs.start)
    return xp.argsort(-xp.diff(pairs.start, axis=-1), axis=-1, stable=True).astype(np.int32)


def _div(x, by: int):
    return x if by == 1 else lax.div(x, jnp.int32(by))


def _rem(x, by: int):
    return jnp.int32(0) if by == 1 else lax.rem(x, jnp.int32(by))


def products(*pairs, then: Callable[[], None] = lambda: None) -> tuple[jax.Array, ...]:
    """a b of blocks in shared memory, in float32; `then` is done while they are made."""

    def made(*into):
        for ref, (a, b) in zip(into, pairs, strict=True):
            plgpu.wgmma(ref, a, b)
        then()
        return tuple(ref[...] for ref in into)

    return pl.run_scoped(made, *(plgpu.ACC((a.shape[0], b.shape[1]), jnp.float32) for a, b in pairs))


def added(total: jax.Array, a, b, interpret: Any) -> jax.Array:
    """total + a b, of a in registers or in shared memory and a block b in shared memory."""
    if interpret:  # there, neither a wgmma of registers nor an accumulator with a value is known
        return total + jnp.dot(a[...], b[...], preferred_element_type=jnp.float32)
    return pl.run_state(lambda ref: plgpu.wgmma(ref, a, b))(plgpu.ACC.init(total))


def filled(value: float, *shape: int, axis: int = 0) -> jax.Array:
    """Float32 [rows, columns] as wgmma adds up, or a vector along an axis of them."""
    layout = plgpu.Layout.WGMMA if len(shape) == 2 else _vector(axis)
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def loaded(block, axis: int = 0) -> jax.Array:
    """Float32 of [rows, columns] in shared memory or the device's own, or of a vector along an axis of them."""
    layout = plgpu.Layout.WGMMA if len(block.shape) == 2 else _vector(axis)
    return plgpu.load(block, layout=layout, optimized=False).astype(jnp.float32)


def _vector(axis: int) -> Any:
    return plgpu.Layout.WGMMA.reduce(1 - axis)


def along(vector, shape: tuple[int, ...], axis: int) -> jax.Array:
    """A vector in shared memory as [rows, columns] that varies along one axis."""
    return spread(plgpu.load(vector, layout=_vector(axis)), shape, axis)


def spread(vector: jax.Array, shape: tuple[int, ...], axis: int = 0) -> jax.Array:
    """A vector in registers likewise."""
    return lax.broadcast_in_dim(vector, shape, [axis])


def index(shape: tuple[int, ...], axis: int) -> jax.Array:
    """0, 1, ... along one axis of [rows, columns]."""
    return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=plgpu.Layout.WGMMA)


def interpreter() -> Any:
    """What a CPU interprets kernels with; it looks for races."""
    return plgpu.InterpretGPUParams(detect_races=True)
