"""A recurrence of a Hopper GPU whose pairs weigh polynomials of q . k up to its square, without features of either.

    o_i = finish(sum_(j <= i) w_ij v_j, sum_(j <= i) w_ij),    w_ij = c_0 + c_1 (q_i . k_j) + c_2 (q_i . k_j)^2

A number v_c of values is read, of all tokens before a chunk, as q . (c_2 S_c q + c_1 m_c) + c_0 n_c, where

    S_c = sum_j v_jc k_j k_j^T,    m_c = sum_j v_jc k_j,    n_c = sum_j v_jc.

Blocks of threads share numbers of values, `COLUMNS` each. So none has a part of what another one writes, and nothing is
added up behind them: the sums of 64 numbers would be 1 MB of float32, those of one are as many as features of 64
channels have. Each counts for itself, as if one number more of all values were 1: the warpgroup that copies has that
one, and pairs of a chunk. Gradients of values are read so by keys, of those of what queries have read, from the last
chunk on; those of queries and of keys share numbers of these (`powers_back`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from attnzoo.contract import varying
from attnzoo.engines.fused.hopper import walk
from attnzoo.engines.fused.hopper.blocks import numbers
from attnzoo.engines.fused.hopper.meeting import Given, How
from attnzoo.engines.fused.hopper.skeleton import both
from attnzoo.engines.fused.hopper.walk import Rule, Walk
from attnzoo.engines.fused.hopper.warpgroups import (
    COLUMNS,
    ROWS,
    Blocks,
    Columns,
    Matrix,
    Vectors,
    added,
    all_slots,
    along,
    filled,
    in_order,
    index,
    loaded,
    plgpu,
    products,
    reset_block,
    spread,
)
from attnzoo.engines.fused.hopper.wide import SQUARE, block


def fits(how: How, given: Given, powers: tuple[float, ...]) -> bool:
    """Whether kernels take such a call: weights are of few powers, and outputs are what was read times numbers that
    counts tell, so that columns are finished apart, and what was read is known of them.
    """
    if len(powers) > 3 or how.finish is None or given.one is None:
        return False
    is_plain = given.found is None and given.log_decay is None and given.rate is None
    is_narrow = max(given.read.shape[3], given.key.shape[3]) <= ROWS == given.value.shape[3]
    return is_plain and is_narrow and how.finish.is_factor


class Kernel:
    """What a block of threads does with a head and some columns of what is written: readers meet those that write.

    Attributes:
      columns: of which matrix of those who write. factor: the matrix that sums of products with each are of.
      vectors: names of the other sums of each column.
    """

    columns, factor = "value", "key"
    vectors: tuple[str, ...] = ("linear", "total")

    def __init__(self, how: How, powers: tuple[float, ...], dtype: Any, is_backward: bool = False):
        assert how.finish is not None
        self.finish, self.interpret, self.is_backward = how.finish, how.interpret, is_backward
        self.powers, self.dtype = (*powers, 0.0, 0.0)[:3], dtype

    def rule(self, *writes: str) -> Rule:
        """What warpgroups do, of which one writes outputs of these names."""
        return Rule(self.begin, self.tell, self.keep, self.read, self.prepare, self.ready, writes)

    def begin(self, found) -> tuple:
        """Empty sums: of products, and vectors, along rows."""
        shapes = SQUARE, *((ROWS,) for _ in self.vectors)
        return tuple(filled(0, *shape) for shape in shapes for _ in range(COLUMNS))

    def tell(self, piece, told, own, carry: tuple) -> None:
        """Writes them."""
        for i, number in enumerate(numbers(COLUMNS)):
            told.state.at[number][...] = carry[i].astype(self.dtype)
        for x, place in zip(carry[COLUMNS:], self._blocks(told), strict=True):
            place[...] = x
        plgpu.commit_smem()

    def keep(self, piece, told, own, carry: tuple) -> tuple[tuple, tuple]:
        """Those with a chunk."""
        factor, pairs = getattr(piece, self.factor), zip(carry[:COLUMNS], numbers(COLUMNS), strict=True)
        squares = [added(x, piece.weighed.at[i].T, factor, self.interpret) for x, i in pairs]
        vectors = zip(carry[COLUMNS:], self._blocks(piece), strict=True)
        return (*squares, *(x + loaded(more) for x, more in vectors)), ()

    def _blocks(self, of) -> list[Any]:
        """Vectors of all columns."""
        return [block(getattr(of, name), i) for name in self.vectors for i in range(COLUMNS)]

    def ready(self, own) -> None:
        """Before the first chunk."""

    def prepare(self, piece, prepared, own) -> None:
        """Writes rows by each of its columns, sums of vectors, and pairs."""

        @pl.loop(jnp.int32(0), jnp.int32(COLUMNS))
        def _(number):
            rows = loaded(getattr(piece, self.columns))
            column = column_of(rows, own.part * COLUMNS + number) * loaded(piece.shown_rows.at[0])
            weighed = loaded(piece.key) * spread(column, SQUARE)
            prepared.weighed.at[number][...] = weighed.astype(self.dtype)
            for name, total in zip(self.vectors, self.sums(piece, weighed, column), strict=True):
                block(getattr(prepared, name), number)[...] = total

        pairs = self.pairs(piece, prepared, own)
        prepared.pairs[...] = (pairs * along(piece.shown_columns.at[0], SQUARE, 1)).astype(self.dtype)

    def sums(self, piece, weighed: jax.Array, column: jax.Array) -> tuple[jax.Array, ...]:
        """What a chunk adds to vectors of a column."""
        return weighed.sum(axis=0), spread(column, SQUARE).sum(axis=0)

    def pairs(self, piece, prepared, own) -> jax.Array:
        """What pairs of a chunk weigh, by rows of those who read."""
        (pairs,) = products((piece.read, piece.key.T))
        return self.weights(pairs)

    def weights(self, pairs: jax.Array) -> jax.Array:
        """Of products of pairs."""
        none, first, second = self.powers
        return in_order(none + pairs * (first + second * pairs), self.is_backward)

    def recalled(self, piece, found: jax.Array, linear, total) -> jax.Array:
        """What is read of sums of one column, of products with that of products."""
        none, first, second = self.powers
        rows = second * found + first * along(linear, SQUARE, 1)
        return (loaded(piece.read) * rows).sum(axis=1) + none * loaded(total)

    def of_column(self, piece, told, number, found: jax.Array) -> jax.Array:
        """The same of one of its own."""
        return self.recalled(piece, found, block(told.linear, number), block(told.total, number))

    def read(self, piece, told, own):
        """Own columns."""

        def with_column(number, out: jax.Array) -> jax.Array:
            (found,) = products((piece.read, told.state.at[number]))
            is_own = index(SQUARE, 1) == own.part * COLUMNS + number
            return out + jnp.where(is_own, spread(self.of_column(piece, told, number, found), SQUARE), 0.0)

        (out,) = products((piece.pairs, getattr(piece, self.columns)))
        out = self.finished(piece, jax.lax.fori_loop(jnp.int32(0), jnp.int32(COLUMNS), with_column, out))
        yield [column_of(out, own.part * COLUMNS + i) for i in range(COLUMNS)]

    def finished(self, piece, out: jax.Array) -> jax.Array:
        """Outputs."""
        return out


class Counting(Kernel):
    """One that counts, too, finishes outputs by that, and may write it beside them."""

    keeps = False

    def ready(self, own) -> None:
        for ref in (own.sums, own.counted):
            ref[...] = filled(0, *SQUARE).astype(ref.dtype)
        own.linear[...] = filled(0, ROWS, axis=1)
        own.total[...] = filled(0, ROWS)
        plgpu.commit_smem()

    def pairs(self, piece, prepared, own) -> jax.Array:
        pairs, found = products((piece.read, piece.key.T), (piece.read, own.counted))
        count, pairs = self.recalled(piece, found, own.linear, own.total), self.weights(pairs)
        prepared.count[...] = count + (pairs * along(piece.one_columns.at[0], SQUARE, 1)).sum(axis=1)
        self.count(piece, own)
        return pairs

    def count(self, piece, own) -> None:
        """Sums of a value of 1 with a chunk."""
        rows = loaded(piece.key) * spread(loaded(piece.one_rows.at[0]), SQUARE)
        reset_block(own.weighed, rows.astype(self.dtype))
        sums = added(loaded(own.sums), own.weighed.T, piece.key, self.interpret)
        own.sums[...] = sums
        own.linear[...] = loaded(own.linear, axis=1) + rows.sum(axis=0)
        own.total[...] = loaded(own.total) + along(piece.one_columns.at[0], SQUARE, 1).sum(axis=1)
        reset_block(own.counted, sums.astype(self.dtype))

    def read(self, piece, told, own):
        yield from super().read(piece, told, own)
        if self.keeps:
            yield loaded(piece.count)

    def finished(self, piece, out: jax.Array) -> jax.Array:
        return self.finish(out, loaded(piece.count))[0]


def launch(
    name: str,
    kernels: Mapping[str, Kernel],
    rows: dict[str, jax.Array],
    beside: Blocks,
    out: Blocks,
    prepared: dict[str, Any],
    own: dict[str, Any],
) -> list[jax.Array]:
    """What kernels write that are launched as one: it is one, or several that read the same.

    Args:
      kernels: by names of what they write columns of; one that is alone writes all else of `out`, too.
      prepared, own: as in `Walk`, the former beside what all of them prepare.
    """
    first, dtype = next(iter(kernels.values())), rows["read"].dtype
    sums = {vector: f32(COLUMNS * ROWS) for kernel in kernels.values() for vector in kernel.vectors}
    squares, pairs = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((COLUMNS, *SQUARE), SQUARE))
    wide = lambda x: Matrix(jnp.pad(x, ((0, 0),) * 3 + ((0, ROWS - x.shape[3]),)))
    work = Walk(
        given={**{key: wide(x) for key, x in rows.items()}, **beside},
        out=out,
        beside={},
        found={},
        left={},
        told={"state": squares} | sums,
        prepared={"weighed": squares, "pairs": pairs} | sums | prepared,
        own=own,
        is_backward=first.is_backward,
    )
    further = [key for key in out if key not in kernels]
    rule, *others = (kernel.rule(key, *further) for key, kernel in kernels.items())
    return walk.launch(name, work, rule, first.interpret, tuple(others))


def all_keys(given: Given) -> jax.Array:
    """1 of each key, where none is hidden: float32 [1, 1, T'], whatever jax's default is."""
    return jnp.ones((1, 1, given.one.shape[2]), jnp.float32)


def outputs(how: How, powers: tuple[float, ...], given: Given, shown: jax.Array | None, keeps: bool) -> list[jax.Array]:
    """Outputs [B, T', N, `ROWS`], and, if somebody `keeps` them, counts, float32 [B, N, 1, T'].

    Args:
      shown: 1 or 0 of each key, float32 [B or 1, 1, T']; None for 1.
    """
    shown = all_keys(given) if shown is None else shown
    kernel = Counting(how, powers, given.read.dtype)
    kernel.keeps = keeps
    rows = {"read": given.read, "key": given.key, "value": given.value}
    beside = both("shown", shown[:, :, None]) | both("one", (given.one * shown)[:, :, None])
    square = jax.ShapeDtypeStruct(SQUARE, given.read.dtype)
    own = {"counted": square, "weighed": square, "sums": f32(*SQUARE), "linear": f32(ROWS), "total": f32(ROWS)}
    out: Blocks = {"out": Columns(like(given, given.read.dtype))}
    if keeps:
        out["count"] = numbers_of(given)
    return varying.as_of(launch("powers", {"out": kernel}, rows, beside, out, {"count": f32(ROWS)}, own), given)


def like(given: Given, dtype: Any) -> jax.ShapeDtypeStruct:
    """`ROWS` numbers of each token of each head of queries."""
    batch, length, num_heads, _ = given.read.shape
    return jax.ShapeDtypeStruct((batch, all_slots(length), num_heads, ROWS), dtype)


def numbers_of(given: Given) -> Vectors:
    """One number likewise."""
    batch, length, num_heads, _ = given.read.shape
    return Vectors(f32(batch, num_heads, 1, all_slots(length)))


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    """Numbers that are summed."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def column_of(rows: jax.Array, number) -> jax.Array:
    """One column."""
    return jnp.where(index(SQUARE, 1) == number, rows, 0.0).sum(axis=1)
