"""FLOPs are counted as the program runs: loops by their trips, branches by the dearest."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from attnzoo.costs import counting

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


def test_convolutions():
    kernel = jax.ShapeDtypeStruct((5, 8, 3), jnp.float32)
    convolve = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1,), padding="SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    assert counting.flops(convolve, jax.ShapeDtypeStruct((2, 7, 8), jnp.float32), kernel) == 2 * (2 * 7 * 3) * 5 * 8
    depthwise = functools.partial(convolve, feature_group_count=8)
    one = jax.ShapeDtypeStruct((5, 1, 8), jnp.float32)
    assert counting.flops(depthwise, jax.ShapeDtypeStruct((2, 7, 8), jnp.float32), one) == 2 * (2 * 7 * 8) * 5


def test_programs_for_a_grid_count_once_for_each_of_its_points():
    def double(x, y):
        y[...] = x[...] * 2

    block = pl.BlockSpec((2, 8), lambda i: (i, 0))
    call = pl.pallas_call(double, grid=(2,), in_specs=[block], out_specs=block, out_shape=X)
    assert counting.flops(call, X) == 4 * 8


def test_programs_for_devices_count_once_for_each():
    mesh = jax.make_mesh((1,), ("x",), (jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("x")
    split = jax.shard_map(lambda x, y: x @ y, mesh=mesh, in_specs=(spec, jax.sharding.PartitionSpec()), out_specs=spec)
    assert counting.flops(split, X, Y) == DOT


def test_loops_of_unknown_length_are_refused():
    with pytest.raises(ValueError, match="trip count is not known"):
        counting.flops(functools.partial(jax.lax.while_loop, lambda x: x.sum() < 9, lambda x: x + 1), X)


def test_the_largest_intermediate_is_found_inside_loops():
    def outer(x):
        return jax.lax.map(lambda row: jnp.outer(row, row).sum(), x)

    assert counting.largest_intermediate(outer, X) == 64
