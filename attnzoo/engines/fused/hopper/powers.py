"""A recurrence of a Hopper GPU whose pairs weigh polynomials of q . k up to its square, without features of either.

    o_i = finish(sum_(j <= i) w_ij v_j, sum_(j <= i) w_ij),    w_ij = c_0 + c_1 (q_i . k_j) + c_2 (q_i . k_j)^2

A number v_c of values is read, of all tokens before a chunk, as q . (c_2 S_c q + c_1 m_c) + c_0 n_c, where

    S_c = sum_j v_jc k_j k_j^T,    m_c = sum_j v_jc k_j,    n_c = sum_j v_jc.

Blocks of threads share numbers of values, `COLUMNS` each. So none has a part of what another one writes, and nothing is
added up behind them: the sums of 64 numbers would be 1 MB of float32, those of one are as many as features of 64
channels have. Each counts for itself, as if one number more of all values were 1: the warpgroup that copies has that
one, and pairs of a chunk. Outputs alone are made so: gradients of queries and keys are sums over numbers of values.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from attnzoo.contract import varying
from attnzoo.engines.fused.hopper import walk
from attnzoo.engines.fused.hopper.blocks import numbers
from attnzoo.engines.fused.hopper.meeting import Given, How
from attnzoo.engines.fused.hopper.rows import REDUCED
from attnzoo.engines.fused.hopper.skeleton import both
from attnzoo.engines.fused.hopper.walk import Rule, Walk
from attnzoo.engines.fused.hopper.warpgroups import (
    COLUMNS,
    ROWS,
    Columns,
    Matrix,
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
    """Whether a kernel takes such a call: weights are of few powers, and numbers of outputs are finished one by one."""
    if len(powers) > 3 or how.finish is None or given.one is None:
        return False
    is_plain = given.found is None and given.log_decay is None and given.rate is None
    is_apart = all(each.primitive.name not in REDUCED for each in how.finish.made.jaxpr.eqns)
    return is_plain and is_apart and max(given.read.shape[3], given.key.shape[3]) <= ROWS == given.value.shape[3]


def read(how: How, given: Given, powers: tuple[float, ...], shown: jax.Array | None) -> jax.Array:
    """Outputs [B, T', N, `ROWS`] of all queries, of keys that are `shown`, [B or 1, T'] of 1 or 0; None for all."""
    shown = jnp.ones((1, all_slots(given.key.shape[1]))) if shown is None else shown
    return varying.as_of(_Kernel(how, given, powers, shown.astype(jnp.float32)[:, None]).outputs(), given)


class _Kernel:
    """What a block of threads does with a head and some numbers of its values."""

    def __init__(self, how: How, given: Given, powers: tuple[float, ...], shown: jax.Array):
        self.how, self.given, self.shown, self.dtype = how, given, shown, given.read.dtype
        self.powers = (*powers, 0.0, 0.0)[:3]

    def outputs(self) -> jax.Array:
        """Its launch."""
        given, f32 = self.given, lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
        rounded = lambda *shape: jax.ShapeDtypeStruct(shape, self.dtype)
        batch, length, num_heads, _ = given.read.shape
        sums = {"linear": f32(COLUMNS * ROWS), "total": f32(COLUMNS * ROWS)}
        squares = rounded(COLUMNS, *SQUARE)
        wide = lambda x: Matrix(jnp.pad(x, ((0, 0),) * 3 + ((0, ROWS - x.shape[3]),)))
        work = Walk(
            given={"read": wide(given.read), "key": wide(given.key), "value": Matrix(given.value)}
            | both("shown", self.shown[:, :, None])
            | both("one", (given.one * self.shown)[:, :, None]),
            out={"out": Columns(rounded(batch, all_slots(length), num_heads, ROWS))},
            beside={},
            found={},
            left={},
            told={"state": squares} | sums,
            prepared={"weighed": squares, "pairs": rounded(*SQUARE), "count": f32(ROWS)} | sums,
            own={"counted": rounded(*SQUARE), "weighed": rounded(*SQUARE), "sums": f32(*SQUARE)}
            | dict.fromkeys(("linear", "total"), f32(ROWS)),
            is_backward=False,
        )
        rule = Rule(self.begin, self.tell, self.keep, self.read, self.prepare, self.ready)
        return walk.launch("powers", work, rule, self.how.interpret)[0]

    def begin(self, found) -> tuple:
        """Empty sums S_c, m_c and n_c, vectors along rows."""
        return tuple(filled(0, *shape) for shape in (SQUARE, (ROWS,), (ROWS,)) for _ in range(COLUMNS))

    def tell(self, piece, told, own, carry: tuple) -> None:
        """Writes them."""
        for i, number in enumerate(numbers(COLUMNS)):
            told.state.at[number][...] = carry[i].astype(self.dtype)
            block(told.linear, i)[...] = carry[COLUMNS + i]
            block(told.total, i)[...] = carry[2 * COLUMNS + i]
        plgpu.commit_smem()

    def keep(self, piece, told, own, carry: tuple) -> tuple[tuple, tuple]:
        """Those with a chunk."""
        vectors, pairs = carry[COLUMNS:], zip(carry[:COLUMNS], numbers(COLUMNS), strict=True)
        squares = [added(x, piece.weighed.at[i].T, piece.key, self.how.interpret) for x, i in pairs]
        more = [block(x, i) for x in (piece.linear, piece.total) for i in range(COLUMNS)]
        return (*squares, *(x + loaded(y) for x, y in zip(vectors, more, strict=True))), ()

    def ready(self, own) -> None:
        """Nothing was counted."""
        for ref in (own.sums, own.counted):
            ref[...] = filled(0, *SQUARE).astype(ref.dtype)
        own.linear[...] = filled(0, ROWS, axis=1)
        own.total[...] = filled(0, ROWS)
        plgpu.commit_smem()

    def prepare(self, piece, prepared, own) -> None:
        """Writes pairs, counts, and keys by own numbers of values."""

        @pl.loop(jnp.int32(0), jnp.int32(COLUMNS))
        def _(number):
            value = _column(loaded(piece.value), own.part * COLUMNS + number) * loaded(piece.shown_rows.at[0])
            rows = loaded(piece.key) * spread(value, SQUARE)
            prepared.weighed.at[number][...] = rows.astype(self.dtype)
            block(prepared.linear, number)[...] = rows.sum(axis=0)
            block(prepared.total, number)[...] = spread(value, SQUARE).sum(axis=0)

        pairs, found = products((piece.read, piece.key.T), (piece.read, own.counted))
        count = self.recalled(piece, found, own.linear, own.total)
        none, first, second = self.powers
        pairs = in_order(none + pairs * (first + second * pairs), False)
        prepared.count[...] = count + (pairs * along(piece.one_columns.at[0], SQUARE, 1)).sum(axis=1)
        prepared.pairs[...] = (pairs * along(piece.shown_columns.at[0], SQUARE, 1)).astype(self.dtype)
        self.count(piece, own)

    def count(self, piece, own) -> None:
        """Sums of a value of 1 with a chunk."""
        rows = loaded(piece.key) * spread(loaded(piece.one_rows.at[0]), SQUARE)
        reset_block(own.weighed, rows.astype(self.dtype))
        sums = added(loaded(own.sums), own.weighed.T, piece.key, self.how.interpret)
        own.sums[...] = sums
        own.linear[...] = loaded(own.linear, axis=1) + rows.sum(axis=0)
        own.total[...] = loaded(own.total) + along(piece.one_columns.at[0], SQUARE, 1).sum(axis=1)
        reset_block(own.counted, sums.astype(self.dtype))

    def recalled(self, piece, found: jax.Array, linear, total) -> jax.Array:
        """What queries read of sums of one number, of their products with its S."""
        none, first, second = self.powers
        rows = second * found + first * along(linear, SQUARE, 1)
        return (loaded(piece.read) * rows).sum(axis=1) + none * loaded(total)

    def read(self, piece, told, own):
        """Own numbers of outputs."""

        def with_number(number, out: jax.Array) -> jax.Array:
            (found,) = products((piece.read, told.state.at[number]))
            read = self.recalled(piece, found, block(told.linear, number), block(told.total, number))
            is_own = index(SQUARE, 1) == own.part * COLUMNS + number
            return out + jnp.where(is_own, spread(read, SQUARE), 0.0)

        (out,) = products((piece.pairs, piece.value))
        out = jax.lax.fori_loop(jnp.int32(0), jnp.int32(COLUMNS), with_number, out)
        assert self.how.finish is not None
        (out,) = self.how.finish(out, loaded(piece.count))
        yield [_column(out, own.part * COLUMNS + i) for i in range(COLUMNS)]


def _column(rows: jax.Array, number) -> jax.Array:
    """One column."""
    return jnp.where(index(SQUARE, 1) == number, rows, 0.0).sum(axis=1)
