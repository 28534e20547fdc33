"""What tokens bring beside key and value: the laws, NumPy in float64, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnzoo
from attnzoo import (
    Delta,
    Forgetting,
    GatedDelta,
    KimiDelta,
    Recurrent,
    Softmax,
    StateSpace,
    attend,
    attention_weights,
    start,
    step,
)
from attnzoo.testing import LAWS, check_law, probe_kernel
from tests.few import few
from tests.gated_kernels import GatedSoftmax, Replayed
from tests.gated_operands import DIM, HEADS, KV_HEADS, given

LENGTH = 11
# Where tokens are moved, hidden, shared or stepped.
QUICK = (
    "shape_and_dtype_are_kept",
    "every_operand_counts",
    "hidden_keys_touch_nothing",
    "padding_changes_nothing",
    "batch_mates_cannot_touch_each_other",
    "masks_hide",
    "keys_of_another_length",
    "shared_key_heads_equal_repeated_ones",
    "stepping_equals_the_whole",
    "calls_at_an_offset_equal_the_whole",
    "a_state_has_an_end",
)


@pytest.mark.parametrize("name", few(LAWS, QUICK))
def test_law(name):
    check_law(Replayed(), name)


def test_probes_serve_them():
    probe_kernel(Replayed(), 16, is_causal=True, is_padded=True)


def expected(q, k, v, log_decay, beta):
    """Token after token, one head after another."""
    out = np.zeros_like(q)
    for b, n in np.ndindex(len(q), HEADS):
        state = np.zeros((DIM, DIM))
        for t in range(LENGTH):
            key, value = k[b, t, n // 2], v[b, t, n // 2]
            of = lambda x, b=b, t=t, n=n: x[b, t, n if x.shape[2] == HEADS else n // 2]
            key, state = key / np.sqrt(1 + key @ key), state * np.exp(of(log_decay))
            state = state + of(beta) * np.outer(key, value - key @ state)
            out[b, t, n] = q[b, t, n] @ state
    return out


@pytest.mark.parametrize("heads", [HEADS, KV_HEADS])
def test_values_and_gradients_are_those_of_the_recurrence(heads):
    kernel = Replayed()
    operands, tokens = given(kernel, LENGTH, heads=heads)
    with jax.enable_x64(True):
        call = lambda operands, tokens: attend(*operands, kernel=kernel, tokens=tokens, is_causal=True)
        np.testing.assert_allclose(call(operands, tokens), expected(*operands, **tokens), atol=1e-9)
        slopes = jax.grad(lambda tokens: call(operands, tokens).sum())(jax.tree.map(jnp.asarray, tokens))
        rng = np.random.default_rng(1)
        for name, slope in slopes.items():
            direction = rng.normal(size=slope.shape)
            ahead, behind = (
                expected(*operands, **tokens | {name: tokens[name] + s * direction}) for s in (1e-6, -1e-6)
            )
            assert np.sum(slope * direction) == pytest.approx((ahead - behind).sum() / 2e-6, rel=1e-5)


@pytest.mark.every_kernel
@pytest.mark.parametrize("kernel", [Replayed(), KimiDelta(), StateSpace(), Forgetting()], ids=repr)
def test_zero_means_that_nothing_happens(kernel):
    (q, k, v), tokens = given(kernel, LENGTH)
    hidden = {name: x.at[:, 4:7].set(0) for name, x in jax.tree.map(jnp.asarray, tokens).items()}
    absent = np.r_[0:4, 7:LENGTH]
    q, k, v = (jnp.asarray(x, jnp.float32) for x in (q, k, v))
    k, v = (x.at[:, 4:7].set(0) for x in (k, v))
    shown = jnp.ones((2, LENGTH), bool).at[:, 4:7].set(isinstance(kernel, Recurrent | Replayed))
    out = attend(q, k, v, kernel=kernel, tokens=hidden, is_causal=True, key_mask=shown)[:, absent]
    fewer = {name: x[:, absent] for name, x in hidden.items()}
    short = attend(*(x[:, absent] for x in (q, k, v)), kernel=kernel, tokens=fewer, is_causal=True)
    np.testing.assert_allclose(out, short, atol=1e-6)


@pytest.mark.every_kernel
@pytest.mark.parametrize("kernel", [Replayed(), GatedSoftmax()], ids=repr)
def test_garbage_in_hidden_tokens_touches_nothing(kernel):
    operands, tokens = given(kernel, LENGTH)
    operands = [jnp.asarray(x, jnp.float32) for x in operands]
    lengths = jnp.array([6, LENGTH])
    call = lambda tokens: attend(*operands, kernel=kernel, tokens=tokens, is_causal=True, key_value_seq_lengths=lengths)
    clean = {name: jnp.asarray(x, jnp.float32) for name, x in tokens.items()}
    dirty = {name: x.at[0, 6:].set(jnp.nan) for name, x in clean.items()}
    np.testing.assert_array_equal(call(dirty), call(clean))
    slopes = jax.grad(lambda tokens: call(tokens).sum())(dirty)
    assert all((x[0, 6:] == 0).all() and np.isfinite(x).all() for x in slopes.values())


def test_one_example_and_its_weights():
    operands, tokens = given(Replayed(), LENGTH)
    q, k, v = (jnp.asarray(x, jnp.float32)[0] for x in operands)
    own = {name: jnp.asarray(x, jnp.float32)[0] for name, x in tokens.items()}
    out = attend(q, k, v, kernel=Replayed(), tokens=own, is_causal=True)
    weights = attention_weights(q, k, kernel=Replayed(), tokens=own, is_causal=True)
    np.testing.assert_allclose(jnp.einsum("nts,snh->tnh", weights, jnp.repeat(v, 2, axis=1)), out, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (None, ValueError, "tokens lacks 'log_decay', which Replayed"),
        ({"log_decay": (2, 11, 4)}, ValueError, "tokens lacks 'beta'"),
        ({"log_decay": (2, 11, 4), "beta": (2, 11, 4), "gate": (2, 11, 4)}, NotImplementedError, r"`tokens\['gate'\]`"),
        ({"log_decay": (2, 11, 3), "beta": (2, 11, 4)}, ValueError, r"\(2, 11, 3\): expected \[2, 11, 4 or 2\]"),
        ({"log_decay": (2, 11, 4), "beta": (2, 11, 4, 3)}, ValueError, r"tokens\['beta'\] has shape"),
        ([1, 2], ValueError, "tokens has type list: expected a mapping"),
    ],
)
def test_refusals(tokens, error, message):
    (q, k, v), _ = given(Replayed(), LENGTH)
    tokens = {name: jnp.zeros(shape) for name, shape in tokens.items()} if isinstance(tokens, dict) else tokens
    with pytest.raises(error, match=message):
        attend(q, k, v, kernel=Replayed(), tokens=tokens, is_causal=True)


def test_what_is_no_mapping_is_refused_without_a_batch_too():
    x = jnp.ones((3, 2, 4))
    with pytest.raises(ValueError, match="tokens has type list: expected a mapping"):
        attend(x, x, x, kernel=Delta(), tokens=[1], is_causal=True)


def test_kernels_and_steps_refuse_what_they_do_not_take():
    (q, k, v), tokens = given(Delta(), LENGTH)
    with pytest.raises(NotImplementedError, match=r"Softmax cannot honour .*nothing of tokens beside key and value"):
        attend(q, k, v, kernel=Softmax(), tokens=tokens)
    state = start(batch=2, num_heads=4, num_key_value_heads=2, head_dim=3, max_length=11, kernel=Delta())
    with pytest.raises(ValueError, match="tokens lacks 'beta'"):
        step(state, q, k, v)
    whole = {"beta": jnp.ones((2, 11, 4), int)}
    with pytest.raises(ValueError, match="dtype int32: expected a floating"):
        step(state, q, k, v, tokens=whole)


X = jax.random.normal(jax.random.key(0), (2, 9, 8))


def loud(params):
    """Parameters moved from where biases start at zero."""
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), params)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [Replayed(), GatedDelta()], ids=repr)
def test_both_layers_project_what_tokens_bring(kernel):
    """In one parameter tree, with equal outputs, whole and step by step."""
    from flax import nnx

    import attnzoo.linen
    import attnzoo.nnx

    sizes = {"num_heads": 4, "num_kv_heads": 2, "qkv_features": 12, "attention": kernel}
    linen = attnzoo.linen.MultiHeadAttention(**sizes)
    params = loud(linen.init(jax.random.key(1), X, is_causal=True))
    own = {f"token_{name}" for name in kernel.token_inputs(attnzoo.Dims(2, 9, 9, 4, 2, 3, 3))}
    assert set(params["params"]) == {"query", "key", "value", "out"} | own
    layer = attnzoo.nnx.MultiHeadAttention(in_features=8, **sizes, rngs=nnx.Rngs(0))
    state = nnx.state(layer, nnx.Param)
    nnx.update(layer, jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(params["params"])))
    whole = linen.apply(params, X, is_causal=True)
    np.testing.assert_allclose(layer(X, is_causal=True), whole, atol=1e-5)
    layer.init_cache((2, 9, 8))
    steps = [layer(X[:, :4], decode=True), *(layer(X[:, i : i + 1], decode=True) for i in range(4, 9))]
    np.testing.assert_allclose(jnp.concatenate(steps, axis=1), whole, atol=1e-5)
    stepping = attnzoo.linen.MultiHeadAttention(**sizes, decode=True)
    cache = stepping.init(jax.random.key(1), X)["cache"]
    first, after = stepping.apply(params | {"cache": cache}, X[:, :5], mutable=["cache"])
    last, _ = stepping.apply(params | after, X[:, 5:], mutable=["cache"])
    np.testing.assert_allclose(jnp.concatenate([first, last], axis=1), whole, atol=1e-5)


@pytest.mark.slow
def test_more_batch_axes_and_a_gradient_for_every_projection():
    import attnzoo.linen

    layer = attnzoo.linen.MultiHeadAttention(num_heads=2, attention=Replayed())
    params = layer.init(jax.random.key(1), X, is_causal=True)
    call = lambda params, x: layer.apply(params, x, is_causal=True)
    np.testing.assert_allclose(call(params, X[None, :, None])[0, :, 0], call(params, X), atol=1e-6)
    slopes = jax.grad(lambda params: jnp.sum(call(params, X) ** 2))(params)["params"]
    assert all(np.abs(slopes[name]["kernel"]).max() > 0 for name in ("token_log_decay", "token_beta"))


def test_a_model_of_them_generates_what_it_recomputes():
    from flax import nnx

    from attnzoo.models import BlockConfig, LanguageModel, generate

    config = BlockConfig(width=8, num_heads=2)
    model = LanguageModel(11, config, max_length=9, num_layers=2, attention=Replayed(), rngs=nnx.Rngs(0))
    nnx.update(model, loud(nnx.state(model, nnx.Param)))
    tokens = jnp.array([[3, 1, 4, 1, 5, 0, 0, 0, 0]])
    found = generate(model, tokens[:, :5], 4)
    for place in range(5, 9):
        tokens = tokens.at[0, place].set(jnp.argmax(model(tokens)[0, place - 1]))
    np.testing.assert_array_equal(found[0], tokens[0, 5:])


@pytest.mark.slow
def test_a_decoder_remembers_what_the_tokens_of_its_source_bring():
    from flax import nnx

    from attnzoo.models import BlockConfig, EncoderDecoder, generate

    given = {"encoder_attention": GatedSoftmax(), "cross_attention": GatedSoftmax()}
    sizes = {"max_source_length": 7, "max_length": 6, "num_layers": 1}
    model = EncoderDecoder(11, 12, BlockConfig(width=8, num_heads=2), **sizes, **given, rngs=nnx.Rngs(0))
    nnx.update(model, loud(nnx.state(model, nnx.Param)))
    source, tokens = jnp.array([[3, 1, 4, 1, 5, 9, 2]]), jnp.array([[7, 2, 0, 0, 0, 0]])
    found = generate(model, tokens[:, :2], 4, source=source)
    for place in range(2, 6):
        tokens = tokens.at[0, place].set(jnp.argmax(model(source, tokens)[0, place - 1]))
    np.testing.assert_array_equal(found[0], tokens[0, 2:])


def test_layers_of_flax_cannot_serve_them():
    with pytest.raises(ValueError, match="wants 'log_decay', 'beta' of every token"):
        attnzoo.as_attention_fn(Replayed(), mask="causal")


@pytest.mark.parametrize("kernel", [KimiDelta(), StateSpace()], ids=repr)
def test_layers_start_from_published_decays(kernel):
    """With whatever biases a layer has else: at first a token keeps e^(-rate step), rates to 16, steps to 0.1."""
    from flax import nnx

    import attnzoo.linen
    import attnzoo.nnx

    nothing, sizes = jnp.zeros((1, 2, 64)), {"num_heads": 4, "use_bias": False, "attention": kernel}
    params = attnzoo.linen.MultiHeadAttention(**sizes).init(jax.random.key(1), nothing, is_causal=True)["params"]
    layer = attnzoo.nnx.MultiHeadAttention(in_features=64, **sizes, rngs=nnx.Rngs(0))
    assert set(params["query"]) == {"kernel"} and layer.query.bias is None
    for bias in (params["token_log_decay"]["bias"], layer.token_log_decay.bias[...]):
        decays = jax.nn.softplus(bias)
        assert 1e-4 * 0.99 <= decays.min() < 0.1 < decays.max() <= 1.61
