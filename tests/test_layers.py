"""The Flax layers: Flax's parameter tree and outputs, any kernel inside, every argument honoured or refused."""

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnzoo
import attnzoo.linen
import attnzoo.nnx
from attnzoo import (
    KERNELS,
    ALiBi,
    BigBird,
    LearnedPositions,
    Linformer,
    Local,
    Nystrom,
    Performer,
    Reformer,
    Rotary,
    Shaw,
    Sinkhorn,
    SlidingWindow,
    Softmax,
    SparseTransformer,
    T5Buckets,
)
from tests.few import few

SMALL = {
    "sliding_window": SlidingWindow(left=3, right=2),
    "bigbird": BigBird(block_size=4, num_random=1),
    "performer": Performer(features=8),
    "linformer": Linformer(rank=4),
    "nystrom": Nystrom(landmarks=4),
    "local": Local(block_size=4),
    "reformer": Reformer(chunk_size=4, buckets=4),
    "sinkhorn": Sinkhorn(block_size=4, iterations=3),
    "sparse_transformer": SparseTransformer(block_size=4, summary=1),
}
ZOO = [SMALL.get(name, kernel()) for name, kernel in KERNELS.items()]


def inputs(*batch, length=11, features=16, seed=0):
    return jax.random.normal(jax.random.key(seed), (*batch, length, features))


def linen_params(module, *args, **kwargs):
    params = module.init(jax.random.key(1), *args, **kwargs)
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)


def load(layer, params):
    """Give an NNX layer the weights of a Linen tree."""
    state = flax.nnx.state(layer, flax.nnx.Param)
    flax.nnx.update(layer, jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(params["params"])))
    return layer


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"use_bias": False},
        {"normalize_qk": True},
        {"qkv_features": 8, "out_features": 5},
        {"dtype": jnp.bfloat16},
    ],
    ids=str,
)
def test_both_layers_equal_flax_with_its_weights(arguments):
    x, context = inputs(2), inputs(2, length=7, seed=3)
    mask = jax.random.bernoulli(jax.random.key(2), 0.7, (2, 1, 11, 7)).at[..., 0].set(True)
    theirs = flax.linen.MultiHeadDotProductAttention(num_heads=4, **arguments)
    ours = attnzoo.linen.MultiHeadAttention(num_heads=4, **arguments)
    params = linen_params(theirs, x, context)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, ours.init(jax.random.key(1), x, context))
    expected = theirs.apply(params, x, context, mask=mask)
    tolerance = {"atol": 2e-2} if "dtype" in arguments else {"atol": 2e-6}
    np.testing.assert_allclose(ours.apply(params, x, context, mask=mask), expected, **tolerance)
    layer = load(attnzoo.nnx.MultiHeadAttention(4, 16, **arguments, rngs=flax.nnx.Rngs(0)), params)
    np.testing.assert_allclose(layer(x, context, mask=mask), expected, **tolerance)


def test_the_tree_of_nnx_is_that_of_flax():
    arguments = {"num_heads": 4, "in_features": 16, "num_kv_heads": 2, "normalize_qk": True}
    theirs = flax.nnx.MultiHeadAttention(**arguments, decode=False, rngs=flax.nnx.Rngs(0))
    ours = attnzoo.nnx.MultiHeadAttention(**arguments, rngs=flax.nnx.Rngs(0))
    shapes = [jax.tree.map(jnp.shape, flax.nnx.state(layer, flax.nnx.Param)) for layer in (theirs, ours)]
    assert shapes[0] == shapes[1]
    x = inputs(2)
    np.testing.assert_allclose(ours(x, is_causal=True), theirs(x, is_causal=True), atol=2e-6)


@pytest.mark.parametrize("kernel", ZOO, ids=repr)
def test_every_kernel_in_both_layers(kernel):
    x = inputs(2)
    module = attnzoo.linen.MultiHeadAttention(num_heads=4, num_kv_heads=2, attention=kernel)
    given = {"is_causal": not kernel.supports.bidirectional}
    params = linen_params(module, x, **given)
    out = module.apply(params, x, **given)
    assert out.shape == x.shape
    layer = attnzoo.nnx.MultiHeadAttention(
        4, 16, num_kv_heads=2, attention=kernel, max_length=11, rngs=flax.nnx.Rngs(0)
    )
    np.testing.assert_allclose(load(layer, params)(x, **given), out, atol=1e-5)
    learned = params["params"].get("attention")
    assert (learned is None) == (not jax.tree.leaves(kernel.init(jax.random.key(0), attnzoo.Dims(1, 2, 2, 1, 1, 2, 2))))
    if learned is not None:
        grads = jax.grad(lambda params: (module.apply(params, x, **given) ** 2).sum())(params)["params"]["attention"]
        assert all(np.abs(grad).max() > 0 for grad in jax.tree.leaves(grads))


def test_parameters_for_a_length_serve_shorter_inputs():
    module = attnzoo.linen.MultiHeadAttention(num_heads=2, attention=Linformer(rank=3))
    params = module.init(jax.random.key(0), inputs(1))
    assert module.apply(params, inputs(1, length=6)).shape == (1, 6, 16)
    with pytest.raises(ValueError, match="at most 11 keys, key has 12"):
        module.apply(params, inputs(1, length=12))
    with pytest.raises(ValueError, match="max_length=None"):
        attnzoo.nnx.MultiHeadAttention(2, 16, attention=Linformer(), rngs=flax.nnx.Rngs(0))


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_any_number_of_batch_axes(batch):
    x = inputs(*batch)
    module = attnzoo.linen.MultiHeadAttention(num_heads=2)
    params = module.init(jax.random.key(0), x)
    key_mask = jnp.broadcast_to(jnp.arange(11) < 8, (*batch, 11))
    out = module.apply(params, x, key_mask=key_mask, mask=jnp.tri(11)[None])
    flat = module.apply(params, x.reshape(-1, 11, 16), key_mask=key_mask.reshape(-1, 11), mask=jnp.tri(11)[None])
    np.testing.assert_allclose(out.reshape(flat.shape), flat, atol=1e-6)


STRUCTURE = {
    "bias": jnp.linspace(0, 3, 121).reshape(11, 11),
    "is_causal": True,
    "query_seq_lengths": jnp.array([4, 11]),
    "key_value_seq_lengths": jnp.array([4, 11]),
    "key_mask": jnp.arange(22).reshape(2, 11) % 3 > 0,
    "local_window_size": (2, 1),
    "scale": 2.0,
    "soft_cap": 0.05,
    "sinks": jnp.array([0.0, 3.0]),
    "mask_mod": lambda head, i, j: (i - j) % (2 + head) == 0,
    "score_mod": lambda score, head, i, j: score * (1 - head),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_arguments_reach_attention(name):
    x = inputs(2)
    module = attnzoo.linen.MultiHeadAttention(num_heads=2)
    params = linen_params(module, x)
    layer = load(attnzoo.nnx.MultiHeadAttention(2, 16, rngs=flax.nnx.Rngs(0)), params)
    out = module.apply(params, x, **{name: STRUCTURE[name]})
    assert np.abs(out - module.apply(params, x)).max() > 1e-3
    np.testing.assert_allclose(layer(x, **{name: STRUCTURE[name]}), out, atol=1e-6)


def test_learned_sinks():
    """Both layers learn a logit for each head, decode with it, and refuse it beside another."""
    x = inputs(2)
    module = attnzoo.linen.MultiHeadAttention(num_heads=2, sinks=True)
    params = linen_params(module, x)
    params["params"]["sinks"] = jnp.array([0.5, 2.0])
    layer = load(attnzoo.nnx.MultiHeadAttention(2, 16, sinks=True, rngs=flax.nnx.Rngs(0)), params)
    plain = attnzoo.linen.MultiHeadAttention(num_heads=2)
    out = module.apply(params, x, is_causal=True)
    given = {"sinks": params["params"]["sinks"], "is_causal": True}
    np.testing.assert_allclose(out, plain.apply(params, x, **given), atol=1e-6)
    np.testing.assert_allclose(out, layer(x, is_causal=True), atol=1e-6)
    slope = jax.grad(lambda params: module.apply(params, x).sum())(params)["params"]["sinks"]
    assert np.abs(slope).min() > 1e-3
    layer.init_cache(x.shape)
    np.testing.assert_allclose(layer(x, decode=True), out, atol=1e-6)
    with pytest.raises(ValueError, match="sinks came beside those that the layer learns"):
        module.apply(params, x, sinks=given["sinks"])
    with pytest.raises(NotImplementedError, match="Linear cannot honour `sinks`"):
        attnzoo.nnx.MultiHeadAttention(2, 16, sinks=True, attention=attnzoo.Linear(), rngs=flax.nnx.Rngs(0))


def test_global_tokens_reach_attention():
    x, window = inputs(2), attnzoo.SlidingWindow(left=1, right=0)
    module = attnzoo.linen.MultiHeadAttention(num_heads=2, attention=window)
    params = linen_params(module, x)
    layer = load(attnzoo.nnx.MultiHeadAttention(2, 16, attention=window, rngs=flax.nnx.Rngs(0)), params)
    out = jax.jit(lambda x, tokens: module.apply(params, x, global_tokens=tokens))(x, jnp.array([[4], [9]]))
    np.testing.assert_allclose(layer(x, global_tokens=np.arange(11) == np.array([[4], [9]])), out, atol=1e-6)
    moved = np.abs(out - module.apply(params, x)).max(axis=-1) > 1e-3
    after_it = np.arange(11) == np.array([[5], [10]])  # whose window holds the global token
    np.testing.assert_array_equal(moved, ~after_it)
    with pytest.raises(NotImplementedError, match="decode=True cannot honour `global_tokens`"):
        decoder = attnzoo.linen.MultiHeadAttention(num_heads=2, attention=window, decode=True)
        variables = decoder.init(jax.random.key(0), x)
        decoder.apply(variables, x[:, :1], global_tokens=jnp.array([[4], [9]]), mutable="cache")


def test_segments_and_offset_reach_attention():
    x, context = inputs(1, length=3), inputs(1)
    module = attnzoo.linen.MultiHeadAttention(num_heads=2)
    params = linen_params(module, x, context)
    ids = {"query_segment_ids": jnp.zeros((1, 3), int), "key_value_segment_ids": (jnp.arange(11) > 4).astype(int)[None]}
    np.testing.assert_allclose(
        module.apply(params, x, context, **ids), module.apply(params, x, context[:, :5]), atol=1e-6
    )
    np.testing.assert_allclose(
        module.apply(params, x[:, :1], context, is_causal=True, query_offset=4),
        module.apply(params, x[:, :1], context[:, :5]),
        atol=1e-6,
    )


def test_dropout_acts_when_it_should():
    x = inputs(2)
    module = attnzoo.linen.MultiHeadAttention(num_heads=2, dropout_rate=0.5)
    params = module.init(jax.random.key(0), x, deterministic=True)
    still = module.apply(params, x, deterministic=True)
    dropped = [module.apply(params, x, deterministic=False, rngs={"dropout": jax.random.key(i)}) for i in (1, 1, 2)]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(dropped[0] - dropped[2]).max() > 1e-3 and np.abs(dropped[0] - still).max() > 1e-3
    layer = attnzoo.nnx.MultiHeadAttention(2, 16, dropout_rate=0.5, rngs=flax.nnx.Rngs(0))
    assert np.abs(layer(x, deterministic=False) - layer(x, deterministic=False)).max() > 1e-3
    with pytest.raises(ValueError, match="deterministic is None"):
        layer(x)
    bare = attnzoo.nnx.MultiHeadAttention(2, 16, dropout_rate=0.5, keep_rngs=False, rngs=flax.nnx.Rngs(0))
    with pytest.raises(ValueError, match="dropout needs rngs"):
        bare(x, deterministic=False)


def test_weights_are_sown():
    x = inputs(2)
    module = attnzoo.linen.MultiHeadAttention(num_heads=2, attention=SlidingWindow(left=1, right=0))
    params = module.init(jax.random.key(0), x)
    _, state = module.apply(params, x, sow_weights=True, mutable=["intermediates"])
    (weights,) = state["intermediates"]["attention_weights"]
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert ((weights > 0).sum(-1) <= 2).all()
    layer = attnzoo.nnx.MultiHeadAttention(2, 16, attention=SlidingWindow(left=1, right=0), rngs=flax.nnx.Rngs(0))
    _, state = flax.nnx.capture(load(layer, params), flax.nnx.Intermediate)(x, sow_weights=True)
    np.testing.assert_allclose(state["attention_weights"][0], weights, atol=1e-6)


def test_what_cannot_be_honoured_is_refused():
    x = inputs(1)
    with pytest.raises(ValueError, match="`inputs_k` cannot be None"):
        attnzoo.nnx.MultiHeadAttention(2, 16, rngs=flax.nnx.Rngs(0))(x, None, x)
    with pytest.raises(ValueError, match="num_heads=3"):
        attnzoo.linen.MultiHeadAttention(num_heads=3).init(jax.random.key(0), x)
    with pytest.raises(NotImplementedError, match="Performer cannot honour `mask`"):
        attnzoo.linen.MultiHeadAttention(num_heads=2, attention=Performer(8)).init(
            jax.random.key(0), x, mask=jnp.eye(11, dtype=bool)[None]
        )


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ("softmax", "^attention='softmax' is a string: .*attnzoo.parse"),
        (SlidingWindow, r"^attention=SlidingWindow is a class: .* such as SlidingWindow\(\)"),
        (None, "^attention=None: expected an instance of attnzoo.Kernel"),
    ],
    ids=str,
)
def test_what_is_no_kernel_is_refused(attention, message):
    with pytest.raises(ValueError, match=message):
        attnzoo.nnx.MultiHeadAttention(2, 16, attention=attention, rngs=flax.nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        attnzoo.linen.MultiHeadAttention(num_heads=2, attention=attention).init(jax.random.key(0), inputs(1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([inputs(1, features=15)], r"^inputs_q has shape \(1, 11, 15\): expected \[\*batch, length, 16\], as "),
        ([inputs()[0]], r"^inputs_q has shape \(16,\): expected \[\*batch, length, 16\]"),
        ([inputs(1)], r"^inputs_k has shape \(1, 11, 16\): expected \[\*batch, length, 12\], as .* of that width, or "),
        ([inputs(1), inputs(1, features=12), inputs(1)], r"^inputs_v has shape \(1, 11, 16\)"),
    ],
    ids=["query", "one token", "query as key", "value"],
)
def test_inputs_of_another_width_are_refused(given, message):
    module = attnzoo.linen.MultiHeadAttention(num_heads=2)
    params = module.init(jax.random.key(0), inputs(1), inputs(1, features=12))
    with pytest.raises(ValueError, match=message):
        module.apply(params, *given)
    with pytest.raises(ValueError, match=message):
        attnzoo.nnx.MultiHeadAttention(2, 16, in_kv_features=12, rngs=flax.nnx.Rngs(0))(*given)


def test_softmax_is_the_default():
    assert attnzoo.linen.MultiHeadAttention(num_heads=2).attention == Softmax()


RELATIVE = [Rotary(), Rotary(pairing="half", width=2), ALiBi(), T5Buckets(num_buckets=8, max_distance=9), Shaw(clip=3)]


@pytest.mark.parametrize("positions", few(RELATIVE, RELATIVE[1::2]), ids=repr)
def test_positions_in_both_layers(positions):
    """Queries are turned and biased from `query_offset` on, keys from 0, whatever the batch axes and groups."""
    x, context = inputs(2, 3, length=4), inputs(2, 3, seed=3)
    module = attnzoo.linen.MultiHeadAttention(num_heads=4, num_kv_heads=2, positions=positions)
    params = linen_params(module, x, context)
    out = module.apply(params, x, context, is_causal=True, query_offset=5)
    layer = attnzoo.nnx.MultiHeadAttention(4, 16, num_kv_heads=2, positions=positions, rngs=flax.nnx.Rngs(0))
    np.testing.assert_allclose(load(layer, params)(x, context, is_causal=True, query_offset=5), out, atol=1e-5)

    def projected(part, inputs):
        return jnp.einsum("...f,fnh->...nh", inputs, params["params"][part]["kernel"]) + params["params"][part]["bias"]

    query, key = positions.rotate(projected("query", x), jnp.arange(4) + 5), projected("key", context)
    key = positions.rotate(key, jnp.arange(11))
    bias = positions.bias(params["params"].get("positions", ()), 4)
    heads = attnzoo.attend(
        *(a.reshape(6, *a.shape[2:]) for a in (query, key, projected("value", context))),
        bias,
        is_causal=True,
        query_offset=5,
    )
    expected = jnp.einsum("btnh,nhf->btf", heads, params["params"]["out"]["kernel"]) + params["params"]["out"]["bias"]
    np.testing.assert_allclose(out.reshape(6, 4, 16), expected, atol=1e-5)
    plain = attnzoo.linen.MultiHeadAttention(num_heads=4, num_kv_heads=2)
    assert np.abs(plain.apply(params, x, context, is_causal=True, query_offset=5) - out).max() > 1e-3


@pytest.mark.parametrize("positions", few(RELATIVE, RELATIVE[1::2]), ids=repr)
def test_what_positions_learn_is_a_parameter(positions):
    x = inputs(2)
    module = attnzoo.linen.MultiHeadAttention(num_heads=4, positions=positions, dtype=jnp.bfloat16)
    params = module.init(jax.random.key(0), x)
    learns = bool(jax.tree.leaves(positions.init(jax.random.key(0), attnzoo.Dims(1, 2, 2, 4, 4, 4, 4))))
    assert set(params["params"]) == {"query", "key", "value", "out"} | ({"positions"} if learns else set())
    grads = jax.grad(lambda params: (module.apply(params, x).astype(jnp.float32) ** 2).sum())(params)["params"]
    assert not learns or np.abs(grads["positions"]).max() > 0
    layer = attnzoo.nnx.MultiHeadAttention(4, 16, positions=positions, dtype=jnp.bfloat16, rngs=flax.nnx.Rngs(0))
    assert layer(x).dtype == jnp.bfloat16
    assert set(flax.nnx.state(layer, flax.nnx.Param)) == set(params["params"])


def test_positions_that_cannot_be_are_refused():
    x = inputs(1)
    layer = attnzoo.nnx.MultiHeadAttention(2, 16, positions=ALiBi(), rngs=flax.nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"bias came beside positions=ALiBi\(\), which gives a bias of its own"):
        layer(x, bias=ALiBi.of(2))
    for positions, message in (
        (LearnedPositions(), r"positions=LearnedPositions\(\) is added to the embeddings of tokens"),
        ("rotary", "positions='rotary': expected an instance such as Rotary"),
        (Rotary, "expected an instance such as Rotary"),
        (None, "positions=None: expected an instance"),
    ):
        with pytest.raises(ValueError, match=message):
            attnzoo.nnx.MultiHeadAttention(2, 16, positions=positions, rngs=flax.nnx.Rngs(0))
        with pytest.raises(ValueError, match=message):
            attnzoo.linen.MultiHeadAttention(num_heads=2, positions=positions).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="width=5: expected an even integer"):
        attnzoo.nnx.MultiHeadAttention(2, 10, positions=Rotary(), rngs=flax.nnx.Rngs(0))(inputs(1, features=10))
    with pytest.raises(NotImplementedError, match="Performer cannot honour `bias`"):
        attnzoo.nnx.MultiHeadAttention(2, 16, attention=Performer(8), positions=ALiBi(), rngs=flax.nnx.Rngs(0))(x)
