"""`decode=True` in both Flax layers: Flax's cache where its conventions hold, every kernel, and an end that is kept."""

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnzoo
import attnzoo.linen
import attnzoo.nnx
from attnzoo import Additive, ALiBi, BigBird, Linear, Nystrom, Performer, SlidingWindow, Softmax
from tests.few import few
from tests.test_layers import RELATIVE, inputs, load

LENGTH = 11
ZOO = [Softmax(), Additive(), SlidingWindow(3, 2, 1, 1), BigBird(block_size=4, num_random=1), Linear(), Performer(8)]


def linen(kernel=Softmax(), batch=(2,), **arguments):
    """A module that decodes, its parameters, an empty cache, and the input."""
    x = inputs(*batch)
    module = attnzoo.linen.MultiHeadAttention(num_heads=4, attention=kernel, decode=True, **arguments)
    variables = module.init(jax.random.key(0), x)
    noise = lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape)
    return module, {"params": jax.tree.map(noise, variables["params"])}, variables["cache"], x


def advance(module, params, cache, x, **arguments):
    out, state = module.apply(params | {"cache": cache}, x, mutable=["cache"], **arguments)
    return state["cache"], out


def nnx(params, kernel=Softmax(), batch=(2,), **arguments):
    """A layer that decodes, with the weights of a Linen tree, and an empty cache."""
    layer = attnzoo.nnx.MultiHeadAttention(4, 16, attention=kernel, decode=True, rngs=flax.nnx.Rngs(0), **arguments)
    load(layer, params)
    layer.init_cache((*batch, LENGTH, 16))
    return layer


def test_linen_keeps_the_cache_of_flax_and_gives_its_outputs():
    module, params, cache, x = linen()
    theirs = flax.linen.MultiHeadDotProductAttention(num_heads=4, decode=True)
    their_cache = theirs.init(jax.random.key(0), x)["cache"]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), cache) == jax.tree.map(lambda x: (x.shape, x.dtype), their_cache)
    for i in range(LENGTH):
        their_cache, expected = advance(theirs, params, their_cache, x[:, i : i + 1])
        cache, out = advance(module, params, cache, x[:, i : i + 1])
        np.testing.assert_allclose(out, expected, atol=2e-6)
    jax.tree.map(lambda got, wanted: np.testing.assert_allclose(got, wanted, atol=1e-6), cache, their_cache)


def test_nnx_keeps_the_cache_of_flax_and_gives_its_outputs():
    x = inputs(2)
    arguments = {"num_heads": 4, "in_features": 16, "num_kv_heads": 2, "normalize_qk": True, "decode": True}
    theirs, ours = (
        layer(**arguments, rngs=flax.nnx.Rngs(0))
        for layer in (flax.nnx.MultiHeadAttention, attnzoo.nnx.MultiHeadAttention)
    )
    for layer in (theirs, ours):
        layer.init_cache(x.shape)
    for i in range(LENGTH):
        np.testing.assert_allclose(ours(x[:, i : i + 1]), theirs(x[:, i : i + 1]), atol=2e-6)
    caches = [flax.nnx.state(layer, flax.nnx.Cache) for layer in (ours, theirs)]
    jax.tree.map(lambda got, wanted: np.testing.assert_allclose(got, wanted, atol=1e-6), *caches)


@pytest.mark.parametrize("kernel", ZOO, ids=repr)
def test_every_kernel_steps_in_both_layers(kernel):
    module, params, cache, x = linen(kernel, num_kv_heads=2)
    layer = nnx(params, kernel, num_kv_heads=2)
    whole = module.clone(decode=False).apply(params, x, is_causal=True)
    for first, last in ((0, 10), (10, LENGTH)):
        cache, out = advance(module, params, cache, x[:, first:last])
        np.testing.assert_allclose(out, whole[:, first:last], atol=1e-5)
        np.testing.assert_allclose(layer(x[:, first:last]), whole[:, first:last], atol=1e-5)
    assert cache["cache_index"] == layer.cache_index[...] == LENGTH


@pytest.mark.parametrize("batch", few([(), (2, 3)], [(2, 3)]), ids=str)
def test_any_number_of_batch_axes(batch):
    module, params, cache, x = linen(SlidingWindow(3), batch)
    layer, whole = nnx(params, SlidingWindow(3), batch), module.clone(decode=False).apply(params, x, is_causal=True)
    cache, first = advance(module, params, cache, x[..., :7, :])
    _, second = advance(module, params, cache, x[..., 7:, :])
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=-2), whole, atol=1e-5)
    np.testing.assert_allclose(layer(x), whole, atol=1e-5)


def test_examples_may_have_prompts_of_their_own_length():
    module, params, cache, x = linen()
    layer, lengths = nnx(params), jnp.array([3, 7])
    bias = ALiBi.of(4)
    whole = module.clone(decode=False).apply(params, x, is_causal=True, bias=bias)
    cache, _ = advance(module, params, cache, x[:, :7], query_seq_lengths=lengths, bias=bias)
    layer(x[:, :7], query_seq_lengths=lengths, bias=bias)
    assert cache["cache_index"].tolist() == layer.cache_index[...].tolist() == [3, 7]
    rows = lengths[:, None] + jnp.arange(4)
    following, expected = (jnp.take_along_axis(x, rows[..., None], axis=1) for x in (x, whole))
    cache, out = advance(module, params, cache, following, bias=bias)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(layer(following, bias=bias), expected, atol=1e-5)
    assert cache["cache_index"].tolist() == layer.cache_index[...].tolist() == [7, 11]


@pytest.mark.parametrize("positions", few(RELATIVE, RELATIVE[1::2]), ids=repr)
def test_positions_are_those_of_each_example(positions):
    """Queries and keys are turned, and biased, where their example stands, also when examples differ in length."""
    module, params, cache, x = linen(SlidingWindow(6, 0), positions=positions, num_kv_heads=2)
    layer = nnx(params, SlidingWindow(6, 0), positions=positions, num_kv_heads=2)
    lengths = jnp.array([3, 7])
    whole = module.clone(decode=False).apply(params, x, is_causal=True)
    prompt = x.at[0, 3:7].set(1e6)
    cache, out = advance(module, params, cache, prompt[:, :7], query_seq_lengths=lengths)
    np.testing.assert_allclose(out[1], whole[1, :7], atol=1e-5)
    np.testing.assert_allclose(layer(prompt[:, :7], query_seq_lengths=lengths), out, atol=1e-5)
    rows = lengths[:, None] + jnp.arange(4)
    following, expected = (jnp.take_along_axis(x, rows[..., None], axis=1) for x in (x, whole))
    cache, out = advance(module, params, cache, following)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(layer(following), expected, atol=1e-5)


def test_a_linen_cache_is_the_carry_of_a_scan():
    module, params, cache, x = linen(Linear())
    tokens = jnp.moveaxis(x[:, :, None], 1, 0)
    _, out = jax.jit(lambda cache: jax.lax.scan(lambda c, x: advance(module, params, c, x), cache, tokens))(cache)
    whole = module.clone(decode=False).apply(params, x, is_causal=True)
    np.testing.assert_allclose(jnp.moveaxis(out[:, :, 0], 0, 1), whole, atol=1e-5)


def test_ragged_steps_are_the_body_of_a_scan():
    """A cache that is made ragged keeps its shapes, in Linen, NNX, and `nnx.scan`."""
    module, params, _, x = linen()
    lengths = jnp.array([[2, 3], [1, 3], [3, 1]])
    starts = jnp.cumsum(lengths, axis=0) - lengths
    rows = starts[..., None] + jnp.arange(3)
    chunks = jnp.stack([jnp.take_along_axis(x, row[..., None], axis=1) for row in rows])
    whole = module.clone(decode=False).apply(params, x, is_causal=True)
    real = (jnp.arange(3) < lengths[..., None])[..., None]
    expected = [jnp.take_along_axis(whole, row[..., None], axis=1) for row in rows]

    def step(cache, given):
        return advance(module, params, cache, given[0], query_seq_lengths=given[1])

    cache = module.init(jax.random.key(0), x, query_seq_lengths=jnp.full(2, LENGTH))["cache"]
    cache, out = jax.lax.scan(step, cache, (chunks, lengths))
    np.testing.assert_allclose(jnp.where(real, out, 0), jnp.where(real, jnp.stack(expected), 0), atol=1e-5)
    layer = nnx(params)
    layer.init_cache(x.shape, is_ragged=True)
    scanned = flax.nnx.scan(
        lambda layer, x, lengths: (layer, layer(x, query_seq_lengths=lengths)),
        in_axes=(flax.nnx.Carry, 0, 0),
        out_axes=(flax.nnx.Carry, 0),
    )
    layer, out = scanned(layer, chunks, lengths)
    np.testing.assert_allclose(jnp.where(real, out, 0), jnp.where(real, jnp.stack(expected), 0), atol=1e-5)
    assert cache["cache_index"].tolist() == layer.cache_index[...].tolist() == [6, 7]


def test_an_nnx_cache_is_carried_by_jit():
    _, params, _, x = linen()
    layer, eager = nnx(params), nnx(params)
    call = flax.nnx.jit(lambda layer, x: layer(x))
    for i in range(3):
        np.testing.assert_allclose(call(layer, x[:, i : i + 1]), eager(x[:, i : i + 1]), atol=1e-6)
    assert layer.cache_index[...] == 3
    layer.init_cache(x.shape)
    assert layer.cache_index[...] == 0
    assert not layer.cached_key[...].any()


def test_past_the_end_raises_and_under_jit_is_nan():
    module, params, cache, x = linen()
    layer, token = nnx(params), x[:, :1]
    cache, _ = advance(module, params, cache, x)
    layer(x)
    for call in (lambda: advance(module, params, cache, token), lambda: layer(token)):
        with pytest.raises(
            ValueError, match=r"stands at position 11, and 1 more tokens would reach 12: .*max_length=11"
        ):
            call()
    after, out = jax.jit(lambda cache: advance(module, params, cache, token))(cache)
    assert np.isnan(out).all()
    np.testing.assert_array_equal(after["cached_key"], cache["cached_key"])
    kept = layer.cached_key[...]
    assert np.isnan(flax.nnx.jit(lambda layer: layer(token))(layer)).all()
    np.testing.assert_array_equal(layer.cached_key[...], kept)


def test_what_does_not_grow_has_no_end():
    module, params, cache, x = linen(Linear())
    cache, _ = advance(module, params, cache, x)
    cache, out = advance(module, params, cache, x)
    assert np.isfinite(out).all()
    assert cache["cache_index"] == 2 * LENGTH
    assert max(leaf.size for leaf in jax.tree.leaves(cache)) == 2 * 4 * 4 * 4


def test_what_cannot_be_honoured_is_refused():
    module, params, cache, x = linen()
    with pytest.raises(NotImplementedError, match=r"Nystrom cannot honour `decode=True`: .* Kernels that can: softmax"):
        attnzoo.nnx.MultiHeadAttention(4, 16, attention=Nystrom(), decode=True, rngs=flax.nnx.Rngs(0))
    with pytest.raises(NotImplementedError, match="Nystrom cannot honour `decode=True`"):
        attnzoo.linen.MultiHeadAttention(num_heads=4, attention=Nystrom(), decode=True).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="there is no cache: call `init_cache"):
        attnzoo.nnx.MultiHeadAttention(4, 16, rngs=flax.nnx.Rngs(0))(x, decode=True)
    given = {"mask": jnp.tri(LENGTH), "query_offset": 3, "local_window_size": 2, "sow_weights": True}
    for name, value in given.items():
        for call in (lambda **g: advance(module, params, cache, x, **g), nnx(params)):
            with pytest.raises(NotImplementedError, match=f"decode=True cannot honour `{name}`"):
                call(x, **{name: value}) if isinstance(call, flax.nnx.Module) else call(**{name: value})
    with pytest.raises(NotImplementedError, match="decode=True cannot honour `dropout`"):
        dropping = module.clone(dropout_rate=0.5, deterministic=False)
        dropping.apply(params | {"cache": cache}, x, mutable=["cache"], rngs={"dropout": jax.random.key(0)})


def test_a_cache_of_something_else_is_refused():
    module, params, cache, x = linen()
    with pytest.raises(ValueError, match=r"the cache holds .*\(2, 11, 4, 4\).* Softmax\(\) makes none .* batch \[1\]"):
        advance(module, params, cache, x[:1])
    with pytest.raises(ValueError, match=r"Linear\(.*\) makes none such"):
        advance(module.clone(attention=Linear()), params, cache, x)
    with pytest.raises(ValueError, match=r"SlidingWindow\(.*\) makes none such"):
        advance(module.clone(attention=SlidingWindow(3)), params, cache, x)
    with pytest.raises(ValueError, match="expected at least one token"):
        advance(module, params, cache, x[:, :0])
