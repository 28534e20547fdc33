"""FLOPs are counted as the program runs: loops by their trips, branches by the dearest."""

import functools

import jax
import jax.numpy as jnp
import pytest

from attnzoo import counting

X = jax.ShapeDtypeStruct((4, 8), jnp.float32)
Y = jax.ShapeDtypeStruct((8, 16), jnp.float32)
DOT = 2 * 4 * 8 * 16


def test_products_and_elements():
    assert counting.flops(jnp.dot, X, Y) == DOT
    assert counting.flops(lambda x: jnp.exp(x) + 1, X) == 2 * 32
    assert counting.flops(lambda x: x.sum(axis=1), X) == 32
    assert (
        counting.flops(lambda x: jnp.einsum("bij,bjk->bik", x, x), jax.ShapeDtypeStruct((3, 5, 5), jnp.float32)) == 750
    )


def test_copies_integers_and_comparisons_cost_nothing():
    assert counting.flops(lambda x: jnp.where(x > 0, x, 0).T.reshape(-1)[::2], X) == 0
    assert counting.flops(lambda x: x * 2, jax.ShapeDtypeStruct((9,), jnp.int32)) == 0


def test_loops_count_their_trips():
    def loop(x, y):
        return jax.lax.scan(lambda carry, _: (carry, x @ y), 0.0, None, length=10)[1]

    assert counting.flops(loop, X, Y) == 10 * DOT
    assert counting.flops(lambda x, y: jax.lax.map(lambda row: row @ y, x), X, Y) == DOT


def test_branches_count_the_dearest():
    def branch(x, y):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ y, lambda: jnp.zeros((4, 16)))

    assert counting.flops(branch, X, Y) == DOT


def test_calls_are_entered():
    assert counting.flops(jax.jit(jax.checkpoint(jnp.dot)), X, Y) == DOT

    @jax.custom_vjp
    def product(x, y):
        return x @ y

    product.defvjp(lambda x, y: (x @ y, (x, y)), lambda residual, g: (g @ residual[1].T, residual[0].T @ g))
    assert counting.flops(product, X, Y) == DOT
    assert counting.flops(jax.grad(lambda x, y: product(x, y).sum(), (0, 1)), X, Y) >= 2 * DOT


def test_loops_of_unknown_length_are_refused():
    with pytest.raises(ValueError, match="trip count is not known"):
        counting.flops(functools.partial(jax.lax.while_loop, lambda x: x.sum() < 9, lambda x: x + 1), X)


def test_the_largest_intermediate_is_found_inside_loops():
    def outer(x):
        return jax.lax.map(lambda row: jnp.outer(row, row).sum(), x)

    assert counting.largest_intermediate(outer, X) == 64
