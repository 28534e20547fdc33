"""Gradients of pairs that weigh polynomials of q . k, on a Hopper GPU, without features and without sums of parts.

    d_q_i = sum_(j <= i) d_ij k_j,    d_k_j = sum_(i >= j) d_ij q_i,    d_v_j = sum_(i >= j) w_ij g_i,
    d_ij = (c_1 + 2 c_2 q_i . k_j) (g_i . v_j + z_i)

of gradients g and z of what was read and counted. A number a of queries is, of all keys before a chunk,

    sum_c g_c (2 c_2 q . S_a + c_1 m_a)_c + z (2 c_2 q . u_a + c_1 n_a),    S_a = sum_j k_ja k_j v_j^T,

m_a = sum_j k_ja v_j, u_a = sum_j k_ja k_j and n_a = sum_j k_ja: `powers.Kernel` with numbers of keys as columns. Those
of keys are the same of queries behind them, with g and z where values and 1 were, and those of values are outputs of
g, for keys in place of queries. So one kernel goes on, and one comes back, of which half the blocks of threads of a
head have numbers of keys, and half of values: both read the same.

Outputs are what was read times what counts tell. So what was read is known of outputs and counts, which are kept, and
nothing is read once more: the kernel that goes on makes g and z of gradients of outputs, and hands them to the other.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract import varying
from attnzoo.engines.fused.carried import Kept
from attnzoo.engines.fused.hopper.gradient import of_group
from attnzoo.engines.fused.hopper.meeting import Given, How
from attnzoo.engines.fused.hopper.powers import Kernel, all_keys, column_of, f32, launch, like, numbers_of
from attnzoo.engines.fused.hopper.skeleton import both
from attnzoo.engines.fused.hopper.warpgroups import (
    COLUMNS,
    ROWS,
    Blocks,
    Columns,
    Vectors,
    all_slots,
    along,
    filled,
    in_order,
    loaded,
    products,
    set_block,
    spread,
)
from attnzoo.engines.fused.hopper.wide import SQUARE, block


class Pulled(Kernel):
    """Gradients of those who read, `pulled` by rows, and by a number of each."""

    columns, factor = "key", "value"
    vectors = ("linear", "beside", "total")

    def sums(self, piece, weighed: jax.Array, column: jax.Array) -> tuple[jax.Array, ...]:
        one = loaded(piece.one_rows.at[0])
        linear = (loaded(piece.value) * spread(column, SQUARE)).sum(axis=0)
        return linear, (weighed * spread(one, SQUARE)).sum(axis=0), spread(column * one, SQUARE).sum(axis=0)

    def pairs(self, piece, prepared, own) -> jax.Array:
        pairs, pulled = products((piece.read, piece.key.T), (piece.pulled, piece.value.T))
        one = spread(self.one_read(piece, prepared), SQUARE) * along(piece.one_columns.at[0], SQUARE, 1)
        _, first, second = self.powers
        return in_order((pulled + one) * (first + 2 * second * pairs), self.is_backward)

    def of_column(self, piece, told, number, found: jax.Array) -> jax.Array:
        _, first, second = self.powers
        linear, beside, total = (block(getattr(told, name), number) for name in self.vectors)
        by_rows = (loaded(piece.pulled) * (2 * second * found + first * along(linear, SQUARE, 1))).sum(axis=1)
        by_one = (loaded(piece.read) * along(beside, SQUARE, 1)).sum(axis=1)
        return by_rows + self.one_read(piece, piece) * (2 * second * by_one + first * loaded(total))

    def one_read(self, piece, prepared) -> jax.Array:
        """The number by which each is pulled."""
        return loaded(piece.one_read.at[0])


class Onward(Pulled):
    """Gradients of queries, by those of outputs, in whose place those of what was read stand then."""

    def pairs(self, piece, prepared, own) -> jax.Array:
        pulled, one = self.unfinished(loaded(piece.out), loaded(piece.counts.at[0]), loaded(piece.pulled))
        set_block(piece.pulled, pulled.astype(self.dtype))
        prepared.pulled_one[...] = one
        return super().pairs(piece, prepared, own)

    def unfinished(self, out: jax.Array, count: jax.Array, d_out: jax.Array) -> list[jax.Array]:
        """Gradients of what was read and counted; where outputs are 0 whatever was read, they do not depend on it."""
        (factor,) = self.finish(filled(1, *SQUARE), count)
        read = jnp.where(factor == 0, 0.0, out / jnp.where(factor == 0, 1.0, factor))
        return self.finish.gradients([read, count], [d_out])

    def one_read(self, piece, prepared) -> jax.Array:
        return loaded(prepared.pulled_one)

    def read(self, piece, told, own):
        yield from super().read(piece, told, own)
        rows = loaded(piece.pulled)
        yield [column_of(rows, own.part * COLUMNS + i) for i in range(COLUMNS)]
        yield loaded(piece.pulled_one)


def outputs(how: How, powers: tuple[float, ...], given: Given, shown: jax.Array | None, kept: Kept) -> list[jax.Array]:
    """Outputs that were kept, which have the gradients of those that `powers.outputs` makes of the same."""
    (counts,), slots = kept.counts, all_slots(given.read.shape[1])
    # What fills up the last chunk has no count that was kept; 1, since a rule may divide by counts, whatever they are.
    counts = jnp.pad(counts, ((0, 0), (0, 0), (0, slots - counts.shape[2])), constant_values=1)
    return [_made(how, powers, given, shown, kept.out, counts[:, :, None])]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _made(how: How, powers: tuple[float, ...], given: Given, shown: jax.Array | None, out, counts) -> jax.Array:
    """Outputs [B, T', N, `ROWS`] that were made of what is given, and of counts, float32 [B, N, 1, T']."""
    return out


def _forward(how: How, powers: tuple[float, ...], *operands: Any):
    return _made(how, powers, *operands), operands


def _backward(how: How, powers: tuple[float, ...], operands: tuple, d_out: jax.Array):
    given, shown, *made = operands
    every = all_keys(given)
    keys = every if shown is None else shown
    d_read, *pulled = _onward(how, powers, given, keys, made, d_out)
    d_key, d_value = _back(how, powers, given, every, given.one * keys, pulled)

    def of_keys(x: jax.Array, like: jax.Array) -> jax.Array:
        is_shown = True if shown is None else jnp.moveaxis(shown, 1, 2)[:, : like.shape[1], :, None] > 0
        return jnp.where(is_shown, of_group(_cut(x, like), like), 0)

    grads = {"read": _cut(d_read, given.read), "key": of_keys(d_key, given.key), "value": of_keys(d_value, given.value)}
    nothing = jax.tree.map(jnp.zeros_like, given)
    return jax.tree.map(varying.as_of, nothing._replace(**grads), given), None, None, None


_made.defvjp(_forward, _backward)


def _onward(
    how: How, powers: tuple[float, ...], given: Given, keys: jax.Array, made: list[jax.Array], d_out: jax.Array
) -> list[jax.Array]:
    """Gradients of queries, and of what was read and counted, of those of outputs that were `made` beside counts."""
    (out, counts), dtype = made, given.read.dtype
    rows = {"read": given.read, "pulled": d_out, "key": given.key, "value": given.value, "out": out}
    one = (given.one * keys)[:, :, None]
    beside = both("shown", keys[:, :, None]) | both("one", one) | {"counts": Vectors(counts)}
    of_queries = Columns(like(given, dtype))
    written: Blocks = {"read": of_queries, "pulled": of_queries, "pulled_one": numbers_of(given)}
    kernels = {"read": Onward(how, powers, dtype)}
    return launch("powers_onward", kernels, rows, beside, written, {"pulled_one": f32(ROWS)}, {})


def _back(
    how: How, powers: tuple[float, ...], given: Given, keys: jax.Array, one: jax.Array, pulled: list[jax.Array]
) -> list[jax.Array]:
    """Gradients of keys and values, of what was read and counted, by each head of queries."""
    (d_read, d_one), dtype = pulled, given.read.dtype
    rows = {"read": given.key, "pulled": given.value, "key": given.read, "value": d_read}
    beside = both("shown", keys[:, :, None]) | both("one", d_one) | {"one_read": Vectors(one[:, :, None])}
    shared = dtype if given.key.shape[2] == given.read.shape[2] else jnp.float32  # until summed over those who share
    kernels = {"key": Pulled(how, powers, dtype, True), "value": Kernel(how, powers, dtype, True)}
    written: Blocks = dict.fromkeys(kernels, Columns(like(given, shared)))
    return launch("powers_back", kernels, rows, beside, written, {}, {})


def _cut(x: jax.Array, like: jax.Array) -> jax.Array:
    """As many tokens and numbers of each."""
    return x[:, : like.shape[1], :, : like.shape[3]]
