"""Generation: greedy equals recomputing from scratch for every kernel, and sampling follows the distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo import (
    Linear,
    Local,
    NoPositions,
    Nystrom,
    Rotary,
    SlidingWindow,
    Softmax,
    SparseTransformer,
    Synthesizer,
    T5Buckets,
)
from attnzoo.models import BlockConfig, Classifier, EncoderDecoder, LanguageModel, generate
from attnzoo.models.generation import _Sampling
from attnzoo.testing.zoo import DECODING, ZOO
from tests.few import few
from tests.test_models import SMALL, TOKENS, loud

STEPS = 7


def made(config=SMALL, **given):
    return loud(LanguageModel(11, config, max_length=16, num_layers=2, **given, rngs=nnx.Rngs(0)))


call = nnx.jit(lambda model, *tokens: model(*tokens))  # once, so that prompts share a program


def recomputed(model, prompt, steps=STEPS, source=None):
    """The likeliest tokens, each from a call over the whole sequence; what stands behind a token cannot touch it."""
    first = len(prompt)
    tokens = np.zeros((1, TOKENS.shape[1] + steps if source is None else first + steps), int)
    tokens[0, :first] = prompt
    for place in range(first, first + steps):
        logits = call(model, tokens) if source is None else call(model, source, tokens)
        tokens[0, place] = np.argmax(logits[0, place - 1])
    return tokens[0, first : first + steps]


@pytest.mark.parametrize("kernel", few(DECODING, ZOO), ids=repr)
def test_greedy_equals_recomputing(kernel):
    model = made(attention=kernel)
    found = generate(model, TOKENS, STEPS, lengths=jnp.array([8, 3]))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found[0], recomputed(model, TOKENS[0]))
    np.testing.assert_array_equal(found[1], recomputed(model, TOKENS[1, :3]))


@pytest.mark.parametrize("positions", few([Rotary(), T5Buckets(num_buckets=4), NoPositions()], [Rotary()]), ids=repr)
def test_greedy_knows_positions(positions):
    config = BlockConfig(width=8, num_heads=2, num_kv_heads=1, norm="after", dropout_rate=0.3)
    model = made(config, attention=[SlidingWindow(3, 0), Softmax()], positions=positions)
    found = generate(model, TOKENS, STEPS)
    model.eval()
    for row, prompt in zip(found, TOKENS, strict=True):
        np.testing.assert_array_equal(row, recomputed(model, prompt))


CROSS = [
    Softmax(),
    Linear(),
    SlidingWindow(1, 1),
    SlidingWindow(1, 0, 2, 1),
    Local(3),
    SparseTransformer(4, 1),
    Synthesizer("random", rank=3),
]


@pytest.mark.parametrize("cross", few(CROSS, [Linear()]), ids=repr)
def test_an_encoder_decoder_reads_its_source_once(cross):
    model = loud(
        EncoderDecoder(
            11, 12, SMALL, max_source_length=9, max_length=9, num_layers=2, cross_attention=cross, rngs=nnx.Rngs(0)
        )
    )
    given = {"lengths": jnp.array([2, 1]), "source": TOKENS, "source_lengths": jnp.array([8, 5])}
    found = generate(model, TOKENS[:, :2], STEPS, **given)
    prompts = TOKENS[0, :2], TOKENS[1, :1]
    for row, source, prompt in zip(found, (TOKENS[:1], TOKENS[1:, :5]), prompts, strict=True):
        np.testing.assert_array_equal(row, recomputed(model, prompt, source=source))


def test_a_model_is_not_changed_and_nothing_is_compiled_twice():
    model = made()
    before = nnx.split(model)
    first = generate(model, TOKENS, STEPS)
    jax.tree.map(np.testing.assert_array_equal, nnx.split(model)[1], before[1])
    assert nnx.split(model)[0] == before[0]
    from attnzoo.models.generation import _generate

    size = _generate._cache_size()
    np.testing.assert_array_equal(generate(made(), TOKENS, STEPS), first)
    assert _generate._cache_size() == size


def test_after_the_stop_nothing_else_comes():
    model = made()
    free = np.asarray(generate(model, TOKENS, STEPS))
    stop = int(free[0, 2])
    found = np.asarray(generate(model, TOKENS, STEPS, stop=stop))
    for row, kept in zip(found, free, strict=True):
        end = list(kept).index(stop) if stop in kept else STEPS
        np.testing.assert_array_equal(row[:end], kept[:end])
        assert (row[end:] == stop).all()


def test_one_step():
    np.testing.assert_array_equal(generate(made(), TOKENS, 1), generate(made(), TOKENS, STEPS)[:, :1])


@pytest.mark.slow
def test_drawn_tokens_follow_the_model():
    """Frequencies of the first token over many draws are softmax(logits / temperature), among those allowed."""
    model, prompt = made(), jnp.tile(TOKENS[:1], (4000, 1))
    model.head.kernel[...] /= jnp.abs(model(TOKENS[:1])[0, -1]).max() / 2
    logits = np.asarray(model(TOKENS[:1])[0, -1], np.float64)
    for given, allowed in (({}, 11), ({"top_k": 3}, 3)):
        tokens = generate(model, prompt, 1, temperature=0.7, rng=jax.random.key(0), **given)[:, 0]
        likely = np.exp(logits / 0.7)
        likely[np.argsort(-logits)[allowed:]] = 0
        likely /= likely.sum()
        found = np.bincount(tokens, minlength=11) / len(tokens)
        np.testing.assert_allclose(found, likely, atol=0.035)
        assert (found[likely == 0] == 0).all()


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 4, 50])
def test_the_nucleus_is_the_smallest_set_that_has_the_probability(top_k, top_p):
    logits = np.random.default_rng(0).normal(size=(5, 11)) * 2
    likely, tokens = _Sampling(1.0, top_k, top_p).narrowed(jnp.asarray(logits, jnp.float32))
    for row, kept, tokens_here in zip(logits, np.isfinite(likely), np.asarray(tokens), strict=True):
        order = np.argsort(-row)[: top_k or 11]
        share = np.exp(row[order]) / np.exp(row[order]).sum()
        count = min(int(np.searchsorted(np.cumsum(share), top_p * (1 - 1e-6))) + 1, len(order))
        np.testing.assert_array_equal(np.sort(tokens_here[kept]), np.sort(order[:count]))


@pytest.mark.parametrize("given", [{"top_k": 2}, {"top_p": 0.3}, {"top_k": 4, "top_p": 0.5}], ids=repr)
def test_ties_are_cut_where_the_count_is_full(given):
    """Six tokens of one logit: two of them are two, and so is a third of the probability."""
    sampling = _Sampling(1.0, **{"top_k": None, "top_p": None} | given)
    draws = sampling(jax.random.key(0), jnp.arange(200), jnp.tile(jnp.array([0.0, 5, 5, 5, 5, 5, 5, 0]), (200, 1)))
    assert sorted(np.unique(draws)) == [1, 2]


@pytest.mark.parametrize("given", [{}, {"top_k": 3}, {"top_p": 0.9}], ids=repr)
@pytest.mark.parametrize("temperature", [1e-39, 1e-45, 5e-324, np.float32(1e-39)])
def test_no_temperature_is_too_low(temperature, given):
    sampling = _Sampling(temperature, **{"top_k": None, "top_p": None} | given)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(50, 11)), jnp.float32)
    np.testing.assert_array_equal(sampling(jax.random.key(0), jnp.arange(len(logits)), logits), logits.argmax(axis=-1))


def test_no_temperature_is_too_high():
    sampling = _Sampling(1e300, None, 0.999)
    draws = sampling(jax.random.key(0), jnp.arange(200), jnp.tile(jnp.array([0.0, 100, -100]), (200, 1)))
    assert sorted(np.unique(draws)) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_draws_know_no_batch_mates(impl):
    """Nor how many steps follow, whatever generator the key is of."""
    draw = lambda tokens, steps: generate(made(), tokens, steps, temperature=1.0, rng=jax.random.key(0, impl=impl))
    whole = draw(TOKENS, STEPS)
    np.testing.assert_array_equal(draw(TOKENS[:1], STEPS), whole[:1])
    np.testing.assert_array_equal(draw(TOKENS, 3), whole[:, :3])


def test_draws_repeat_by_key():
    model = made()
    draw = lambda seed: generate(model, TOKENS, STEPS, temperature=1.0, rng=jax.random.key(seed))
    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()


BAD = {
    r"prompt has shape \[1, 0\]: expected at least one example and one token": lambda model: generate(
        model, jnp.zeros((1, 0), int), 3
    ),
    r"prompt has shape \[0, 4\]: expected at least one example": lambda model: generate(
        model, jnp.zeros((0, 4), int), 3
    ),
    r"prompt is float32\[2, 8\]: expected integers": lambda model: generate(model, TOKENS * 1.0, 3),
    r"prompt has 8 tokens and steps=9 follow: the model was built for at most 16": lambda model: generate(
        model, TOKENS, 9
    ),
    r"prompt has tokens from 1 to 11: expected those of the model, 0..10": lambda model: generate(
        model, TOKENS.at[0, 0].set(11), 3
    ),
    r"steps=0: expected an integer >= 1": lambda model: generate(model, TOKENS, 0),
    r"lengths are \[0, 3\]: expected at least one token of each prompt": lambda model: generate(
        model, TOKENS, 3, lengths=jnp.array([0, 3])
    ),
    r"lengths ranges from 3 to 9: expected lengths within 0..8": lambda model: generate(
        model, TOKENS, 3, lengths=jnp.array([9, 3])
    ),
    r"temperature=-1: expected a finite number >= 0": lambda model: generate(model, TOKENS, 3, temperature=-1),
    r"temperature=1.0 without rng: pass rng=jax.random.key": lambda model: generate(model, TOKENS, 3, temperature=1.0),
    "rng came, and temperature is 0": lambda model: generate(model, TOKENS, 3, rng=jax.random.key(0)),
    r"top_k=3 with temperature=0: pass a temperature > 0": lambda model: generate(model, TOKENS, 3, top_k=3),
    r"top_k=0: expected an integer >= 1": lambda model: generate(model, TOKENS, 3, temperature=1.0, top_k=0),
    r"top_p=0: expected a number in \(0, 1\]": lambda model: generate(model, TOKENS, 3, temperature=1.0, top_p=0),
    r"stop=11: expected a token, 0..10": lambda model: generate(model, TOKENS, 3, stop=11),
    r"source came with a LanguageModel": lambda model: generate(model, TOKENS, 3, source=TOKENS),
    r"source=None: an EncoderDecoder needs": lambda _: generate(
        EncoderDecoder(11, 12, SMALL, max_source_length=8, max_length=12, num_layers=1, rngs=nnx.Rngs(0)), TOKENS, 3
    ),
    r"source has 1 examples: expected 2": lambda _: generate(
        EncoderDecoder(11, 12, SMALL, max_source_length=8, max_length=12, num_layers=1, rngs=nnx.Rngs(0)),
        TOKENS,
        3,
        source=TOKENS[:1],
    ),
    r"model has is_causal=False": lambda _: generate(made(is_causal=False), TOKENS, 3),
    r"model is a Classifier: expected a LanguageModel or an EncoderDecoder": lambda _: generate(
        Classifier(11, 2, SMALL, max_length=8, num_layers=1, rngs=nnx.Rngs(0)), TOKENS, 3
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        BAD[message](made())


def test_steps_need_a_cache_of_their_batch():
    model = made()
    with pytest.raises(ValueError, match="there is no cache: call `init_cache`"):
        model.step(TOKENS)
    with pytest.raises(ValueError, match="batch=0: expected at least one example"):
        model.init_cache(0, 4)
    with pytest.raises(ValueError, match=r"length=17: expected 1..16, the longest that the model was built for"):
        model.init_cache(2, 17)
    model.init_cache(1, 9)
    with pytest.raises(ValueError, match="tokens are a batch of 2: the cache was made for 1"):
        model.step(TOKENS)
    nnx.jit(type(model).step)(model, TOKENS[:1])
    with pytest.raises(ValueError, match="would reach 10"):
        model.step(TOKENS[:1, :2])
    with pytest.raises(NotImplementedError, match="Nystrom cannot honour `decode=True`"):
        made(attention=Nystrom(), is_causal=False).init_cache(1, 4)
