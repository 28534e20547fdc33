"""What kernels of an NVIDIA Hopper GPU are made of: shared memory, barriers, copies, and products of warpgroups.

Pieces of what is met are copied to shared memory (TMA) some turns ahead of those who compute with them (wgmma).
Barriers tell that a piece has come, and that all are done with it. All of Mosaic GPU that attnzoo knows is in this file
and in the two kinds of kernels beside it (`tiles`, `walk`): its interface changes with jax.
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
from attnzoo.engines.fused.operands import filled_up

plgpu: Any = mosaic_gpu  # other names and signatures with each jax

OLDEST = (0, 11)  # jax whose Mosaic GPU is the one that is spoken to here
CAPABILITY = "9.0"  # of the GPU: wgmma is Hopper's, and of none after it

DTYPES = ("bfloat16", "float16")  # of softmax
WIDTHS = (64, 128)  # of its rows
COLUMNS = 4  # of outputs that a block of threads has at least
ROWS = 64  # of a warpgroup: those of one wgmma
TILE, ROW = 8, 128  # rows of a tile in shared memory as wgmma reads it, and bytes of one, at most
SHARED = 227 * 1024  # bytes of shared memory of one block of threads
RESERVED = 8 * 1024  # of these, for barriers and sums across warps, and between blocks, each of which begins `ALIGNED`
ALIGNED, SCRATCH = 1024, 4 * 1024  # bytes; and for barriers and sums alone


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
    """What each head has of a row of numbers for each position: [B or 1, L, heads, W]."""

    array: Any

    @property
    def width(self) -> int:
        """Numbers of a position."""
        return self.array.shape[3]

    def memory(self, *shape: int):
        """Shared memory for [*shape, W], as wgmma reads it."""
        return tiled(self.array.dtype, *shape, self.width)

    def block(self, ref, b, n, num_heads: int, start, size: int):
        """Rows start .. start + size of query head n: [size, W]."""
        b, n = b if self.array.shape[0] > 1 else 0, lax.div(n, jnp.int32(num_heads // self.array.shape[2]))
        return ref.at[b, pl.ds(start, size), n]


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
        b, n = b if self.array.shape[0] > 1 else 0, div(n, num_heads // self.array.shape[1])
        return ref.at[b, n, :, pl.ds(start, size)]


class Pieces(Vectors):
    """A row of numbers for each piece of a sequence: [B or 1, N or 1, pieces, W]."""

    @property
    def width(self) -> int:
        """Numbers of a piece."""
        return self.array.shape[3]

    def memory(self, *shape: int):
        """Shared memory for [*shape[:-1], 1, W]."""
        return plgpu.SMEM((*shape[:-1], 1, self.width), self.array.dtype)

    def block(self, ref, b, n, num_heads: int, start, size: int):
        """That of query head n: [1, W]."""
        b, n = b if self.array.shape[0] > 1 else 0, div(n, num_heads // self.array.shape[1])
        return ref.at[b, n, pl.ds(div(start, size), 1)]


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


class Columns(Matrix):
    """Such rows of whole pieces, of which each block of threads writes `COLUMNS` beside each other: too few to copy."""

    @property
    def parts(self) -> int:
        """Blocks of threads of a head."""
        return self.array.shape[3] // COLUMNS


Blocks = dict[str, Matrix | Vectors]


def tiled(dtype, *shape: int):
    """Shared memory as wgmma reads it, of rows of 128 bytes or a multiple, or of 32 or 64."""
    row = min(ROW, shape[-1] * dtype.itemsize)
    transforms = plgpu.TilingTransform((TILE, row // dtype.itemsize)), plgpu.SwizzleTransform(row)
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def views(block: Any) -> tuple[Any, Any]:
    """A block of shared memory as it is read, and as copies know it."""
    return block if isinstance(block, tuple) else (block, block)


def bytes_of(blocks: Blocks, rows: int) -> int:
    """Of so many rows of each."""
    return sum(x.width * x.array.dtype.itemsize * rows for x in blocks.values())


class Piece:
    """What has been met in one of the streams, as a context: inside it has come, and after it may be overwritten."""

    def __init__(self, refs: SimpleNamespace, filled, free, is_read: bool):
        self.refs, self.filled, self.free, self.is_read = refs, filled, free, is_read

    def __enter__(self):
        plgpu.barrier_wait(self.filled)
        return self.refs

    def __exit__(self, *_):
        if self.is_read:  # by threads: what is copied next comes by another way, and could overtake them
            plgpu.commit_smem()
        plgpu.barrier_arrive(self.free)


def launched(
    name: str, kernel: Callable, given: list[jax.Array], interpret: Any, scratch_types: dict[str, Any], **how: Any
) -> list[jax.Array]:
    """What a kernel of groups of threads gives."""

    def of_views(*refs, **memory):
        apart = lambda kind, block: tuple(block) if isinstance(kind, plgpu.RefUnion) else block
        kernel(*refs, **{key: jax.tree.map(apart, kinds, memory[key]) for key, kinds in scratch_types.items()})

    of_views.__name__ = f"attnzoo_{name}"
    call = plgpu.kernel(
        of_views,
        scratch_types=scratch_types,
        **how,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **({"interpret": interpret} if interpret else {}),
    )
    return varying.as_of(call(*given), given)


class Stream:
    """Pieces that are copied to shared memory one after another, some turns ahead of those who read them.

    Attributes:
      blocks: what a piece has.
      refs: where that lies in the memory of the device.
      memory: where pieces lie in shared memory.
      filled, free: barriers at which what is copied arrives, and all who are done with it.
      stages: pieces in shared memory at a time.
    """

    def __init__(self, blocks: dict[str, Any], refs, memory: dict[str, Any], filled, free, stages: int):
        self.blocks, self.refs, self.stages = blocks, refs, stages
        self.memory, self.copied = ({key: views(x)[i] for key, x in memory.items()} for i in (0, 1))
        self.filled, self.free = filled, free

    def fetch(self, turn, source: Callable) -> None:
        """The piece of a turn, `source(block, ref)` of each, goes where all are done with the one that stood there."""
        slot = rem(turn, self.stages)
        pl.when(turn >= self.stages)(functools.partial(plgpu.barrier_wait, self.free.at[slot]))
        for (key, block), ref in zip(self.blocks.items(), self.refs, strict=True):
            plgpu.copy_gmem_to_smem(source(block, ref), self.copied[key].at[slot], self.filled.at[slot])

    def slot(self, turn) -> tuple[SimpleNamespace, Any, Any]:
        """Where the piece of a turn stands, and the barriers at which it has come, and all are done with it."""
        slot = rem(turn, self.stages)
        refs = SimpleNamespace(**{key: x.at[slot] for key, x in self.memory.items()})
        return refs, self.filled.at[slot], self.free.at[slot]

    def piece(self, turn, is_read: bool) -> Piece:
        """That of a turn; `is_read` where threads, and not wgmma alone, read it."""
        return Piece(*self.slot(turn), is_read)

    def end(self, count) -> None:
        """After all turns: nobody is left behind."""
        ended(count, self.stages, self.free)


def ended(count, stages: int, barrier) -> None:
    """Waits for what the last turns arrive at: where kernels are interpreted, a phase that nobody sees is an error."""

    @pl.loop(jnp.maximum(count - stages, 0).astype(jnp.int32), jnp.int32(count))
    def _(turn):
        plgpu.barrier_wait(barrier.at[rem(turn, stages)])


def shared(x: Any, *several: int):
    """Shared memory for a vector, or for a matrix as wgmma reads it, or several."""
    return tiled(x.dtype, *several, *x.shape) if len(x.shape) > 1 else plgpu.SMEM((*several, *x.shape), x.dtype)


def staged(rows: jax.Array, staging, target, *group: Any) -> None:
    """Rows on their way to the memory of the device, by that of a group where each has its own."""
    written, copied = (x.at[group] if group else x for x in views(staging))
    set_block(written, rows)
    if copied.shape == target.shape:
        plgpu.copy_smem_to_gmem(copied, target)
        return
    *counts, rows_of_tile, part = copied.shape
    for row, column in np.ndindex(*counts):
        place = pl.ds(row * rows_of_tile, rows_of_tile), pl.ds(column * part, part)
        plgpu.copy_smem_to_gmem(copied.at[row, column], target.at[place])


def set_block(block, rows: jax.Array) -> None:
    """What wgmma and copies read next of shared memory."""
    block[...] = rows
    plgpu.commit_smem()


def reset_block(block, rows: jax.Array) -> None:
    """The same of a block that this warpgroup has just multiplied with, all of whose warps are to be done with it."""
    plgpu.commit_smem()
    set_block(block, rows)


def scattered(column: jax.Array, target) -> None:
    """A column to the memory of the device, of whose rows each thread writes a number: jax 0.12 wants it to be said."""
    if hasattr(plgpu, "store"):
        plgpu.store(target, column, optimized=False)
    else:
        target[...] = column


def leading(array, ref, b, n):
    """What example b and head n have of an array that leads with [B or 1, N or 1]."""
    return ref.at[b if array.shape[0] > 1 else 0, n if array.shape[1] > 1 else 0]


def dealt(items, like) -> list:
    """Consecutive items, as many to each as it is long."""
    ends = np.cumsum([len(x) for x in like])
    return [items[end - len(x) : end] for x, end in zip(like, ends, strict=True)]


def all_slots(length: int) -> int:
    """Positions of all pieces of a sequence, of which the last one may not be full."""
    return -(-length // ROWS) * ROWS


def clipped(x: jax.Array, end: int, unit: int) -> jax.Array:
    """Rows of whole pieces [B, T', ...] up to an end that copies know. XLA makes nothing of rows that it has filled up
    and cuts off again, so that kernels read them where they were.
    """
    return x[:, : -(-end // unit) * unit]


def unclipped(x: jax.Array) -> jax.Array:
    """The inverse, with zeros."""
    return filled_up(x, ROWS)


def widened(x: jax.Array) -> jax.Array:
    """With zeros behind the numbers of a head, as many as kernels of softmax want."""
    width = next(width for width in WIDTHS if x.shape[3] <= width)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[3])))


def div(x, by: int):
    """x // by, of a number of the device."""
    return x if by == 1 else lax.div(x, jnp.int32(by))


def rem(x, by: int):
    """x % by, likewise."""
    return lax.rem(x, jnp.int32(by))


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


def rows_and_columns(shape: tuple[int, ...] = (ROWS, ROWS)) -> tuple[jax.Array, jax.Array]:
    """The numbers of rows and of columns."""
    return index(shape, 0), index(shape, 1)


def in_order(pairs: jax.Array, is_backward: bool) -> jax.Array:
    """Pairs of tokens of a chunk, of which that of a row stands no earlier than that of a column, or no later."""
    row, column = rows_and_columns(pairs.shape)
    return jnp.where(row <= column if is_backward else row >= column, pairs, 0.0)


def numbers(count: int, axis: int = 0) -> jax.Array:
    """The same as a vector along that axis."""
    return plgpu.broadcasted_iota(jnp.int32, (count,), 0, layout=_vector(axis))


def interpreter() -> Any:
    """What a CPU interprets kernels with; it looks for races."""
    return plgpu.InterpretGPUParams(detect_races=True)
