"""Scores at the ends of their range, small gradients, and operands far from 0, beside NumPy in float64 and jax.nn."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import (
    BigBird,
    Local,
    NadarayaWatson,
    Performer,
    SlidingWindow,
    Softmax,
    SparseTransformer,
    attend,
    start,
    step,
)

LOWEST = float(jnp.finfo(jnp.float32).min)
LOW = (-np.inf, LOWEST)


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def softmax(q, k, v, bias):
    """Exact attention [B, T, N, H] in float64, 0 for a row of -inf; and the log-sum-exp [B, T, N]."""
    q, k, v, bias = (np.asarray(x, np.float64) for x in (q, k, v, bias))
    scores = np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1]) + bias
    top = scores.max(axis=-1, keepdims=True)
    top = np.where(np.isneginf(top), 0, top)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (top + np.log(total))[..., 0].swapaxes(1, 2)
    return np.einsum("bnts,bsnh->btnh", weights / np.where(total == 0, 1, total), v), lse


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("hidden", ["first tile", "last keys", "future", "all of a row"])
def test_additive_masks_over_many_tiles(low, hidden):
    q, k, v = normal(1, 520, 1, 4), normal(1, 4608, 1, 4, seed=1), normal(1, 4608, 1, 4, seed=2)
    row, column = np.arange(520)[:, None], np.arange(4608)[None, :]
    where = {
        "first tile": column < 608,
        "last keys": column >= 4000,
        "future": column > 9 * row,
        "all of a row": (row % 3 == 0) | (column < 5),
    }[hidden]
    bias = jnp.asarray(np.where(np.broadcast_to(where, (520, 4608)), low, 0), jnp.float32)
    out, pull = jax.vjp(lambda *operands: attend(*operands, bias, return_residual=True), q, k, v)
    expected, lse = softmax(q, k, v, bias)
    if low == -np.inf:
        np.testing.assert_allclose(out[1], lse, rtol=1e-5, atol=1e-5)
    # Beside the lowest number a score is lost, in float32 as it would be anywhere.
    rows = np.isfinite(lse[0, :, 0]) & (lse[0, :, 0] > LOWEST / 2)
    np.testing.assert_allclose(out[0][:, rows], expected[:, rows], atol=1e-5)
    np.testing.assert_allclose(
        out[0][0, ~rows], 0 if low == -np.inf else v.mean(axis=1).repeat((~rows).sum(), 0), atol=1e-5
    )
    assert all(np.isfinite(x).all() for x in pull((jnp.ones_like(out[0]), jnp.zeros_like(out[1]))))


@pytest.mark.parametrize(
    "kernel", [Softmax(), SlidingWindow(3, 3), Local(4), SparseTransformer(4, 1), BigBird(2)], ids=repr
)
def test_equals_at_the_lowest_number_weigh_alike(kernel):
    """Where every key stands at the lowest number, so do the gradients: maximum and sum are kept apart."""
    x = normal(1, 4, 1, 4)
    bias = jnp.full((4, 4), LOWEST)
    call = lambda value: attend(x, x, value, bias, kernel=kernel)
    out, pull = jax.vjp(call, x)
    np.testing.assert_allclose(out[0, 0], x.mean(axis=1)[0], atol=1e-6)
    np.testing.assert_allclose(pull(jnp.ones_like(out))[0], jnp.ones_like(x), atol=1e-6)


def test_blocks_that_a_bias_hides():
    x, bias = jnp.ones((1, 4, 1, 4)), jnp.array([0, 0, -jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(attend(x, x, x, bias, kernel=SparseTransformer(2, 1)), x)
    hidden = attend(x, x, x, bias, kernel=Local(2))
    np.testing.assert_array_equal(hidden[0, :, 0, 0], [1, 1, 0, 0])


def test_the_only_key_counts_whatever_its_score():
    x = normal(1, 4, 1, 4)
    out = attend(x, x, x, jnp.full((4, 4), LOWEST), is_causal=True)
    np.testing.assert_array_equal(out[0, 0], x[0, 0])


@pytest.mark.parametrize("low", LOW)
def test_additive_masks_in_decoding(low):
    x = normal(1, 6, 1, 4)
    bias = jnp.where(jnp.arange(8) < 2, low, 0.0)
    state = start(batch=1, num_heads=1, head_dim=4, max_length=8)
    outs = []
    for i in range(6):
        state, out = step(state, *(x[:, i : i + 1],) * 3, bias)
        outs.append(out)
    whole = attend(x, x, x, bias[:6], is_causal=True)
    np.testing.assert_allclose(jnp.concatenate(outs, axis=1), whole, atol=1e-6)


@pytest.mark.parametrize("dtype, size", [(jnp.float16, 10.0**-n) for n in (3, 4, 5, 6)] + [(jnp.bfloat16, 1e-4)])
@pytest.mark.parametrize("kernel", [Softmax(), SparseTransformer(256, 3), BigBird(256)], ids=repr)
def test_small_gradients_err_no_more_than_three_times_as_those_of_jax_nn(kernel, dtype, size):
    operands = [normal(1, 1024, 1, 16, seed=seed, dtype=dtype) for seed in range(3)]
    slope = (size * normal(1, 1024, 1, 16, seed=3)).astype(dtype)
    precise = [x.astype(jnp.float32) for x in operands]
    visible = attend(*(normal(1, 1024, 1, 16),) * 2, jnp.eye(1024)[None, :, None], kernel=kernel)[0, :, 0] > 0
    peer = lambda *operands: jax.nn.dot_product_attention(*operands, mask=visible[None, None])
    exact = jax.vjp(peer, *precise)[1](slope.astype(jnp.float32))
    theirs = jax.vjp(peer, *operands)[1](slope)
    ours = jax.vjp(lambda *operands: attend(*operands, kernel=kernel), *operands)[1](slope)
    for got, other, wanted in zip(ours, theirs, exact, strict=True):
        error, allowed = (jnp.linalg.norm(x.astype(jnp.float32) - wanted) for x in (got, other))
        assert error <= 3 * allowed


@pytest.mark.parametrize("dtype, name", [(jnp.bfloat16, "bf16"), (jnp.float16, "f16")], ids=str)
def test_a_cpu_multiplies_pairs_in_float32(dtype, name):
    """Rounding them for products, which a CPU takes in float32 all the same, would be passes over all scores."""
    x = jax.ShapeDtypeStruct((1, 1100, 1, 8), dtype)
    call = lambda q, k, v: attend(q, k, v, kernel=Softmax()).astype(jnp.float32).sum()
    program = jax.jit(jax.grad(call, (0, 1, 2))).trace(x, x, x).lower(lowering_platforms=("cpu",)).compile().as_text()
    sizes = [math.prod(map(int, shape.split(","))) for shape in re.findall(rf"\b{name}\[([\d,]+)\]", program)]
    assert 1100 * 8 <= max(sizes) < 1100 * 64


@pytest.mark.parametrize("length", [300, 1100], ids=["heads at once", "heads in turn"])
def test_distances_far_from_the_origin(length):
    """In a `shard_map`, too, which checks what loops carry."""
    q, k, v = 2000 + 10 * jax.random.uniform(jax.random.key(0), (3, 1, length, 1, 2))
    one, by_example = (
        jax.make_mesh((1,), ("batch",), (jax.sharding.AxisType.Auto,)),
        jax.sharding.PartitionSpec("batch"),
    )
    call = lambda *given: attend(*given, kernel=NadarayaWatson(0.5))
    call = jax.jit(jax.shard_map(call, mesh=one, in_specs=by_example, out_specs=by_example))
    out, pull = jax.vjp(lambda q, k: call(q, k, v - 2000), q, k)
    d_q, d_k = pull(jnp.ones_like(out))
    q, k, v = (np.asarray(x, np.float64)[0, :, 0] for x in (q, k, v - 2000))
    apart = (q[:, None] - k[None]) / 0.5**2
    weights = np.exp(-(0.5**2) * (apart**2).sum(-1) / 2)
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(out[0, :, 0], weights @ v, rtol=1e-5)
    pull_of_pairs = weights * (v.sum(-1)[None] - (weights @ v).sum(-1)[:, None])
    for got, axis, sign in ((d_q, 1, -1), (d_k, 0, 1)):
        wanted = sign * (pull_of_pairs[..., None] * apart).sum(axis)
        np.testing.assert_allclose(got[0, :, 0], wanted, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.slow
def test_a_soft_cap_may_be_learned():
    """Its gradient, that of a traced scale beside it, and both under vmap, against finite differences in float64."""
    with jax.enable_x64(True):
        q, k, v = (jax.random.normal(jax.random.key(seed), (1, 9, 2, 4), jnp.float64) for seed in range(3))
        call = lambda both: attend(q, k, v, is_causal=True, scale=both[0], soft_cap=both[1]).sum()
        at = jnp.array([0.7, 0.9])
        steps = 1e-6 * jnp.eye(2)
        expected = [(call(at + step) - call(at - step)) / 2e-6 for step in steps]
        np.testing.assert_allclose(jax.jit(jax.grad(call))(at), expected, rtol=1e-6)
        np.testing.assert_allclose(jax.vmap(call)(jnp.stack([at, 2 * at])), [call(at), call(2 * at)], rtol=1e-12)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_a_learned_scale_may_be_zero(implementation):
    x = normal(1, 6, 2, 4)
    call = lambda scale: attend(x, x, x, kernel=Performer(16), scale=scale, implementation=implementation).sum()
    assert np.isfinite(jax.grad(call)(0.0))


@pytest.mark.parametrize("kernel", [Softmax(), SlidingWindow(2, 2), Local(4), SparseTransformer(4, 1)], ids=repr)
def test_gradients_of_blind_rows_hold_no_infinity(kernel):
    x = normal(1, 8, 1, 4)
    call = lambda x, mask: attend(x, x, x, mask=mask, kernel=kernel).sum()
    mask = jnp.ones((8, 8), bool).at[3].set(False)
    with jax.debug_infs(True):
        assert np.isfinite(jax.grad(call)(x, mask)).all()
