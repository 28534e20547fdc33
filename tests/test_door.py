"""What the door gives every kernel: structure honoured, hidden positions silent, no second compilation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import (
    ALiBi,
    BigBird,
    Linear,
    LinearBias,
    Mask,
    Reformer,
    SlidingWindow,
    Softmax,
    attend,
    attention_weights,
)
from attnzoo.contract.call import Call
from attnzoo.contract.dropout import Dropout
from attnzoo.costs import counting
from attnzoo.door import attention as door
from attnzoo.engines import streaming
from tests.few import few


def arrays(length=19, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(2, length, heads, 8)), dtype) for heads in (4, 2, 2)]


def test_a_mask_of_keys_serves_kernels_without_dense_masks():
    q, k, v = arrays()
    keys = jnp.arange(19) % 3 > 0
    masked = attend(q, k, v, mask=keys[None, None, None], kernel=Linear())
    np.testing.assert_array_equal(masked, attend(q, k, v, key_mask=jnp.stack([keys, keys]), kernel=Linear()))


@pytest.mark.parametrize("kernel", [Softmax(), SlidingWindow(4, 2), BigBird(4, 1)], ids=repr)
def test_a_position_bias_equals_its_array(kernel):
    q, k, v = arrays()
    rule = ALiBi.of(4)
    distance = jnp.abs(jnp.arange(19)[:, None] + 3 - jnp.arange(19))

    def by_rule(slopes):
        return attend(q, k, v, LinearBias(slopes), kernel=kernel, query_offset=3)

    def by_array(slopes):
        return attend(q, k, v, -slopes[:, None, None] * distance, kernel=kernel, query_offset=3)

    np.testing.assert_allclose(by_rule(rule.slopes), by_array(rule.slopes), atol=1e-6)
    grads = [jax.grad(lambda s, f=f: (f(s) ** 2).sum())(rule.slopes) for f in (by_rule, by_array)]
    np.testing.assert_allclose(*grads, rtol=1e-4)


def test_weights_times_values_are_outputs():
    q, k, v = arrays()
    for kernel in (Softmax(), SlidingWindow(3, 1), Linear()):
        weights = attention_weights(q, k, kernel=kernel, is_causal=True)
        out = jnp.einsum("bkgts,bskh->btkgh", weights.reshape(2, 2, 2, 19, 19), v).reshape(q.shape)
        np.testing.assert_allclose(out, attend(q, k, v, kernel=kernel, is_causal=True), atol=1e-5)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-4)


def test_the_offset_places_queries():
    q, k, v = arrays()
    whole = attend(q, k, v, is_causal=True)
    np.testing.assert_allclose(attend(q[:, 12:], k, v, is_causal=True, query_offset=12), whole[:, 12:], atol=1e-6)
    far = attend(q, k, v, kernel=Linear(), is_causal=True, query_offset=10**6)
    np.testing.assert_allclose(far, attend(q, k, v, kernel=Linear()), atol=1e-5)


def test_precision_reaches_both_passes():
    q, k, v = arrays()

    def loss(q):
        return attend(q, k, v, precision="highest").sum()

    lines = [line for line in str(jax.make_jaxpr(jax.grad(loss))(q)).splitlines() if "precision=" in line]
    assert len(lines) > 4
    assert all("HIGHEST" in line for line in lines)


def test_equal_kernels_share_a_compilation():
    q, k, v = arrays()
    attend(q, k, v, kernel=SlidingWindow(left=3))
    before = door._attend._cache_size()
    attend(q, k, v, kernel=SlidingWindow(left=3))
    assert door._attend._cache_size() == before
    attend(q, k, v, kernel=SlidingWindow(left=4))
    assert door._attend._cache_size() == before + 1


def test_the_batch_axis_may_be_missing_everywhere():
    q, k, v = arrays()
    ids = jnp.arange(19) // 7
    whole = {
        "bias": jnp.ones((4, 19, 19)).at[:, :, 3].set(2.0),
        "mask": jnp.tri(19, dtype=bool)[None],
        "query_seq_lengths": jnp.array([17, 19]),
        "key_value_seq_lengths": jnp.array([15, 19]),
        "key_mask": jnp.arange(38).reshape(2, 19) % 5 > 0,
        "query_segment_ids": jnp.stack([ids, ids]),
        "key_value_segment_ids": jnp.stack([ids, ids]),
    }
    one = {name: x if name in ("bias", "mask") else x[0] for name, x in whole.items()}
    np.testing.assert_allclose(attend(q[0], k[0], v[0], **one), attend(q, k, v, **whole)[0], atol=1e-6)


def test_dropout_follows_its_key():
    q, k, v = arrays()
    outs = [attend(q, k, v, dropout_rate=0.5, rng=jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(outs[0], outs[1])
    assert np.abs(outs[0] - outs[2]).max() > 1e-3


@pytest.mark.slow
def test_results_do_not_depend_on_the_tile():
    """Nor do gradients: tiles of several sizes, in steps of one pair of tiles, of a few, and of all keys."""
    q, k, v = arrays(length=40)
    mask = Mask(40, 40, is_causal=True)
    dropout = Dropout.make(jax.random.key(0), 0.3, 2, 4)
    score, params = streaming.dot_product(q)

    def value_and_gradients(tile, pairs):
        layout = functools.partial(streaming.natural_layout, tile=tile, pairs=pairs)
        call = lambda *x: jnp.sum(streaming.over_heads(score, params, *x, Call(mask, dropout=dropout), layout)[0] ** 2)
        return jax.jit(jax.value_and_grad(call, (0, 1, 2)))(q, k, v)

    whole = value_and_gradients((40, 40), 1600)
    for tile, pairs in (((7, 11), 77), ((7, 11), 300), ((16, 3), 10**6), ((5, 5), 100)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), value_and_gradients(tile, pairs), whole)


@pytest.mark.parametrize("implementation", ["reference", "forward"])
def test_forward_mode(implementation):
    q, k, v = arrays()
    direction = jnp.ones_like(q)
    call = lambda q: attend(q, k, v, implementation=implementation, is_causal=True)
    _, slope = jax.jvp(call, (q,), (direction,))
    step = 1e-2
    numeric = (call(q + step * direction) - call(q - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, atol=1e-3)


@pytest.mark.parametrize("kernel", [Softmax(), SlidingWindow(3, 1), Reformer(8, 4, 1)], ids=repr)
def test_every_way_of_forward_mode(kernel):
    q, k, v = arrays()
    call = lambda q, implementation="forward": attend(q, k, v, kernel=kernel, implementation=implementation)
    move = jnp.cos(q)
    _, slope = jax.jvp(functools.partial(call, implementation="reference"), (q,), (move,))
    np.testing.assert_allclose(jax.linearize(call, q)[1](move), slope, atol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda q: jax.jvp(jax.checkpoint(call), (q,), (move,)))(q)[1], slope, atol=1e-5)
    many = jax.vmap(lambda move: jax.jvp(call, (q,), (move,))[1])(jnp.stack([move, 2 * move]))
    np.testing.assert_allclose(many, jnp.stack([slope, 2 * slope]), atol=1e-5)
    loss = lambda q, name: (call(q, name) ** 2).sum()
    over = [
        jax.jvp(jax.grad(lambda q, name=name: loss(q, name)), (q,), (move,))[1] for name in ("forward", "reference")
    ]
    np.testing.assert_allclose(*over, atol=1e-3)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(functools.partial(call, implementation="xla"), (q,), (move,))


@pytest.mark.parametrize("kernel", [Softmax(), SlidingWindow(63, 0)], ids=repr)
def test_forward_mode_builds_no_whole_array(kernel):
    def largest(length):
        x = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)
        call = lambda q, k, v: attend(q, k, v, kernel=kernel, implementation="forward", is_causal=True)
        return counting.largest_of(jax.make_jaxpr(lambda *x: jax.jvp(call, x, x))(x, x, x).jaxpr)

    assert largest(32768) <= 9 * largest(4096)


def test_lengths_known_beforehand_work_under_jit():
    """Arrays that a jitted function closes over are concrete there, and checked."""
    q, k, v = arrays()
    lengths = jnp.full(len(q), 3)
    call = lambda q: attend(q, k, v, query_seq_lengths=lengths)
    np.testing.assert_allclose(jax.jit(call)(q), call(q), atol=1e-6)


SEVERAL = {
    "nothing": {},
    "lengths of one axis": {"query_seq_lengths": np.array([5, 19]), "key_value_seq_lengths": np.array([19, 7])},
    "lengths of all": {
        "key_value_seq_lengths": np.arange(6).reshape(3, 2) + 9,
        "query_offset": np.arange(6).reshape(3, 2),
    },
    "key mask, segments": {
        "key_mask": np.arange(114).reshape(3, 2, 19) % 3 > 0,
        "query_segment_ids": np.arange(19)[None, None] // 7,
        "key_value_segment_ids": np.arange(38).reshape(1, 2, 19) // 9,
    },
    "mask and bias": {
        "mask": np.random.default_rng(1).random((3, 1, 4, 19, 19)) < 0.7,
        "bias": np.random.default_rng(2).normal(size=(2, 1, 19, 19)).astype(np.float32),
    },
    "global tokens": {"global_tokens": np.arange(12).reshape(3, 2, 2) - 1, "kernel": SlidingWindow(2, 1)},
    "for all": {"mask": np.tri(19, dtype=bool), "bias": ALiBi.of(4), "local_window_size": 4, "soft_cap": 2.0},
}


@pytest.mark.parametrize("name", few(SEVERAL, ["lengths of all", "key mask, segments", "for all"]))
def test_several_batch_axes_are_one(name):
    q, k, v = (jnp.stack([x, 2 * x, x - 1]) for x in arrays())
    given = {"is_causal": True} | SEVERAL[name]
    axes = {"mask": 3, "bias": 3, "query_offset": 0, "key_mask": 1, "query_segment_ids": 1, "key_value_segment_ids": 1}
    axes |= {"query_seq_lengths": 0, "key_value_seq_lengths": 0, "global_tokens": 1}
    one = dict(given)
    for argument, trailing in axes.items():
        x = given.get(argument)
        if isinstance(x, np.ndarray) and (trailing < 3 or x.ndim > 3):
            x = np.broadcast_to(x, (3, 2, *x.shape[x.ndim - trailing :]))
            one[argument] = x.reshape(6, *x.shape[2:])
    flat = [x.reshape(6, *x.shape[2:]) for x in (q, k, v)]
    out, residual = attend(q, k, v, **given, return_residual=True)
    expected, of_rows = attend(*flat, **one, return_residual=True)
    np.testing.assert_array_equal(out, expected.reshape(out.shape))
    np.testing.assert_array_equal(residual, of_rows.reshape(q.shape[:-1]))
    weights = attention_weights(q, k, **given)
    np.testing.assert_array_equal(weights, attention_weights(*flat[:2], **one).reshape(weights.shape))


def test_a_concrete_lower_triangle_is_causal_where_no_mask_can_be():
    q, k, v = arrays()
    triangle = np.tri(19, dtype=bool)
    expected = attend(q, k, v, is_causal=True, kernel=Linear())
    for mask in (triangle, jnp.asarray(triangle), triangle[None, None]):
        np.testing.assert_array_equal(attend(q, k, v, mask=mask, kernel=Linear()), expected)
    placed = np.tri(9, 19, 10, dtype=bool)
    out = attend(q[:, 10:], k, v, mask=placed, query_offset=10, kernel=Linear())
    np.testing.assert_allclose(out, expected[:, 10:], atol=1e-6)
    for mask in (triangle, jnp.asarray(triangle)[None, None]):  # known beforehand under jit, too
        out = jax.jit(lambda q, mask=mask: attend(q, k, v, mask=mask, kernel=Linear()))(q)
        np.testing.assert_allclose(out, expected, atol=1e-6)
    keys = np.arange(38).reshape(2, 19) % 4 > 0
    out = attend(q, k, v, mask=triangle & keys[:, None, None], kernel=Linear())
    np.testing.assert_array_equal(out, attend(q, k, v, is_causal=True, key_mask=keys, kernel=Linear()))


@pytest.mark.parametrize("mask", [np.tri(19, 19, -1, bool), np.tri(19, dtype=bool).T, np.eye(19, dtype=bool)])
def test_another_mask_is_refused_with_what_would_be_taken(mask):
    q, k, v = arrays()
    for call in (
        lambda mask: attend(q, k, v, mask=mask, kernel=Linear()),
        jax.jit(lambda mask: attend(q, k, v, mask=mask, kernel=Linear())),
    ):
        with pytest.raises(NotImplementedError, match=r"Linear cannot honour `mask`.*is_causal=True.*key_mask="):
            call(mask)
