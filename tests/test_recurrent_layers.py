"""What published recurrences have around them, in both layers: short convolutions, activations, norms and gates."""

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnzoo.linen
import attnzoo.nnx
from attnzoo import GatedDelta, Linear, SlidingWindow, Softmax, attend
from tests.test_layers import inputs, linen_params, load

LENGTH, WIDTH = 11, 3
PUBLISHED = {"conv_width": WIDTH, "qkv_activation": "silu", "normalize_out": True, "gate": "silu"}


def both(kernel=Softmax(), **options):
    """A Linen module, parameters, and an NNX layer that has them; keys have half as many heads."""
    shared = {"num_kv_heads": 2, "attention": kernel} | options
    module = attnzoo.linen.MultiHeadAttention(num_heads=4, **shared)
    params = linen_params(module, inputs(1), is_causal=True)
    return module, params, load(attnzoo.nnx.MultiHeadAttention(4, 16, **shared, rngs=flax.nnx.Rngs(0)), params)


def projected(params, x, name):
    """Heads as they come out of a projection, in float64."""
    own = params["params"][name]
    return np.einsum("btf,fnh->btnh", np.float64(x), np.float64(own["kernel"])) + np.float64(own["bias"])


def convolved(x, weights, real, segments):
    """The sum over tokens before, token after token; [B, T, N, H] by [N, width, H]."""
    out = np.zeros_like(x)
    for b, t in np.ndindex(x.shape[:2]):
        for j in range(weights.shape[1]):
            if t >= j and real[b, t - j] and segments[b, t] == segments[b, t - j]:
                out[b, t] += np.float64(weights[:, j]) * x[b, t - j]
    return out


def silu(x):
    return x / (1 + np.exp(-x))


def rms(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.float64(scale)


def test_a_layer_is_its_equations():
    """Convolved, activated, normalised; attended; normalised and gated: in NumPy, with padding and documents."""
    module, params, layer = both(normalize_qk="rms", **PUBLISHED)
    x = inputs(2)
    real = np.arange(LENGTH) < np.array([[LENGTH], [8]])
    real[0, 5] = False
    segments = np.arange(LENGTH) // np.array([[4], [20]])
    own, ids = params["params"], {f"{of}_segment_ids": jnp.array(segments) for of in ("query", "key_value")}
    given = {"is_causal": True, "key_mask": jnp.array(real), **ids}
    query, key, value = (
        silu(convolved(projected(params, x, of), own[f"{of}_conv"], real, segments)) for of in ("query", "key", "value")
    )
    query, key = rms(query, own["query_ln"]["scale"]), rms(key, own["key_ln"]["scale"])
    heads = np.float64(attend(*(jnp.float32(each) for each in (query, key, value)), **given))
    heads = rms(heads, own["out_norm"]["scale"]) * silu(projected(params, x, "gate"))
    expected = np.einsum("btnh,nhf->btf", heads, np.float64(own["out"]["kernel"])) + own["out"]["bias"]
    out = module.apply(params, x, **given)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    np.testing.assert_allclose(layer(x, **given), expected, atol=2e-5)
    garbage = jnp.where(real[..., None], x, 1e4)
    moved = np.abs(layer(garbage, **given) - out).max(-1)
    np.testing.assert_array_equal(moved > 0, ~real)
    packed = layer(x[:1, 4:8], **{name: a[:1, 4:8] if name != "is_causal" else a for name, a in given.items()})
    np.testing.assert_allclose(packed, out[:1, 4:8], atol=1e-5)


def test_padding_by_lengths_and_by_masks_is_the_same():
    _, _, layer = both(Linear(), **PUBLISHED)
    x, lengths = inputs(2, 1), jnp.array([[LENGTH], [7]])
    x = x.at[1, :, 7:].set(1e4)
    expected = layer(x, is_causal=True, key_value_seq_lengths=lengths, query_seq_lengths=lengths)
    real = jnp.arange(LENGTH) < lengths[..., None]
    out = layer(x, is_causal=True, mask=real[:, :, None, None].astype(jnp.float32))
    np.testing.assert_allclose(jnp.where(real[..., None], out - expected, 0), 0, atol=1e-5)
    np.testing.assert_allclose(layer(x[1, :, :7], is_causal=True), expected[1, :, :7], atol=1e-5)


def test_norms_and_activations_of_queries_and_keys():
    x = inputs(2)
    _, params, layer = both(normalize_qk="l2", qkv_activation="relu")
    query, key, value = (np.maximum(projected(params, x, of), 0) for of in ("query", "key", "value"))
    unit = lambda x: jnp.float32(x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6))
    expected = attend(unit(query), unit(key), jnp.float32(value))
    own = params["params"]["out"]
    expected = jnp.einsum("btnh,nhf->btf", expected, own["kernel"]) + own["bias"]
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [GatedDelta(), SlidingWindow(2, 0)], ids=repr)
def test_steps_equal_the_whole(kernel):
    """Chunks, single tokens, and examples of lengths of their own, in both layers; what is padding is not kept."""
    module, params, layer = both(kernel, **PUBLISHED)
    x = inputs(2)
    whole = layer(x, is_causal=True)
    module, lengths = module.clone(decode=True), jnp.array([2, 5])
    cache = module.init(jax.random.key(0), x, query_seq_lengths=lengths)["cache"]
    layer.init_cache(x.shape)
    shapes = [cache[name].shape for name in ("cached_query_conv", "cached_key_conv", "cached_value_conv")]
    assert shapes == [(2, WIDTH - 1, 4, 4), (2, WIDTH - 1, 2, 4), (2, WIDTH - 1, 2, 4)]
    starts = jnp.zeros(2, int)
    for count, real in ((5, lengths), (1, None), (4, jnp.array([4, 1])), (1, None), (3, jnp.array([3, 3]))):
        rows = starts[:, None] + jnp.arange(count)
        is_real = rows < (starts + (count if real is None else real))[:, None]
        take = lambda a, rows=rows: jnp.take_along_axis(a, jnp.minimum(rows, LENGTH - 1)[..., None], axis=1)
        chunk = jnp.where(is_real[..., None], take(x), 1e4)
        given = {} if real is None else {"query_seq_lengths": real}
        out, state = module.apply(params | {"cache": cache}, chunk, mutable=["cache"], **given)
        cache = state["cache"]
        for found in (out, layer(chunk, decode=True, **given)):
            np.testing.assert_allclose(jnp.where(is_real[..., None], found - take(whole), 0), 0, atol=2e-5)
        starts = starts + (count if real is None else real)
    assert starts.tolist() == [11, 11]


def test_a_refused_step_keeps_nothing():
    _, _, layer = both(**PUBLISHED)
    x = inputs(2)
    layer.init_cache(x.shape)
    layer(x, decode=True)
    before = layer.cached_query_conv[...]
    with pytest.raises(ValueError, match="stands at position 11"):
        layer(x[:, :1], decode=True)
    np.testing.assert_array_equal(layer.cached_query_conv[...], before)


@pytest.mark.slow
def test_gradients_reach_all_that_is_learned():
    module, params, _ = both(GatedDelta(), normalize_qk=True, **PUBLISHED)
    slopes = jax.grad(lambda params: (module.apply(params, inputs(2), is_causal=True) ** 2).sum())(params)["params"]
    for name in ("query_conv", "key_conv", "value_conv"):
        assert slopes[name].shape[1] == WIDTH and np.abs(slopes[name]).min() > 0
    for name in ("gate", "out_norm", "query_ln", "key_ln"):
        assert all(np.abs(slope).max() > 0 for slope in jax.tree.leaves(slopes[name]))


REFUSED = {
    "inputs_k": {"inputs_k": inputs(1, seed=3)},
    "is_causal=False": {"is_causal": False},
    "query_offset": {"query_offset": 3},
    "mask_mod": {"mask_mod": lambda head, i, j: i >= j},
    "mask": {"mask": jnp.eye(LENGTH, dtype=bool)},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_convolution_cannot_follow_is_refused(name):
    module, params, layer = both(conv_width=WIDTH)
    for call in (lambda *given, **asked: module.apply(params, *given, **asked), layer):
        with pytest.raises(NotImplementedError, match=f"conv_width cannot honour `{name}`: .*: "):
            call(inputs(1), **{"is_causal": True} | REFUSED[name])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"conv_width": 0}, "conv_width=0: expected how many tokens"),
        ({"qkv_activation": "tanh"}, "qkv_activation='tanh': expected one of silu, sigmoid, relu, or None"),
        ({"gate": True}, "gate=True: expected one of silu"),
        ({"normalize_qk": "layer"}, "normalize_qk='layer': expected one of False, True, 'rms', 'l2'"),
        ({"normalize_out": "rms"}, "normalize_out='rms': expected True or False"),
    ],
    ids=str,
)
def test_options_that_are_none_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attnzoo.nnx.MultiHeadAttention(4, 16, **options, rngs=flax.nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        attnzoo.linen.MultiHeadAttention(num_heads=4, **options).init(jax.random.key(0), inputs(1), is_causal=True)
