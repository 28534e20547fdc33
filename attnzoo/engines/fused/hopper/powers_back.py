"""Gradients of pairs that weigh polynomials of q . k, on a Hopper GPU, without features and without sums of parts.

    d_q_i = sum_(j <= i) d_ij k_j,    d_k_j = sum_(i >= j) d_ij q_i,    d_v_j = sum_(i >= j) w_ij g_i,
    d_ij = (c_1 + 2 c_2 q_i . k_j) (g_i . v_j + z_i)

of gradients g and z of what was read and counted. A number a of queries is, of all keys before a chunk,

    sum_c g_c (2 c_2 q . S_a + c_1 m_a)_c + z (2 c_2 q . u_a + c_1 n_a),    S_a = sum_j k_ja k_j v_j^T,

m_a = sum_j k_ja v_j, u_a = sum_j k_ja k_j and n_a = sum_j k_ja: `powers.Kernel` with numbers of keys as columns. Those
of keys are the same of queries behind them, with g and z where values and 1 were, and those of values are outputs of
g, for keys in place of queries. So one kernel goes on, and two come back.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract import varying
from attnzoo.engines.fused.hopper import powers as hopper_powers
from attnzoo.engines.fused.hopper.gradient import of_group
from attnzoo.engines.fused.hopper.meeting import Given, How
from attnzoo.engines.fused.hopper.powers import Kernel
from attnzoo.engines.fused.hopper.skeleton import both
from attnzoo.engines.fused.hopper.warpgroups import Vectors, along, in_order, loaded, products, spread
from attnzoo.engines.fused.hopper.wide import SQUARE, block


class Pulled(Kernel):
    """Gradients of those who read, `pulled` by rows, and by a number `one_read` of each."""

    columns, factor = "key", "value"
    vectors = ("linear", "beside", "total")

    def sums(self, piece, weighed: jax.Array, column: jax.Array) -> tuple[jax.Array, ...]:
        one = loaded(piece.one_rows.at[0])
        linear = (loaded(piece.value) * spread(column, SQUARE)).sum(axis=0)
        return linear, (weighed * spread(one, SQUARE)).sum(axis=0), spread(column * one, SQUARE).sum(axis=0)

    def pairs(self, piece, prepared, own) -> jax.Array:
        pairs, pulled = products((piece.read, piece.key.T), (piece.pulled, piece.value.T))
        one = spread(loaded(piece.one_read.at[0]), SQUARE) * along(piece.one_columns.at[0], SQUARE, 1)
        _, first, second = self.powers
        return in_order((pulled + one) * (first + 2 * second * pairs), self.is_backward)

    def of_column(self, piece, told, number, found: jax.Array) -> jax.Array:
        _, first, second = self.powers
        linear, beside, total = (block(getattr(told, name), number) for name in self.vectors)
        by_rows = (loaded(piece.pulled) * (2 * second * found + first * along(linear, SQUARE, 1))).sum(axis=1)
        by_one = (loaded(piece.read) * along(beside, SQUARE, 1)).sum(axis=1)
        return by_rows + loaded(piece.one_read.at[0]) * (2 * second * by_one + first * loaded(total))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def read(how: How, powers: tuple[float, ...], given: Given, shown: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """What all queries read [B, T', N, `ROWS`], and count, float32 [B, N, T'], of keys that are `shown`."""
    out, one = hopper_powers.outputs(how._replace(finish=None), powers, given, shown)
    return out, one[:, :, 0]


def _forward(how: How, powers: tuple[float, ...], given: Given, shown: jax.Array | None):
    return read(how, powers, given, shown), (given, shown)


def _backward(how: How, powers: tuple[float, ...], residuals: tuple[Given, jax.Array | None], pulled: Any):
    (given, shown), (d_out, d_one) = residuals, pulled
    whole = jnp.ones((1, 1, given.one.shape[2]))
    keys = whole if shown is None else shown
    all_shown, one = both("shown", whole[:, :, None]), given.one * keys

    def made(kernel: Kernel, rows: dict[str, jax.Array], beside, of: jax.Array) -> jax.Array:
        dtype = of.dtype if of.shape[2] == given.read.shape[2] else jnp.float32
        (out,) = kernel.launch(rows, beside, hopper_powers.like(given, dtype), {}, {})
        return out[:, : of.shape[1], :, : of.shape[3]]

    def of_keys(x: jax.Array, of: jax.Array) -> jax.Array:
        is_shown = True if shown is None else jnp.moveaxis(shown, 1, 2)[:, : x.shape[1], :, None] > 0
        return jnp.where(is_shown, of_group(x, of), 0)

    beside = both("shown", keys[:, :, None]) | both("one", one[:, :, None]) | {"one_read": Vectors(d_one[:, :, None])}
    rows = {"read": given.read, "pulled": d_out, "key": given.key, "value": given.value}
    d_read = made(Pulled("powers_onward", powers, how.interpret), rows, beside, given.read)
    beside = all_shown | both("one", d_one[:, :, None]) | {"one_read": Vectors(one[:, :, None])}
    rows = {"read": given.key, "pulled": given.value, "key": given.read, "value": d_out}
    d_key = made(Pulled("powers_back", powers, how.interpret, True), rows, beside, given.key)
    rows = {"read": given.key, "key": given.read, "value": d_out}
    d_value = made(Kernel("powers_values", powers, how.interpret, True), rows, all_shown, given.value)
    grads = {"read": d_read, "key": of_keys(d_key, given.key), "value": of_keys(d_value, given.value)}
    return varying.as_of(jax.tree.map(jnp.zeros_like, given)._replace(**grads), given), None


read.defvjp(_forward, _backward)
