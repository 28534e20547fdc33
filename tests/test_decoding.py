"""Decoding beside the whole call: any split into steps, any batch of lengths, caches, the end, and what is refused."""

import dataclasses
import functools

import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnzoo
import attnzoo.nnx
from attnzoo import (
    Additive,
    ALiBi,
    BigBird,
    CosFormer,
    Linear,
    Linformer,
    Local,
    NadarayaWatson,
    Nystrom,
    Performer,
    Rotary,
    Shaw,
    SlidingWindow,
    Softmax,
    SparseTransformer,
    attend,
    start,
    step,
)
from attnzoo.costs import counting
from attnzoo.door import decoding
from attnzoo.testing import check_kernel
from attnzoo.testing.subject import brought
from attnzoo.testing.zoo import DECODING
from tests.few import few
from tests.test_contract import Retention

LENGTH = 29
SIZES = {"batch": 2, "num_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def arrays(length=LENGTH, batch=2, heads=4, kv_heads=2, dim=8, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(batch, length, n, dim)), dtype) for n in (heads, kv_heads, kv_heads)]


def params_of(kernel, length=LENGTH):
    params = kernel.init(jax.random.key(1), attnzoo.Dims(2, length, length, 4, 2, 8, 8))
    return jax.tree.map(lambda x: x + 0.1, params)


def in_steps(kernel, operands, widths, **arguments):
    """Outputs of steps of the given widths, and the last state."""
    params = params_of(kernel)
    state = start(**SIZES, max_length=sum(widths), kernel=kernel, params=params)
    ends = np.cumsum(widths)
    out = []
    for first, last in zip(ends - widths, ends, strict=True):
        chunk = [x[:, first:last] for x in operands]
        state, stepped = step(state, *chunk, params=params, **arguments, **brought(kernel, chunk))
        out.append(stepped)
    return jnp.concatenate(out, axis=1), state


advance = jax.jit(step)  # once, so that all that is drawn for a kernel shares a program


def in_drawn_steps(rng, state, operands, params, width=11):
    """Outputs of steps whose number of tokens is drawn anew for each example and each step, often one."""
    position, out = np.zeros(2, int), np.zeros(operands[0].shape, np.float32)
    while (position < LENGTH).any():
        lengths = np.minimum(rng.integers(0, width + 1, size=2) ** rng.integers(0, 2), LENGTH - position)
        rows = np.minimum(position[:, None] + np.arange(width), LENGTH - 1)
        chunk = [x[jnp.arange(2)[:, None], rows] for x in operands]
        given = {"query_seq_lengths": jnp.asarray(lengths)} | brought(state.kernel, chunk)
        state, stepped = advance(state, *chunk, params=params, **given)
        for b in (0, 1):
            out[b, position[b] : position[b] + lengths[b]] = stepped[b, : lengths[b]].astype(jnp.float32)
        position += lengths
    np.testing.assert_array_equal(state.positions, position)
    return out


@pytest.mark.parametrize("dtype", few([jnp.float32, jnp.bfloat16], [jnp.float32]), ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("kernel", DECODING, ids=repr)
def test_any_split_of_any_example_equals_the_whole(kernel, dtype):
    rng, operands, params = np.random.default_rng(0), arrays(dtype=dtype), params_of(kernel)
    call = functools.partial(attend, kernel=kernel, params=params, is_causal=True, implementation="reference")
    precise = [x.astype(jnp.float32) for x in operands]
    exact = call(*precise, **brought(kernel, precise))
    plain = np.abs(call(*operands, **brought(kernel, operands)).astype(jnp.float32) - exact).max()
    rounding = np.abs(exact).max() * float(jnp.finfo(jnp.bfloat16).eps)
    for _ in range(3):
        state = start(**SIZES, max_length=LENGTH, kernel=kernel, params=params, dtype=dtype)
        error = np.abs(in_drawn_steps(rng, state, operands, params) - exact).max()
        assert error <= (1e-5 if dtype == jnp.float32 else 2 * plain + rounding)


@pytest.mark.parametrize("kernel", [Softmax(), SlidingWindow(2, 2, 3, 2), Linear()], ids=repr)
def test_steps_of_any_width_equal_the_whole(kernel):
    rng, operands = np.random.default_rng(1), arrays()
    cuts = np.sort(rng.choice(np.arange(1, LENGTH), size=4, replace=False))
    widths = np.diff(cuts, prepend=0, append=LENGTH)
    whole = attend(*operands, kernel=kernel, is_causal=True)
    np.testing.assert_allclose(in_steps(kernel, operands, widths)[0], whole, atol=1e-5)


def test_keys_are_cached_once_for_each_group_of_queries():
    _, state = in_steps(Softmax(), arrays(), [LENGTH])
    assert {name: x.shape for name, x in state.cache.items()} == dict.fromkeys(("key", "value"), (2, LENGTH, 2, 8))
    np.testing.assert_array_equal(state.cache["key"], arrays()[1])


def test_a_window_keeps_no_more_than_it_reaches():
    dilated = start(**SIZES, max_length=1000, kernel=SlidingWindow(left=3, right=0, dilation=2, global_tokens=4))
    assert dilated.cache["key"].shape[1] == 4 + 3 * 2
    shorter = start(**SIZES, max_length=7, kernel=SlidingWindow(left=128))
    assert shorter.cache["key"].shape[1] == 7
    nothing = SlidingWindow(left=0, right=0)
    operands = arrays()
    np.testing.assert_allclose(in_steps(nothing, operands, [9, 1, 19])[0], jnp.repeat(operands[2], 2, axis=2))


@pytest.mark.parametrize("kernel", [Linear(), Performer(8), SlidingWindow(left=3)], ids=repr)
def test_a_state_that_does_not_grow_needs_no_end(kernel):
    operands = arrays()
    state = start(**SIZES, max_length=None, kernel=kernel)
    assert state.max_length is None
    state, first = step(state, *(x[:, :20] for x in operands))
    _, second = step(state, *(x[:, 20:] for x in operands))
    whole = attend(*operands, kernel=kernel, is_causal=True)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-5)


def test_a_kernel_that_ends_ends_decoding():
    """Though its state does not grow: by an error where positions are known, and by NaN in a program."""
    kernel, operands = CosFormer(max_length=8), [x[:, :9] for x in arrays()]
    with pytest.raises(ValueError, match=r"max_length=9: CosFormer\(.*\) ends after 8 tokens, expected no more"):
        start(**SIZES, max_length=9, kernel=kernel)
    state = start(**SIZES, max_length=None, kernel=kernel)
    assert state.max_length == 8
    with pytest.raises(ValueError, match="room for max_length=8"):
        step(state, *operands)
    full, _ = step(state, *(x[:, :8] for x in operands))
    _, out = jax.jit(step)(full, *(x[:, 8:] for x in operands))
    assert np.isnan(out).all()
    layer = attnzoo.nnx.MultiHeadAttention(2, 16, attention=kernel, decode=True, rngs=flax.nnx.Rngs(0))
    layer.init_cache((1, 20, 16))
    layer(jnp.ones((1, 8, 16)))
    with pytest.raises(ValueError, match="the state ends at max_length=8"):
        layer(jnp.ones((1, 1, 16)))


@pytest.mark.parametrize("kernel", [Softmax(), SlidingWindow(left=4)], ids=repr)
def test_rotated_queries_and_keys_stand_at_the_positions_of_the_state(kernel):
    q, k, v = arrays()

    def rotated(x, positions):
        angles = positions[..., None] * 10.0 ** -jnp.arange(4)
        turn = jnp.exp(1j * angles)[:, :, None]
        pairs = (x[..., :4] + 1j * x[..., 4:]) * turn
        return jnp.concatenate([pairs.real, pairs.imag], axis=-1)

    natural = jnp.broadcast_to(jnp.arange(LENGTH), (2, LENGTH))
    whole = attend(rotated(q, natural), rotated(k, natural), v, kernel=kernel, is_causal=True)
    state = start(**SIZES, max_length=LENGTH, kernel=kernel)
    prompt = (rotated(q, natural)[:, :9], rotated(k, natural)[:, :9], v[:, :9])
    state, _ = step(state, *prompt, query_seq_lengths=jnp.array([4, 9]))
    rows = state.positions[:, None] + jnp.arange(6)
    q, k, v = (x[jnp.arange(2)[:, None], rows] for x in (q, k, v))
    _, out = step(state, rotated(q, rows), rotated(k, rows), v)
    np.testing.assert_allclose(out, whole[jnp.arange(2)[:, None], rows], atol=1e-5)


def test_a_bias_array_has_a_column_for_each_key_position():
    operands, bias = arrays(), jax.random.normal(jax.random.key(0), (4, LENGTH, LENGTH))
    kernel = SlidingWindow(left=3, global_tokens=1)
    whole = attend(*operands, bias, kernel=kernel, is_causal=True)
    state = start(**SIZES, max_length=LENGTH, kernel=kernel)
    state, first = step(state, *(x[:, :17] for x in operands), bias[:, :17])
    _, second = step(state, *(x[:, 17:] for x in operands), bias[:, 17:])
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-5)


def shaw(clip=5):
    dims = attnzoo.Dims(2, LENGTH, LENGTH, 4, 2, 8, 8)
    return Shaw(clip).bias(Shaw(clip).init(jax.random.key(2), dims), 4)


@pytest.mark.parametrize("kernel", few([x for x in DECODING if x.supports.bias], [Softmax()]), ids=repr)
def test_a_rule_that_looks_at_the_query_steps(kernel):
    operands = arrays()
    whole = attend(*operands, shaw(), kernel=kernel, params=params_of(kernel), is_causal=True)
    assert np.abs(whole - attend(*operands, kernel=kernel, params=params_of(kernel), is_causal=True)).max() > 1e-2
    out, _ = in_steps(kernel, operands, [13, 1, 1, 1, 13], bias=shaw())
    np.testing.assert_allclose(out, whole, atol=1e-5)


@pytest.mark.parametrize("bias", ["rule", "query", "rows", "row"])
def test_a_long_prompt_meets_the_cache_in_chunks(bias):
    length = 2 * decoding.CHUNK + 15
    operands = arrays(length)
    array = jax.random.normal(jax.random.key(0), (length, length))
    bias = {"rule": ALiBi.of(4), "query": shaw(), "rows": array, "row": array[:1]}[bias]
    state = start(**SIZES, max_length=length)
    state, out = step(state, *operands, bias, query_seq_lengths=jnp.array([length, 130]))
    whole = np.array(attend(*operands, bias, is_causal=True))
    whole[1, 130:] = 0
    np.testing.assert_allclose(out, whole, atol=1e-5)
    np.testing.assert_array_equal(state.cache["key"][1, 130:], 0)


@pytest.mark.parametrize("kernel", [Softmax(), Additive(4), SlidingWindow(63), BigBird(16), Performer(8)], ids=repr)
def test_the_memory_of_a_prompt_is_not_its_square(kernel):
    def largest(length):
        operands = arrays(length, batch=1)
        params = params_of(kernel)
        state = start(**SIZES | {"batch": 1}, max_length=length, kernel=kernel, params=params)
        return counting.largest_of(jax.make_jaxpr(functools.partial(step, params=params))(state, *operands).jaxpr)

    assert largest(2048) <= 4.1 * largest(512)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("kernel", [Softmax(), Additive(), Linear(), BigBird(4)], ids=repr)
def test_a_cache_may_be_narrower_than_its_queries(kernel, dtype):
    operands, params = arrays(), params_of(kernel)
    state = start(**SIZES, max_length=LENGTH, kernel=kernel, params=params, dtype=dtype)
    expected = jnp.float32 if kernel == Linear() else dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(state.cache)} == {jnp.dtype(expected)}
    _, out = step(state, *operands, params=params)
    assert out.dtype == jnp.float32
    whole = attend(*operands, kernel=kernel, params=params, is_causal=True)
    np.testing.assert_allclose(out, whole, atol=1e-5 if kernel == Linear() else 0.05)


def test_half_precision_queries_meet_a_wider_cache():
    operands = arrays(dtype=jnp.bfloat16)
    state = start(**SIZES, max_length=LENGTH)
    state, out = step(state, *operands)
    assert out.dtype == jnp.bfloat16
    assert state.cache["key"].dtype == jnp.float32
    exact = attend(*(x.astype(jnp.float32) for x in operands), is_causal=True)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.02)


def test_an_example_without_tokens_does_not_move():
    operands = arrays()
    for kernel in (Softmax(), SlidingWindow(3, global_tokens=1), Performer(8)):
        state, _ = step(start(**SIZES, max_length=9, kernel=kernel), *(x[:, :7] for x in operands))
        after, out = step(state, *(x[:, 7:8] for x in operands), query_seq_lengths=jnp.array([0, 1]))
        for old, new in zip(jax.tree.leaves(state.cache), jax.tree.leaves(after.cache), strict=True):
            np.testing.assert_array_equal(old[0], new[0])
        np.testing.assert_array_equal(out[0], 0)
        assert after.positions.tolist() == [7, 8]


def test_a_state_is_the_carry_of_a_scan_and_may_be_donated():
    q, k, v = arrays()
    for kernel in (Softmax(), SlidingWindow(3), Linear()):
        state = start(**SIZES, max_length=LENGTH, kernel=kernel)
        prefill = jax.jit(step, donate_argnums=0)
        advanced, first = prefill(state, q[:, :5], k[:, :5], v[:, :5])
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.cache))
        tokens = jax.tree.map(lambda x: jnp.moveaxis(x[:, 5:, None], 1, 0), (q, k, v))
        last, rest = jax.jit(lambda state, tokens: jax.lax.scan(lambda s, x: step(s, *x), state, tokens))(
            advanced, tokens
        )
        out = jnp.concatenate([first, jnp.moveaxis(rest[:, :, 0], 0, 1)], axis=1)
        np.testing.assert_allclose(out, attend(q, k, v, kernel=kernel, is_causal=True), atol=1e-5)
        assert last.positions.tolist() == [LENGTH, LENGTH]


def test_equal_states_are_not_traced_again():
    operands = [x[:, :1] for x in arrays()]
    state, _ = step(start(**SIZES, max_length=5, kernel=Linear()), *operands)
    before = decoding._step._cache_size()
    step(state, *operands)
    step(start(**SIZES, max_length=5, kernel=Linear()), *operands)
    assert decoding._step._cache_size() == before


def test_a_loop_past_the_end_says_so_and_overwrites_nothing():
    q, k, v = arrays()
    tokens = jax.tree.map(lambda x: jnp.moveaxis(x[:, :9, None], 1, 0), (q, k, v))
    for kernel in (Softmax(), SlidingWindow(3, global_tokens=1), Linear()):
        loop = jax.jit(lambda state, tokens: jax.lax.scan(lambda s, x: step(s, *x), state, tokens))
        state = start(**SIZES, max_length=6, kernel=kernel)
        last, out = loop(state, tokens)
        fits, _ = loop(state, jax.tree.map(lambda x: x[:6], tokens))
        assert np.isfinite(out[:6]).all()
        assert np.isnan(out[6:]).all()
        assert last.positions.tolist() == [9, 9]
        for got, expected in zip(jax.tree.leaves(last.cache), jax.tree.leaves(fits.cache), strict=True):
            np.testing.assert_array_equal(got, expected)
        with pytest.raises(ValueError, match=r"example 0 stands at position 9, and 1 more tokens would reach 10: .*=6"):
            step(last, q[:, :1], k[:, :1], v[:, :1])


def test_scale_params_and_draws_are_those_of_the_whole():
    operands = arrays()
    out, _ = in_steps(Softmax(), operands, [20, 9], scale=0.3)
    np.testing.assert_allclose(out, attend(*operands, is_causal=True, scale=0.3), atol=1e-5)
    kernel = Performer(8)
    draws = kernel.draw(jax.random.key(5), attnzoo.Dims(2, 1, 1, 4, 2, 8, 8))
    state = start(**SIZES, max_length=LENGTH, kernel=kernel, draws=draws)
    _, out = step(state, *operands, draws=draws)
    np.testing.assert_allclose(out, attend(*operands, kernel=kernel, draws=draws, is_causal=True), atol=1e-5)
    assert np.abs(out - attend(*operands, kernel=kernel, is_causal=True)).max() > 1e-2


@dataclasses.dataclass(frozen=True)
class SteppedRetention(Retention):
    """What an author outside writes for decoding: one word."""

    supports = dataclasses.replace(Retention.supports, decode=True)


def test_a_kernel_of_ones_own_decodes_by_its_head():
    check_kernel(SteppedRetention(), ("steps_in_low_precision_lose_little",))
    operands, kernel = arrays(), SteppedRetention()
    whole = attend(*operands, kernel=kernel, is_causal=True)
    np.testing.assert_allclose(in_steps(kernel, operands, [20, 9])[0], whole, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Widening(Softmax):
    """Returns a cache in another dtype than it was given."""

    def step(self, params, draws, cache, q, k, v, positions, call):
        cache, out = super().step(params, draws, cache, q, k, v, positions, call)
        return jax.tree.map(lambda x: x.astype(jnp.float32), cache), out


def test_a_kernel_that_changes_its_cache_is_told():
    state = start(**SIZES, max_length=4, kernel=Widening(), dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match=r"Widening\(\) was given a cache of .*bfloat16.* and returned .*float32"):
        step(state, *(x[:, :1] for x in arrays()))


Q, K, V = arrays(4)
STATE = start(**SIZES, max_length=6)


def started(**changed):
    return lambda: start(**SIZES | {"max_length": 6} | changed)


BAD = {
    "batch of zero": (started(batch=0), "batch=0: expected an integer >= 1"),
    "half a head": (started(num_heads=2.5), "num_heads=2.5: expected an integer >= 1"),
    "no heads of keys": (started(num_key_value_heads=0), "num_key_value_heads=0: expected an integer >= 1"),
    "groups": (started(num_key_value_heads=3), "num_heads=4, num_key_value_heads=3: .* multiple"),
    "no room": (started(max_length=0), "max_length=0: expected an integer >= 1"),
    "too much room": (started(max_length=2**31), "max_length=2147483648: expected .* <= 1073741824"),
    "no end": (started(max_length=None), r"max_length=None: the state of Softmax\(\) grows with the sequence"),
    "integer cache": (started(dtype=int), "dtype=.*: expected one of float32, bfloat16"),
    "no dtype": (started(dtype="narrow"), "dtype='narrow': expected one of float32"),
    "kernel class": (started(kernel=Linear), "kernel=Linear is a class"),
    "no params": (started(kernel=Additive()), r"params has structure .* Additive\(units=None\) expects"),
    "no state": (lambda: step(Q, Q, K, V), "state is a .*: expected one from `attnzoo.start`"),
    "the pair": (lambda: step((STATE, Q), Q, K, V), "state is a tuple: .* returns the pair"),
    "empty prompt": (lambda: step(STATE, Q[:, :0], K[:, :0], V[:, :0]), r"\(2, 0, 4, 8\): .* one token"),
    "long prompt": (lambda: step(STATE, *arrays(7)), "query has 7 tokens, and the state room for max_length=6"),
    "long prompt under jit": (
        lambda: jax.jit(step)(STATE, *arrays(7)),
        "7 tokens, and the state room for max_length=6",
    ),
    "long lengths": (
        lambda: step(STATE, *arrays(9), query_seq_lengths=jnp.array([2, 8])),
        "example 1 stands at position 0, and 8 more tokens would reach 8: the state ends at max_length=6",
    ),
    "lengths": (lambda: step(STATE, Q, K, V, query_seq_lengths=jnp.array([1, 5])), r"from 1 to 5: .* 0\.\.4"),
    "batch": (lambda: step(STATE, Q[:1], K[:1], V[:1]), r"query has shape \(1, 4, 4, 8\): .* \[2, tokens, 4, 8\]"),
    "heads": (lambda: step(STATE, Q, Q, Q), r"key has shape \(2, 4, 4, 8\): .* \[2, tokens, 2, 8\]"),
    "no batch": (lambda: step(STATE, Q[0], K[0], V[0]), r"query has shape \(4, 4, 8\): the state of Softmax"),
    "value dim": (lambda: step(STATE, Q, K, V[..., :3]), r"value has shape \(2, 4, 2, 3\): .* \[2, tokens, 2, 8\]"),
    "more keys": (lambda: step(STATE, Q[:, :2], K, V), "query and key have 2 and 4 tokens"),
    "dtypes": (lambda: step(STATE, Q, K.astype(jnp.bfloat16), V), "dtypes float32, bfloat16, float32"),
    "bias of the step alone": (
        lambda: step(STATE, Q, K, V, jnp.zeros((4, 4))),
        r"bias has shape \(4, 4\): .* \[2, 4, 4, 6\]",
    ),
    "scale": (lambda: step(STATE, Q, K, V, scale=float("inf")), "scale=inf"),
    "soft cap": (lambda: step(STATE, Q, K, V, soft_cap=0), "soft_cap=0: expected one finite number > 0"),
    "precision": (lambda: step(STATE, Q, K, V, precision="exact"), "precision='exact'"),
    "params of another": (lambda: step(STATE, Q, K, V, params={"a": Q}), r"params has structure .*: Softmax\(\)"),
    "draws of another": (lambda: step(STATE, Q, K, V, draws=(Q,)), r"draws has structure .*: Softmax\(\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.every_kernel
@pytest.mark.parametrize(
    ("kernel", "reason"), [(Linformer(), "mixed along the length"), (Nystrom(), "means over the whole")], ids=repr
)
def test_kernels_without_an_order_refuse(kernel, reason):
    with pytest.raises(NotImplementedError, match=f"cannot honour `start`: .*{reason}.*: softmax, nadaraya_watson, .*"):
        start(**SIZES, max_length=6, kernel=kernel)


def test_what_a_kernel_cannot_add_is_refused():
    for kernel, name, given in ((Linear(), "bias", jnp.zeros((4, 6))), (NadarayaWatson(), "scale", 1.0)):
        with pytest.raises(NotImplementedError, match=f"{type(kernel).__name__} cannot honour `{name}`"):
            step(start(**SIZES, max_length=6, kernel=kernel), Q, K, V, **{name: given})


def test_few_tokens_of_many_heads_are_no_swapped_axes(recwarn):
    step(STATE, *(x[:, :2] for x in arrays(4, kv_heads=2)))
    assert not recwarn.list


@pytest.mark.parametrize(
    "kernel",
    few(
        [Softmax(), SlidingWindow(4, 0), SlidingWindow(2, 3, 2, 1), Local(5), SparseTransformer(4, 1), Linear()],
        [Softmax()],
    ),
    ids=repr,
)
def test_a_cache_of_the_callers_own_is_placed_under_scan(kernel):
    """As Hugging Face's GPT-2 and Gemma's example do it: all keys in one array, and an index that is traced."""
    query, key, value = arrays()
    given = {"kernel": kernel, "is_causal": True} | ({"bias": ALiBi.of(query.shape[2])} if kernel.supports.bias else {})
    whole = attend(query, key, value, **given)

    def step(carry, token):
        index, *cached = carry
        new, *rest = (x[:, None] for x in token)
        cached = [jax.lax.dynamic_update_slice_in_dim(x, y, index, 1) for x, y in zip(cached, rest, strict=True)]
        return (index + 1, *cached), attend(new, *cached, query_offset=index, **given)[:, 0]

    start = jnp.int32(0), jnp.zeros_like(key), jnp.zeros_like(value)
    tokens = [jnp.moveaxis(x, 1, 0) for x in (query, key, value)]
    _, out = jax.jit(lambda start, tokens: jax.lax.scan(step, start, tokens))(start, tokens)
    np.testing.assert_allclose(jnp.moveaxis(out, 0, 1), whole, atol=1e-5)
    chunk = jax.jit(lambda index: attend(query[:, 9:14], key, value, query_offset=index, **given))
    np.testing.assert_allclose(chunk(9), whole[:, 9:14], atol=1e-5)


def test_layers_turn_and_bias_at_a_traced_offset():
    x = jax.random.normal(jax.random.key(3), (2, 12, 16))
    for positions in (Rotary(), ALiBi()):
        layer = attnzoo.nnx.MultiHeadAttention(4, 16, positions=positions, rngs=flax.nnx.Rngs(0))
        whole = layer(x, is_causal=True)
        call = flax.nnx.jit(lambda layer, x, rows, offset: layer(rows, x, is_causal=True, query_offset=offset))
        np.testing.assert_allclose(call(layer, x, x[:, 5:8], 5), whole[:, 5:8], atol=1e-5)
        rows = jnp.stack([x[0, 2:5], x[1, 7:10]])
        expected = jnp.stack([whole[0, 2:5], whole[1, 7:10]])
        np.testing.assert_allclose(call(layer, x, rows, jnp.array([2, 7])), expected, atol=1e-5)
