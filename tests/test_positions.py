"""Positions: vectors, rotations and biases, beside their papers' formulas in NumPy and float64, and never [T, S]."""

import dataclasses
import decimal
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnzoo
from attnzoo import (
    ALiBi,
    BigBird,
    LearnedPositions,
    LinearBias,
    PositionBias,
    Rotary,
    Shaw,
    ShawBias,
    SinusoidalPositions,
    SlidingWindow,
    Softmax,
    T5Bias,
    T5Buckets,
    attend,
    rotate,
    sinusoidal,
)
from attnzoo.contract.sizes import Dims
from attnzoo.costs import counting
from attnzoo.positions import t5
from attnzoo.testing.subject import brought
from attnzoo.testing.zoo import ZOO
from tests.few import few

BATCH, HEADS, KV_HEADS, DIM, OFFSET = 2, 4, 2, 6, 3


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def operands(length=19, keys=None):
    keys = length if keys is None else keys
    shapes = (length, HEADS), (keys, KV_HEADS), (keys, KV_HEADS)
    return [jnp.asarray(normal(BATCH, *shape, DIM, seed=i), jnp.float32) for i, shape in enumerate(shapes)]


# The formulas, one number after another.


def bucket(distance, num_buckets=32, max_distance=128, bidirectional=True):
    """T5's bucket of one distance j - i, its logarithms to fifty digits."""
    decimal.getcontext().prec = 50
    first, n = 0, -distance
    if bidirectional:
        num_buckets //= 2
        first, n = (num_buckets if distance > 0 else 0), abs(distance)
    n, exact = max(n, 0), num_buckets // 2
    if n < exact:
        return first + n
    share = (decimal.Decimal(n) / exact).ln() / (decimal.Decimal(max_distance) / exact).ln()
    step = math.floor(share * (num_buckets - exact) + decimal.Decimal(10) ** -40)
    return first + min(exact + step, num_buckets - 1)


def by_pair(function, length, keys, offset):
    """[N, T, S] of `function(head, position of the query, position of the key)`."""
    return np.array(
        [[[function(n, i + offset, j) for j in range(keys)] for i in range(length)] for n in range(HEADS)], float
    )


def linear_array(rule, q, offset, keys, scale):
    pairs = by_pair(lambda n, i, j: -abs(i - j), q.shape[1], keys, offset)
    return rule.slopes[:, None, None] * jnp.asarray(pairs, q.dtype)


def t5_array(rule, q, offset, keys, scale):
    kind = {"num_buckets": rule.table.shape[1], "max_distance": rule.max_distance, "bidirectional": rule.bidirectional}
    index = by_pair(lambda n, i, j: bucket(j - i, **kind), q.shape[1], keys, offset).astype(int)
    return rule.table[np.arange(HEADS)[:, None, None], index]


def shaw_array(rule, q, offset, keys, scale):
    clip = rule.table.shape[1] // 2
    index = by_pair(lambda n, i, j: min(max(j - i, -clip), clip) + clip, q.shape[1], keys, offset).astype(int)
    vectors = jnp.broadcast_to(rule.table, (HEADS, *rule.table.shape[1:]))[np.arange(HEADS)[:, None, None], index]
    return jnp.einsum("btnh,ntsh->bnts", q, vectors, precision="highest") * scale


RULES = {
    "alibi": (LinearBias(jnp.asarray([0.5, 0.1, 0.02, 1.0])), linear_array),
    "t5": (T5Bias(jnp.asarray(normal(HEADS, 8), jnp.float32), max_distance=10), t5_array),
    "t5 of the past": (
        T5Bias(jnp.asarray(normal(HEADS, 7), jnp.float32), max_distance=12, bidirectional=False),
        t5_array,
    ),
    "shaw": (ShawBias(jnp.asarray(normal(1, 7, DIM), jnp.float32)), shaw_array),
    "shaw for each head": (ShawBias(jnp.asarray(normal(HEADS, 5, DIM), jnp.float32)), shaw_array),
}
BIASED = [kernel for kernel in ZOO if kernel.supports.bias]


def assert_rule_equals_array(
    kernel, rule, array_of, q, k, v, *, tolerance=2e-5, offset=OFFSET, implementation=None, **arguments
):
    """Outputs, and the gradients of operands and rule; hidden or not, whatever the tiles."""
    params = kernel.init(jax.random.key(1), Dims.of(q, k, v))
    call = functools.partial(attend, kernel=kernel, params=params, query_offset=offset, **arguments)
    scale = arguments.get("scale", DIM**-0.5)

    def loss(bias_of, implementation):
        def of(q, k, v, rule):
            out = call(q, k, v, bias_of(rule, q), implementation=implementation)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.value_and_grad(of, (0, 1, 2, 3), has_aux=True))(q, k, v, rule)

    got = loss(lambda rule, q: rule, implementation)
    expected = loss(lambda rule, q: array_of(rule, q, offset, k.shape[1], scale), "reference")
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * (1 + np.abs(b).max()))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(got[1][3]))


# Vectors.


def test_sinusoids_are_the_papers():
    positions = np.array([[0, 1, 2, 40], [7, 5, 3, 63]])
    expected = np.empty((2, 4, 6))
    for index in np.ndindex(expected.shape):
        angle = positions[index[:2]] / 10000 ** (2 * (index[2] // 2) / 6)
        expected[index] = math.cos(angle) if index[2] % 2 else math.sin(angle)
    np.testing.assert_allclose(sinusoidal(positions, 6), expected, atol=1e-5)
    np.testing.assert_array_equal(jax.jit(lambda p: sinusoidal(p, 6))(positions), sinusoidal(jnp.asarray(positions), 6))
    np.testing.assert_allclose(sinusoidal(np.array(5), 2, base=3.0), [math.sin(5), math.cos(5)], atol=1e-6)
    np.testing.assert_array_equal(
        SinusoidalPositions(scale=0.5).vectors((), positions, 6), 0.5 * sinusoidal(positions, 6)
    )


def test_learned_positions_end_where_their_table_ends():
    chosen = LearnedPositions()
    table = chosen.init(jax.random.key(0), 5, 3)
    np.testing.assert_array_equal(chosen.vectors(table, np.array([[4, 0]]), 3), table[np.array([[4, 0]])])
    traced = jax.jit(lambda p: chosen.vectors(table, p, 3))(jnp.array([4, 5, -1]))
    np.testing.assert_array_equal(np.isnan(traced).all(axis=1), [False, True, True])
    for positions in ([5], [-1]):
        with pytest.raises(ValueError, match=r"positions range from .*: expected those of the learned table, 0\.\.4"):
            chosen.vectors(table, np.array(positions), 3)


# Rotations.


@pytest.mark.parametrize("pairing", ["interleaved", "half"])
@pytest.mark.parametrize("width", [None, 4])
def test_rotation_multiplies_by_complex_numbers(pairing, width):
    x, positions = normal(2, 5, 3, DIM), np.array([[0, 1, 2, 3, 4], [9, 2, 70, 5, 1]])
    turned = DIM if width is None else width
    expected = x.copy()
    for b, t, i in np.ndindex(2, 5, turned // 2):
        first, second = (2 * i, 2 * i + 1) if pairing == "interleaved" else (i, i + turned // 2)
        number = (x[b, t, :, first] + 1j * x[b, t, :, second]) * np.exp(1j * positions[b, t] / 500 ** (2 * i / turned))
        expected[b, t, :, first], expected[b, t, :, second] = number.real, number.imag
    with jax.enable_x64(True):
        out = rotate(jnp.asarray(x), positions, pairing=pairing, base=500.0, width=width)
        np.testing.assert_allclose(out, expected, atol=1e-12)
        np.testing.assert_allclose(jax.jit(rotate)(x[1], positions[1]), rotate(x, positions)[1], atol=1e-12)
        back = jax.vjp(lambda x: rotate(x, positions, pairing=pairing), x)[1](jnp.asarray(x))[0]
        np.testing.assert_allclose(back, rotate(x, -positions, pairing=pairing), atol=1e-12)


@pytest.mark.parametrize("pairing", ["interleaved", "half"])
def test_scores_of_rotated_heads_know_differences_alone(pairing):
    q, k, v = operands()
    place = functools.partial(rotate, pairing=pairing)
    at, shifted = jnp.arange(19), jnp.arange(19) + 100
    np.testing.assert_allclose(jnp.linalg.norm(place(q, at), axis=-1), jnp.linalg.norm(q, axis=-1), rtol=1e-5)
    here = attend(place(q, at + 5), place(k, at), v)
    np.testing.assert_allclose(attend(place(q, shifted + 5), place(k, shifted), v), here, atol=2e-5)
    assert np.abs(attend(place(q, at), place(k, at), v) - here).max() > 1e-2


def test_low_precision_rotates_by_precise_angles():
    x = jnp.asarray(normal(1, 300, 1, 8), jnp.bfloat16)
    out = rotate(x, jnp.arange(300))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(out, float), np.asarray(rotate(x.astype(jnp.float32), jnp.arange(300))), atol=0.02
    )


# Biases.


@pytest.mark.parametrize("kind", [(32, 128), (16, 128), (8, 20), (10, 64), (64, 1000)], ids=str)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_of_every_distance(kind, bidirectional):
    num_buckets, max_distance = kind
    found = t5.of_distances(T5Buckets(num_buckets, max_distance, bidirectional))
    expected = [bucket(d, num_buckets, max_distance, bidirectional) for d in range(-max_distance, max_distance + 1)]
    np.testing.assert_array_equal(found, expected)
    beyond = [bucket(d, num_buckets, max_distance, bidirectional) for d in (-5 * max_distance, 5 * max_distance)]
    assert [found[0], found[-1]] == beyond


def test_slopes():
    np.testing.assert_allclose(ALiBi.of(8).slopes, 2.0 ** -np.arange(1, 9))
    np.testing.assert_allclose(ALiBi.of(1).slopes, [2.0**-8])
    np.testing.assert_allclose(ALiBi.of(12).slopes, [*2.0 ** -np.arange(1, 9), *2.0 ** -np.arange(0.5, 4)], rtol=1e-6)


@pytest.mark.parametrize(
    "kernel, name",
    # Shaw's rule looks at queries, too, and is the harder one.
    [pytest.param(x, name, marks=[pytest.mark.slow] * (name == "t5")) for x in BIASED for name in ("t5", "shaw")],
    ids=str,
)
def test_a_rule_equals_its_array(kernel, name):
    ids = jnp.arange(38).reshape(2, 19) // 11
    given = {"key_value_seq_lengths": jnp.array([19, 8])}
    given |= {"query_segment_ids": ids, "key_value_segment_ids": ids} if kernel.supports.segments else {}
    assert_rule_equals_array(kernel, *RULES[name], *operands(), **given)


@pytest.mark.parametrize("name", RULES)
def test_rules_in_causal_cross_attention(name):
    assert_rule_equals_array(Softmax(), *RULES[name], *operands(5, 19), offset=9, is_causal=True, scale=0.9)


@pytest.mark.parametrize("name", ["t5", "shaw"])
def test_the_equation_sees_the_same_bias(name):
    assert_rule_equals_array(SlidingWindow(3, 2), *RULES[name], *operands(), implementation="reference", scale=0.9)


@pytest.mark.parametrize(
    ("kernel", "name", "length", "is_causal"),
    [
        # A tile of queries is visited twice: whole tiles, and those on the diagonal.
        pytest.param(Softmax(), "shaw", 2100, True, marks=pytest.mark.slow),
        (SlidingWindow(140, 130), "t5", 600, False),
        (BigBird(32, 1), "shaw", 300, False),
    ],
    ids=str,
)
def test_rules_of_many_tiles(kernel, name, length, is_causal):
    rule, _ = RULES[name]
    if is_causal:  # distances that reach into both visits: what is clipped to one cancels
        rule = ShawBias(jnp.asarray(normal(1, 2 * 700 + 1, DIM), jnp.float32))
    index = np.arange(length) - np.arange(length)[:, None] - OFFSET

    def array_of(rule, q, offset, keys, scale):
        if name == "t5":
            kinds = [bucket(d, 8, 10) for d in range(-2000, 2000)]
            return rule.table[:, np.array(kinds)[index + 2000]]
        picked = jnp.einsum("btnh,rh->bntr", q, rule.table[0], precision="highest") * scale
        clip = rule.table.shape[1] // 2
        return jnp.take_along_axis(picked, np.clip(index, -clip, clip)[None, None] + clip, axis=-1)

    given = {"is_causal": is_causal, "tolerance": 1e-4}
    assert_rule_equals_array(kernel, rule, array_of, *(x[:1] for x in operands(length)), **given)


@pytest.mark.parametrize("kernel", [kernel for kernel in ZOO if not kernel.supports.bias], ids=repr)
def test_kernels_without_biases_refuse_by_name_and_rotate(kernel):
    q, k, v = operands()
    given = {"kernel": kernel, "params": kernel.init(jax.random.key(1), Dims.of(q, k, v))}
    given |= {"is_causal": not kernel.supports.bidirectional} | brought(kernel, (q, k, v))
    for rule, _ in RULES.values():
        with pytest.raises(NotImplementedError, match=f"{type(kernel).__name__} cannot honour `bias`"):
            attend(q, k, v, rule, **given)
    turned = [rotate(x, jnp.arange(19)) for x in (q, k)]
    assert np.abs(attend(*turned, v, **given) - attend(q, k, v, **given)).max()


def test_garbage_in_padding_reaches_no_learned_bias():
    q, k, v = operands()
    lengths = jnp.array([19, 8])
    dirty = [x.at[1, 8:].set(jnp.nan) for x in (q, k, v)]

    def gradient(name, q, k, v):
        call = functools.partial(attend, query_seq_lengths=lengths, key_value_seq_lengths=lengths)
        return jax.jit(jax.grad(lambda rule, *x: call(*x, rule).sum()))(RULES[name][0], q, k, v)

    for name in RULES:
        clean = gradient(name, q, k, v)
        np.testing.assert_array_equal(*(jax.tree.leaves(g)[0] for g in (gradient(name, *dirty), clean)))


LENGTHS = (4096, 16384)


@pytest.mark.parametrize("kernel", few([Softmax(), SlidingWindow(128, 0)], [Softmax()]), ids=repr)
@pytest.mark.parametrize("name", few(["alibi", "t5", "shaw"], ["shaw"]))
def test_no_rule_makes_a_whole_array(kernel, name):
    rule = RULES[name][0]
    largest, temporary = [], []
    for length in LENGTHS:
        q, k = (jax.ShapeDtypeStruct((1, length, heads, DIM), jnp.float32) for heads in (HEADS, KV_HEADS))
        loss = lambda q, k, v, rule: attend(q, k, v, rule, kernel=kernel, is_causal=True).sum()
        gradient = jax.grad(loss, (0, 3))
        traced = jax.jit(gradient).trace(q, k, k, rule)
        largest.append(counting.largest_of(traced.jaxpr.jaxpr))
        if isinstance(kernel, SlidingWindow):
            temporary.append(traced.lower().compile().memory_analysis().temp_size_in_bytes)
    assert largest[1] < 5 * largest[0] and largest[1] < LENGTHS[1] ** 2 / 8
    assert not temporary or temporary[1] < 5 * temporary[0]


def test_a_rule_of_ones_own():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Periodic(PositionBias):
        height: jax.Array

        def __call__(self, query_positions, key_positions):
            return self.height * jnp.cos(query_positions[:, None] - key_positions[None, :])

    def array_of(rule, q, offset, keys, scale):
        pairs = by_pair(lambda n, i, j: math.cos(i - j), q.shape[1], keys, offset)
        return rule.height[:, None, None] * jnp.asarray(pairs, jnp.float32)

    assert_rule_equals_array(Softmax(), Periodic(jnp.arange(4.0)), array_of, *operands())


# Bad input.

X = jnp.ones((2, 5, 4, 6))
CALLS = {
    "positions are no integers": (lambda: rotate(X, jnp.ones(5)), "positions have dtype float32: expected integers"),
    "one position too few": (
        lambda: rotate(X, jnp.arange(4)),
        r"positions have shape \(4,\): expected one for each token of x, \[5\] or \[2, 5\]",
    ),
    "x without heads": (lambda: rotate(X[0, 0], jnp.arange(4)), r"x is float32\[4, 6\]: expected floating-point"),
    "integer x": (lambda: rotate(X.astype(int), jnp.arange(5)), "x is int32"),
    "pairing": (lambda: rotate(X, jnp.arange(5), pairing="pairs"), "pairing='pairs': expected one of 'interleaved'"),
    "odd width": (lambda: rotate(X, jnp.arange(5), width=3), "width=3: expected an even integer >= 2"),
    "odd head": (lambda: rotate(X[..., :5], jnp.arange(5)), "width=5: expected an even integer"),
    "wide": (lambda: rotate(X, jnp.arange(5), width=8), "width=8: expected at most the head dim of x, 6"),
    "base": (lambda: rotate(X, jnp.arange(5), base=0.0), "base=0.0: expected a finite number > 0"),
    "sinusoidal width": (lambda: sinusoidal(jnp.arange(3), 7), "width=7: expected an even integer"),
    "sinusoidal positions": (lambda: sinusoidal([0.5], 8), "positions have dtype float64: expected integers"),
    "rotary pairing": (lambda: Rotary(pairing="x"), r"Rotary\(pairing='x'\): pairing must be one of interleaved, half"),
    "rotary width": (lambda: Rotary(width=7), r"Rotary\(width=7\): width must be even"),
    "rotary base": (lambda: Rotary(base=-1.0), "base must be a finite number > 0"),
    "sinusoids of no size": (lambda: SinusoidalPositions(scale=0), "scale must be a finite number > 0"),
    "clip": (lambda: Shaw(clip=-1), r"Shaw\(clip=-1\): clip must be an integer >= 0"),
    "odd buckets": (lambda: T5Buckets(num_buckets=9), r"num_buckets must be an even number, at least 4"),
    "one bucket": (lambda: T5Buckets(num_buckets=1, bidirectional=False), "num_buckets must be at least 2"),
    "near": (lambda: T5Buckets(max_distance=8), "max_distance must be more than 8, the distances that have a bucket"),
    "far": (lambda: T5Buckets(max_distance=2**30), "and at most 1048576"),
    "bidirectional": (lambda: T5Buckets(bidirectional=1), "bidirectional must be True or False"),
    "no heads": (lambda: ALiBi.of(0), "num_heads=0: expected an integer >= 1"),
    "slopes of other heads": (
        lambda: attend(X, X, X, ALiBi.of(3)),
        r"bias is a LinearBias with a leaf float32\[3\]: expected floating-point leaves with a leading axis of 4",
    ),
    "whole numbers": (lambda: attend(X, X, X, LinearBias(jnp.arange(4))), r"with a leaf int32\[4\]"),
    "slopes with an axis": (
        lambda: attend(X, X, X, LinearBias(jnp.ones((4, 3, 1, 1)))),
        r"LinearBias gave \[3, 5, 5\]",
    ),
    "a table of one axis": (lambda: attend(X, X, X, T5Bias(jnp.ones(4))), "T5Bias has 0 axes for one head: expected"),
    "even vectors": (
        lambda: attend(X, X, X, ShawBias(jnp.ones((1, 4, 6)))),
        r"ShawBias has a table of \[4, 6\] for a head: expected \[heads or 1, 2 clip \+ 1, head_dim\]",
    ),
    "short vectors": (lambda: attend(X, X, X, ShawBias(jnp.ones((1, 5, 3)))), "where query has head_dim 6"),
    "a choice as a bias": (lambda: attend(X, X, X, ALiBi()), r"bias=ALiBi\(\) is a choice of positions: expected"),
    "unknown": (lambda: attnzoo.parse_positions("rotery"), "unknown position encoding 'rotery', did you mean 'rotary'"),
    "unknown field": (lambda: attnzoo.parse_positions("t5(bucket=3)"), "T5Buckets has no field 'bucket'"),
    "a kernel": (lambda: attnzoo.parse_positions("attnzoo.Softmax"), "expected a subclass of attnzoo.PositionEncoding"),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_input(name):
    call, message = CALLS[name]
    with pytest.raises(ValueError, match=message):
        call()
