"""Models: any kernel in any slot that it can serve, padding that touches nothing, and parts as the papers have them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo import (
    Additive,
    ALiBi,
    BigBird,
    Linear,
    Linformer,
    NoPositions,
    Nystrom,
    Performer,
    Rotary,
    SinusoidalPositions,
    SlidingWindow,
    Softmax,
    parse_positions,
    sinusoidal,
)
from attnzoo.models import BlockConfig, Classifier, EncoderDecoder, LanguageModel
from attnzoo.testing.zoo import ZOO
from tests.test_contract import DeltaRule

SMALL = BlockConfig(width=8, num_heads=2)
TOKENS = jnp.array([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]])
language_model = functools.partial(LanguageModel, 11, max_length=9, num_layers=2)
encoder_decoder = functools.partial(EncoderDecoder, 11, 12, SMALL, max_source_length=9, max_length=7, num_layers=2)


def loud(model):
    """The model with larger weights: what is learned starts small, and would hide differences."""
    nnx.update(model, jax.tree.map(lambda x: 8 * x if x.ndim > 1 else x, nnx.state(model, nnx.Param)))
    return model


def test_a_model_mixes_kernels_and_is_causal():
    model = language_model(SMALL, attention=[Softmax(), SlidingWindow(2, 0)], rngs=nnx.Rngs(0))
    tokens = jnp.arange(9)[None]
    np.testing.assert_array_equal(model(tokens)[:, :5], model(tokens.at[:, 5:].set(0))[:, :5])
    assert [block.attention.attention_kernel for block in model.stack.blocks] == [Softmax(), SlidingWindow(2, 0)]
    with pytest.raises(ValueError, match="tokens have length 10"):
        model(jnp.zeros((1, 10), int))


@pytest.mark.parametrize("positions", parse_positions("all"), ids=repr)
def test_a_model_with_any_positions(positions):
    """Without them, and looking both ways, tokens that change places take their outputs along."""
    model = loud(language_model(SMALL, positions=positions, is_causal=False, rngs=nnx.Rngs(0)))
    order = np.array([1, 0, 2, 3, 7, 5, 6, 4])
    moved = np.abs(model(TOKENS)[:, order] - model(TOKENS[:, order])).max()
    assert moved < 1e-4 if isinstance(positions, NoPositions) else moved > 1e-3
    learned = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)) if "position" in str(path)]
    inside = [("stack", "blocks", block, "attention", "positions") for block in (0, 1)]
    expected = {"LearnedPositions": [("embedding", "position")], "T5Buckets": inside, "Shaw": inside}
    assert learned == expected.get(type(positions).__name__, [])


def test_absolute_positions_are_added_to_embeddings():
    model = LanguageModel(
        11, SMALL, max_length=9, num_layers=0, positions=SinusoidalPositions(scale=0.5), rngs=nnx.Rngs(0)
    )
    x = model.embedding.embed(TOKENS[:, :3]) + 0.5 * sinusoidal(jnp.arange(3), 8)
    np.testing.assert_allclose(model(TOKENS[:, :3]), model.head(model.stack.norm(x)), atol=1e-6)


@pytest.mark.parametrize("norm", ["before", "after"])
def test_a_block_is_that_of_its_paper(norm):
    """x + part(norm(x)) or norm(x + part(x)), twice, with relu between two layers of the given width."""
    config = BlockConfig(width=8, num_heads=2, feed_forward=5, norm=norm, activation="relu")
    block = LanguageModel(11, config, max_length=9, num_layers=1, rngs=nnx.Rngs(0)).stack.blocks[0]
    x = jax.random.normal(jax.random.key(0), (2, 6, 8))
    feed_forward = block.feed_forward
    assert feed_forward.widen.kernel.shape == (8, 5)
    narrow = lambda x: feed_forward.narrow(jnp.maximum(feed_forward.widen(x), 0))
    attend = lambda x: block.attention(x, is_causal=True)
    first, second = block.attention_norm, block.feed_forward_norm
    if norm == "before":
        middle = x + attend(first(x))
        expected = middle + narrow(second(middle))
    else:
        middle = first(x + attend(x))
        expected = second(middle + narrow(middle))
    np.testing.assert_allclose(block(x, is_causal=True), expected, atol=1e-6)


@pytest.mark.parametrize("activation", ["swiglu", "geglu"])
def test_a_block_with_norms_around_parts_and_a_gate(activation):
    """x + norm(part(norm(x))), by the root of the mean square, capped scores, and narrow(act(gate x) * widen x)."""
    given = {"norm": "both", "norm_kind": "rms", "activation": activation, "soft_cap": 0.1, "logits_soft_cap": 0.5}
    config = BlockConfig(width=8, num_heads=2, feed_forward=5, **given)
    model = loud(LanguageModel(11, config, max_length=9, num_layers=1, rngs=nnx.Rngs(0)))
    block = model.stack.blocks[0]
    x = jax.random.normal(jax.random.key(0), (2, 6, 8))
    of, rms = block.feed_forward, lambda x: x / np.sqrt((np.asarray(x) ** 2).mean(-1, keepdims=True) + 1e-6)
    gate = {"swiglu": jax.nn.silu, "geglu": jax.nn.gelu}[activation]
    middle = x + rms(block.attention(rms(x), is_causal=True, soft_cap=0.1))
    expected = middle + rms(of.narrow(gate(of.widen_gate(rms(middle))) * of.widen(rms(middle))))
    np.testing.assert_allclose(block(x, is_causal=True), expected, atol=1e-4)
    hidden = model.stack(model.embedding(TOKENS))
    np.testing.assert_allclose(model(TOKENS), 0.5 * np.tanh(model.head(hidden) / 0.5), atol=1e-5)
    model.init_cache(2, 8)
    np.testing.assert_allclose(model.step(TOKENS), model(TOKENS), atol=1e-4)


def test_blocks_may_differ_but_not_in_what_a_model_has_once():
    configs = [SMALL, dataclasses.replace(SMALL, gate="sigmoid", feed_forward=7)]
    model = language_model(configs, rngs=nnx.Rngs(0))
    assert [block.config for block in model.stack.blocks] == configs
    assert [block.attention.of_heads.gate for block in model.stack.blocks] == [None, "sigmoid"]
    with pytest.raises(ValueError, match="config: width=16 in block 1 and 8 in block 0"):
        language_model([SMALL, dataclasses.replace(SMALL, width=16)], rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="config lists 1: expected one for each of 2 blocks"):
        language_model([SMALL], rngs=nnx.Rngs(0))


def test_only_norms_before_parts_need_a_last_one():
    for norm, is_there in (("before", True), ("after", False), ("both", True)):
        model = language_model(BlockConfig(width=8, num_heads=2, norm=norm), rngs=nnx.Rngs(0))
        assert (model.stack.norm is not None) == is_there


READERS = [Softmax(), BigBird(block_size=2), Performer(8), Linformer(4), Nystrom(4)]


@pytest.mark.parametrize(
    "kernel, pooling",
    [(x, "mean") for x in READERS] + [pytest.param(x, "cls", marks=pytest.mark.slow) for x in READERS],
    ids=str,
)
def test_a_classifier_does_not_see_padding(kernel, pooling):
    given = {"max_length": 8, "num_layers": 2, "attention": kernel, "pooling": pooling}
    model = loud(Classifier(11, 3, SMALL, **given, rngs=nnx.Rngs(0)))
    lengths = jnp.array([8, 5])
    logits = model(TOKENS, lengths=lengths)
    assert logits.shape == (2, 3)
    np.testing.assert_array_equal(model(TOKENS.at[1, 5:].set(0), lengths=lengths), logits)
    np.testing.assert_allclose(model(TOKENS[1:, :5]), logits[1:], atol=1e-4)
    assert np.abs(model(TOKENS) - logits)[1].max() > 1e-3
    np.testing.assert_allclose(model(TOKENS)[0], logits[0], atol=1e-4)


def test_mean_pooling_is_the_mean_and_cls_the_first():
    model = Classifier(11, 3, SMALL, max_length=8, num_layers=1, rngs=nnx.Rngs(0))
    x = model.stack(model.embedding(TOKENS), lengths=jnp.array([8, 5]))
    expected = model.head(jnp.stack([x[0].mean(axis=0), x[1, :5].mean(axis=0)]))
    np.testing.assert_allclose(model(TOKENS, lengths=jnp.array([8, 5])), expected, atol=1e-6)
    model = Classifier(11, 3, SMALL, max_length=8, num_layers=1, pooling="cls", rngs=nnx.Rngs(0))
    first = jnp.broadcast_to(model.cls[...], (2, 1, 8))
    x = model.stack(jnp.concatenate([first, model.embedding(TOKENS)], axis=1))
    np.testing.assert_allclose(model(TOKENS), model.head(x[:, 0]), atol=1e-6)


PAIRS = jnp.stack([TOKENS, TOKENS[::-1, ::-1]], axis=1)


@pytest.mark.parametrize(
    ("pairing", "pooling"), [("joined", "cls"), pytest.param("compared", "mean", marks=pytest.mark.slow)]
)
def test_a_pair_is_two_documents_that_one_encoder_reads(pairing, pooling):
    """Each by itself, as far as it is long; then what is made of both meets one hidden layer."""
    config = BlockConfig(width=8, num_heads=2, feed_forward=40)
    given = {"max_length": 8, "num_layers": 1, "pooling": pooling, "pairing": pairing}
    model = loud(Classifier(11, 3, config, **given, rngs=nnx.Rngs(0)))
    lengths = jnp.array([[8, 5], [3, 8]])
    logits = model(PAIRS, lengths=lengths)
    assert logits.shape == (2, 3) and logits.dtype == jnp.float32
    np.testing.assert_array_equal(model(PAIRS.at[0, 1, 5:].set(0), lengths=lengths), logits)
    assert np.abs(model(PAIRS.at[0, 1, :5].set(7), lengths=lengths) - logits)[0].max() > 1e-3

    head, model.head = model.head, lambda x: x.reshape(-1, 8)  # what the encoder says of each document
    x, y = (model(PAIRS, lengths=lengths).reshape(2, 2, 8)[:, document] for document in (0, 1))
    alone = model(jnp.stack([PAIRS[:, 1]] * 2, axis=1), lengths=jnp.stack([lengths[:, 1]] * 2, axis=1))
    np.testing.assert_allclose(alone.reshape(2, 2, 8)[:, 0], y, atol=1e-5)
    features = jnp.concatenate([x, y] if pairing == "joined" else [x, y, x * y, x - y], axis=1)
    assert head.hidden.kernel.shape == (features.shape[1], 40)
    expected = head.out(jnp.maximum(head.hidden(features), 0))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("pairing", "tokens", "expected"),
    [
        (None, PAIRS, r"\[B, T\]"),
        ("joined", TOKENS, r"\[B, 2, T\]"),
        ("compared", jnp.concatenate([PAIRS, PAIRS], axis=1), r"\[B, 2, T\]"),
    ],
)
def test_a_model_of_pairs_takes_pairs_alone(pairing, tokens, expected):
    model = Classifier(11, 3, SMALL, max_length=8, num_layers=0, pairing=pairing, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=rf"tokens have shape \(2, .*8\): expected {expected}"):
        model(tokens)


@pytest.mark.parametrize(("pairing", "tokens"), [(None, TOKENS), ("joined", PAIRS)])
def test_lengths_are_those_of_the_documents(pairing, tokens):
    model = Classifier(11, 3, SMALL, max_length=8, num_layers=0, pairing=pairing, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"lengths have shape \(1, 4\): expected one for each document, \(2"):
        model(tokens, lengths=jnp.ones((1, 4), int))


@pytest.mark.parametrize("cross", [Softmax(), Additive(4), Linear(), Linformer(4)], ids=repr)
def test_an_encoder_decoder_sees_its_source_and_only_earlier_targets(cross):
    model = loud(encoder_decoder(cross_attention=cross, encoder_attention=Nystrom(4), rngs=nnx.Rngs(0)))
    source, target, lengths = TOKENS, TOKENS[:, :6], jnp.array([8, 5])
    logits = model(source, target, source_lengths=lengths)
    assert logits.shape == (2, 6, 12)
    np.testing.assert_array_equal(model(source.at[1, 5:].set(0), target, source_lengths=lengths), logits)
    moved = np.abs(model(source.at[:, 0].set(0), target, source_lengths=lengths) - logits)
    assert moved.min(axis=(1, 2)).max() > 0
    np.testing.assert_array_equal(model(source, target.at[:, 4:].set(0), source_lengths=lengths)[:, :4], logits[:, :4])
    assert np.abs(model(source, target.at[:, 0].set(0), source_lengths=lengths) - logits)[:, -1].max() > 1e-3


REFUSED = {
    r"Nystrom cannot serve as causal self-attention of decoder block 1, which needs `causal`: .* Kernels": lambda: (
        language_model(SMALL, attention=[Softmax(), Nystrom()], rngs=nnx.Rngs(0))
    ),
    r"DeltaRule cannot serve as self-attention of encoder block 0, which needs `bidirectional`": lambda: language_model(
        SMALL, attention=DeltaRule(), is_causal=False, rngs=nnx.Rngs(0)
    ),
    r"Performer cannot serve as causal self-attention with ALiBi\(\) of decoder block 0, which needs `bias`": lambda: (
        language_model(SMALL, attention=Performer(8), positions=ALiBi(), rngs=nnx.Rngs(0))
    ),
    "BigBird cannot serve as cross-attention of decoder block 1, which needs `cross`": lambda: encoder_decoder(
        cross_attention=[Softmax(), BigBird()], rngs=nnx.Rngs(0)
    ),
    "Linformer cannot serve as causal self-attention of decoder block 0": lambda: encoder_decoder(
        decoder_attention=Linformer(), rngs=nnx.Rngs(0)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_kernel_that_cannot_serve_is_refused_when_the_model_is_built(message):
    with pytest.raises(NotImplementedError, match=message):
        REFUSED[message]()


@pytest.mark.parametrize("kernel", ZOO, ids=repr)
def test_a_kernel_that_is_taken_serves(kernel):
    """What a build does not refuse runs: both directions, and across."""
    for is_causal in (True, False):
        if kernel.supports.causal if is_causal else kernel.supports.bidirectional:
            model = language_model(SMALL, attention=kernel, is_causal=is_causal, rngs=nnx.Rngs(0))
            assert np.isfinite(model(TOKENS)).all()
    if kernel.supports.cross and kernel.supports.bidirectional:
        model = encoder_decoder(cross_attention=kernel, rngs=nnx.Rngs(0))
        assert np.isfinite(model(TOKENS, TOKENS[:, :3])).all()


@pytest.mark.slow
def test_remat_changes_no_gradient_and_keeps_less():
    """What the forward pass leaves to the backward pass are the leaves of the pulled-back function."""

    def pulled(remat):
        model = language_model(BlockConfig(width=8, num_heads=2, remat=remat), rngs=nnx.Rngs(0))
        graph, state = nnx.split(model)
        _, back = jax.vjp(lambda state: nnx.merge(graph, state)(TOKENS), state)
        return back(jnp.ones((2, 8, 11)))[0], sum(x.size for x in jax.tree.leaves(back))

    (plain, much), (again, less) = pulled(False), pulled(True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), again, plain)
    assert less < 0.5 * much


def test_activations_are_narrow_and_parameters_are_not():
    model = language_model(BlockConfig(width=8, num_heads=2, dtype="bfloat16"), positions=Rotary(), rngs=nnx.Rngs(0))
    assert model(TOKENS).dtype == jnp.float32
    assert model.stack(model.embedding(TOKENS)).dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(nnx.state(model, nnx.Param))} == {jnp.dtype("float32")}
    exact = language_model(SMALL, positions=Rotary(), rngs=nnx.Rngs(0))(TOKENS)
    np.testing.assert_allclose(model(TOKENS), exact, atol=0.1)


@pytest.mark.parametrize("stddev", [0.02, 1.0])
def test_embeddings_start_as_large_as_is_said(stddev):
    config = BlockConfig(width=64, num_heads=2, embedding_stddev=stddev)
    decoder = language_model(config, rngs=nnx.Rngs(0))
    encoder = Classifier(100, 2, config, max_length=8, num_layers=1, pooling="cls", rngs=nnx.Rngs(0))
    drawn = [decoder.embedding.embed.embedding, encoder.embedding.embed.embedding, encoder.cls]
    assert all(abs(float(x[...].std()) / stddev - 1) < 0.3 for x in drawn)


def test_dropout_is_for_training():
    model = language_model(BlockConfig(width=8, num_heads=2, dropout_rate=0.5), rngs=nnx.Rngs(0))
    model.train()
    assert np.abs(model(TOKENS) - model(TOKENS)).max() > 1e-3
    model.eval()
    plain = language_model(SMALL, rngs=nnx.Rngs(0))
    nnx.update(plain, nnx.state(model, nnx.Param))
    np.testing.assert_array_equal(model(TOKENS), plain(TOKENS))


def test_tied_logits_are_products_with_embeddings():
    model = language_model(SMALL, is_tied=True, rngs=nnx.Rngs(0))
    x = model.stack(model.embedding(TOKENS))
    np.testing.assert_allclose(model(TOKENS), x @ model.embedding.embed.embedding[...].T, atol=1e-6)
    assert model.head is None and all("head" not in path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)))
    model.init_cache(len(TOKENS), TOKENS.shape[1])
    np.testing.assert_allclose(model.step(TOKENS), model(TOKENS), atol=1e-5)


def test_weights_of_every_layer_can_be_looked_at():
    model = language_model(SMALL, attention=[Softmax(), Performer(8)], rngs=nnx.Rngs(0))
    _, sown = nnx.capture(model, nnx.Intermediate)(TOKENS, sow_weights=True)
    weights = jax.tree.leaves(sown)
    assert [x.shape for x in weights] == [(2, 2, 8, 8)] * 2
    for x in weights:
        np.testing.assert_allclose(x.sum(axis=-1), 1, atol=1e-4)


BAD = {
    r"attention lists 1 kernels: expected one for each of 2 blocks": lambda: language_model(
        SMALL, attention=[Softmax()], rngs=nnx.Rngs(0)
    ),
    r"^attention='softmax' is a string: .*attnzoo.parse": lambda: language_model(
        SMALL, attention="softmax", rngs=nnx.Rngs(0)
    ),
    r"^attention=SlidingWindow is a class: .* such as SlidingWindow\(\)": lambda: language_model(
        SMALL, attention=SlidingWindow, rngs=nnx.Rngs(0)
    ),
    r"^cross_attention=None: expected an instance of attnzoo.Kernel": lambda: encoder_decoder(
        cross_attention=None, rngs=nnx.Rngs(0)
    ),
    r"^attention\[1\]=Softmax is a class": lambda: Classifier(
        11, 3, SMALL, max_length=8, num_layers=2, attention=[Softmax(), Softmax], rngs=nnx.Rngs(0)
    ),
    r"pooling='max': expected one of mean, cls": lambda: Classifier(
        11, 3, SMALL, max_length=8, num_layers=1, pooling="max", rngs=nnx.Rngs(0)
    ),
    r"pairing='product': expected one of joined, compared, or None": lambda: Classifier(
        11, 3, SMALL, max_length=8, num_layers=1, pairing="product", rngs=nnx.Rngs(0)
    ),
    r"positions=None: expected an instance such as": lambda: language_model(SMALL, positions=None, rngs=nnx.Rngs(0)),
    r"num_heads=3\): num_heads must divide width": lambda: BlockConfig(width=8, num_heads=3),
    r"num_kv_heads=3\): num_kv_heads must divide num_heads": lambda: BlockConfig(width=8, num_heads=4, num_kv_heads=3),
    r"embedding_stddev=0\): embedding_stddev must be a finite": lambda: BlockConfig(
        width=8, num_heads=2, embedding_stddev=0
    ),
    r"norm='post'\): norm must be one of before, after": lambda: BlockConfig(width=8, num_heads=2, norm="post"),
    r"dropout_rate=1.0\): expected a number in \[0, 1\)": lambda: BlockConfig(width=8, num_heads=2, dropout_rate=1.0),
    r"dtype='int8'\): dtype must be one of float32": lambda: BlockConfig(width=8, num_heads=2, dtype="int8"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()
