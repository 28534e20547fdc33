"""Kernels inside Flax's own layers: the mask means what was said, or the call is refused."""

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnzoo
from attnzoo import (
    Additive,
    Linear,
    Local,
    Nystrom,
    Performer,
    SlidingWindow,
    Softmax,
    SparseTransformer,
    as_attention_fn,
)

LENGTH = 10
TOKENS = jnp.array([[1] * 7 + [0] * 3, [1] * 10])
MASKS = {
    "dense": jax.random.bernoulli(jax.random.key(5), 0.6, (2, 1, LENGTH, LENGTH)).at[..., 0].set(True),
    "key": flax.linen.make_attention_mask(jnp.ones_like(TOKENS), TOKENS),
    "causal": flax.linen.make_causal_mask(TOKENS),
    "causal+key": flax.linen.combine_masks(
        flax.linen.make_causal_mask(TOKENS), flax.linen.make_attention_mask(jnp.ones_like(TOKENS), TOKENS)
    ),
}
X = jax.random.normal(jax.random.key(0), (2, LENGTH, 16))


def linen_layer(attention_fn, **arguments):
    return flax.linen.MultiHeadDotProductAttention(num_heads=2, attention_fn=attention_fn, **arguments)


def nnx_layer(attention_fn, **arguments):
    return flax.nnx.MultiHeadAttention(
        2, 16, attention_fn=attention_fn, decode=False, **arguments, rngs=flax.nnx.Rngs(0)
    )


@pytest.mark.parametrize("meaning", MASKS)
def test_masks_of_flax_mean_what_was_said(meaning):
    mask = MASKS[meaning]
    plain = flax.linen.MultiHeadDotProductAttention(num_heads=2)
    params = plain.init(jax.random.key(1), X)
    expected = plain.apply(params, X, mask=mask)
    attention_fn = as_attention_fn(Softmax(), mask=meaning)
    np.testing.assert_allclose(linen_layer(attention_fn).apply(params, X, mask=mask), expected, atol=2e-6)
    traced = jax.jit(lambda mask: linen_layer(attention_fn).apply(params, X, mask=mask))(mask.astype(jnp.float32))
    np.testing.assert_allclose(traced, expected, atol=2e-6)
    ours = nnx_layer(attention_fn)
    theirs = flax.nnx.MultiHeadAttention(2, 16, decode=False, rngs=flax.nnx.Rngs(0))
    np.testing.assert_allclose(ours(X, mask=mask.astype(bool)), theirs(X, mask=mask.astype(bool)), atol=2e-6)


def test_structure_serves_kernels_that_take_no_dense_mask():
    layer = linen_layer(as_attention_fn(Linear(), mask="causal+key"))
    params = layer.init(jax.random.key(1), X, mask=MASKS["causal+key"])
    before = layer.apply(params, X, mask=MASKS["causal+key"])
    after = layer.apply(params, X.at[0, 7:].mul(9.0).at[1, 6:].add(3.0), mask=MASKS["causal+key"])
    np.testing.assert_array_equal(before[0, :7], after[0, :7])
    np.testing.assert_array_equal(before[1, :6], after[1, :6])
    assert np.abs(before[1, 6:] - after[1, 6:]).max() > 1e-3


def test_padded_queries_give_nothing():
    mask = flax.linen.make_attention_mask(TOKENS, TOKENS)
    q = jax.random.normal(jax.random.key(2), (2, LENGTH, 2, 8))
    out = as_attention_fn(Nystrom(4), mask="key")(q, q, q, mask=mask)
    assert (out[0, 7:] == 0).all() and (out[1] != 0).all()


@pytest.mark.parametrize(
    ("meaning", "mask"), [("key", "causal"), ("causal", "key"), ("causal", "causal+key"), ("causal+key", "dense")]
)
def test_another_structure_is_refused(meaning, mask):
    layer = linen_layer(as_attention_fn(Softmax(), mask=meaning))
    with pytest.raises(ValueError, match="is not what as_attention_fn was told"):
        layer.init(jax.random.key(1), X, mask=MASKS[mask])


def test_a_mask_is_never_dropped():
    q = jnp.ones((1, 4, 2, 8))
    with pytest.raises(NotImplementedError, match=r'Performer cannot honour `mask="dense" of as_attention_fn'):
        as_attention_fn(Performer(8))(q, q, q, mask=jnp.tri(4, dtype=bool))
    with pytest.raises(NotImplementedError, match=r'Nystrom cannot honour `mask="causal"'):
        as_attention_fn(Nystrom(4), mask="causal")(q, q, q, mask=jnp.tri(4, dtype=bool))
    with pytest.raises(ValueError, match="the layer passed no mask"):
        as_attention_fn(Softmax(), mask="causal")(q, q, q)


def test_what_cannot_be_honoured_is_refused():
    with pytest.raises(ValueError, match="mask='rows'"):
        as_attention_fn(Softmax(), mask="rows")
    with pytest.raises(ValueError, match="learned parameters"):
        as_attention_fn(Additive())
    q = jnp.ones((1, 4, 2, 8))
    with pytest.raises(NotImplementedError, match="qk_attn_weights_einsum"):
        as_attention_fn(Softmax())(q, q, q, qk_attn_weights_einsum=jnp.einsum)


def test_dropout_and_sown_weights_in_flax_layers():
    attention_fn = as_attention_fn(SlidingWindow(left=2, right=0))
    layer = linen_layer(attention_fn, dropout_rate=0.5, broadcast_dropout=False)
    params = layer.init(jax.random.key(1), X, deterministic=True)
    still, state = layer.apply(params, X, deterministic=True, sow_weights=True, mutable=["intermediates"])
    (weights,) = state["intermediates"]["attention_weights"]
    assert weights.shape == (2, 2, LENGTH, LENGTH) and ((weights > 0).sum(-1) <= 3).all()
    dropped = layer.apply(params, X, deterministic=False, rngs={"dropout": jax.random.key(3)})
    assert np.abs(dropped - still).max() > 1e-3
    layer = nnx_layer(attention_fn, dropout_rate=0.5, broadcast_dropout=False)
    still, state = flax.nnx.capture(layer, flax.nnx.Intermediate)(X, deterministic=True, sow_weights=True)
    assert np.abs(layer(X, deterministic=False) - still).max() > 1e-3
    assert state["attention_weights"][0].shape == (2, 2, LENGTH, LENGTH)


PLACED = {
    "dense": [Softmax(), SlidingWindow(3, 2), SlidingWindow(2, 0, 2, 1), Local(4), SparseTransformer(4, 1)],
    "causal": [Linear(), Performer(8), SlidingWindow(3, 0), Local(4)],
}


@pytest.mark.parametrize(
    ("meaning", "kernel"), [(name, kernel) for name, kernels in PLACED.items() for kernel in kernels], ids=str
)
def test_steps_of_flax_equal_the_whole(meaning, kernel):
    """Flax's cache tells where a query stands, eager and traced, in both layers."""
    attention_fn = as_attention_fn(kernel, mask=meaning)
    layer = linen_layer(attention_fn, decode=True)
    variables = layer.init(jax.random.key(1), X, mask=MASKS["causal"])
    params, cache = {"params": variables["params"]}, variables["cache"]
    whole = linen_layer(as_attention_fn(kernel, mask="causal")).apply(params, X, mask=MASKS["causal"])

    def step(cache, x):
        out, state = layer.apply(params | {"cache": cache}, x[:, None], mutable=["cache"])
        return state["cache"], out[:, 0]

    after, first = step(cache, X[:, 0])
    np.testing.assert_allclose(first, whole[:, 0], atol=1e-5)
    _, later = jax.jit(lambda cache, x: jax.lax.scan(step, cache, x))(after, jnp.moveaxis(X[:, 1:], 1, 0))
    np.testing.assert_allclose(jnp.moveaxis(later, 0, 1), whole[:, 1:], atol=1e-5)
    theirs = flax.nnx.MultiHeadAttention(2, 16, attention_fn=attention_fn, decode=True, rngs=flax.nnx.Rngs(0))
    call = flax.nnx.jit(lambda layer, x: layer(x))
    for name, tree in params["params"].items():
        for part, array in tree.items():
            setattr(getattr(theirs, name), part, flax.nnx.Param(array))
    theirs.init_cache(X.shape)
    stepped = [call(theirs, X[:, i : i + 1]) for i in range(LENGTH)]
    np.testing.assert_allclose(jnp.concatenate(stepped, axis=1), whole, atol=1e-5)


def test_a_place_is_never_guessed():
    q = jax.random.normal(jax.random.key(2), (1, LENGTH, 2, 8))
    cache = jnp.arange(LENGTH) < 7
    holes = cache & (jnp.arange(LENGTH) != 3)
    call = lambda mask, kernel=SlidingWindow(2, 0), **given: as_attention_fn(kernel, **given)(q[:, :1], q, q, mask=mask)
    for arguments, why in (
        ((None,), "it passed no mask"),
        ((holes[None],), "not that of a cache"),
        ((jnp.tri(LENGTH)[None, 4:5, ::-1],), "not that of a cache"),
    ):
        with pytest.raises(ValueError, match=f"1 queries and 10 keys, and SlidingWindow.*{why}.*`query_offset`"):
            call(*arguments)
    with pytest.raises(ValueError, match='mask="key" tells nothing of it'):
        as_attention_fn(Local(4), mask="key")(q[:, :1], q, q, mask=cache[None])
    with pytest.raises(ValueError, match="it passed no mask"):
        as_attention_fn(Softmax())(q[:, :1], q, q, is_causal=True)
    assert np.isnan(jax.jit(call)(holes[None])).all()
    told = call(None, query_offset=6)
    np.testing.assert_allclose(told, attnzoo.attend(q[:, :1], q, q, kernel=SlidingWindow(2, 0), query_offset=6))
    np.testing.assert_allclose(jax.jit(call)(cache[None]), told, atol=1e-6)
    np.testing.assert_allclose(
        as_attention_fn(Softmax())(q[:, :1], q, q, mask=cache[None], is_causal=True),
        attnzoo.attend(q[:, :1], q, q, mask=cache),
        atol=1e-6,
    )
    with pytest.raises(ValueError, match=r"query_offset=2\.5: expected a whole number"):
        as_attention_fn(Softmax(), query_offset=2.5)


def test_an_adapter_is_importable_without_flax():
    assert attnzoo.as_attention_fn is as_attention_fn
