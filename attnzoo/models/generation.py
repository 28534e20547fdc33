"""Text from a model: a prompt, then one token after another, in one scan over the model's `step`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from attnzoo.contract import randomness
from attnzoo.contract.fields import is_integer, is_number
from attnzoo.door import meshes, validation
from attnzoo.door.meshes import Split
from attnzoo.layers import products
from attnzoo.models.transformer import EncoderDecoder, LanguageModel


def generate(
    model: LanguageModel | EncoderDecoder,
    prompt: jax.Array,
    steps: int,
    *,
    lengths: jax.Array | None = None,
    source: jax.Array | None = None,
    source_lengths: jax.Array | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: jax.Array | None = None,
    stop: int | None = None,
) -> jax.Array:
    """The tokens that a model adds to a prompt.

    Each is drawn from softmax(logits / temperature), after `top_k` and then `top_p` (nucleus sampling, Holtzman et al.
    2020, arXiv:1904.09751) have left the likeliest; it is the likeliest itself at temperature 0. Logits are those that
    the whole sequence would give, computed from the state of each kernel. Dropout is off, and the model is not changed.

    Args:
      model: a causal `LanguageModel`, or an `EncoderDecoder`.
      prompt: int [B, T]; for an `EncoderDecoder` the start of the target, often one token.
      steps: how many tokens are added. Prompt and they must fit into the model's `max_length`.
      lengths: int [B], how many tokens of each prompt are real; all where None. What is added follows the last of them.
      source: int [B, S], what an `EncoderDecoder` reads.
      source_lengths: int [B], how many source tokens are real.
      temperature: 0 for the likeliest token.
      top_k: draw among this many tokens.
      top_p: draw among the likeliest tokens that have this probability together.
      rng: a key, where tokens are drawn. What an example draws follows from the key, its row and the step alone.
      stop: a token after which an example only repeats it.

    Returns:
      int32 [B, steps].

    Raises:
      ValueError: an argument has the wrong type, shape or value; the prompt is empty, or too long for the model.
      NotImplementedError: a kernel cannot decode.

    Example:
      >>> from flax import nnx
      >>> from attnzoo.models import BlockConfig, LanguageModel, generate
      >>> config = BlockConfig(width=16, num_heads=2)
      >>> model = LanguageModel(10, config, max_length=32, num_layers=1, attention=Linear(), rngs=nnx.Rngs(0))
      >>> generate(model, jnp.array([[1, 2, 3]]), steps=5).shape
      (1, 5)
      >>> generate(model, jnp.array([[1, 2, 3]]), 5, temperature=0.8, top_k=4, rng=jax.random.key(0)).shape
      (1, 5)
    """
    if not isinstance(model, LanguageModel | EncoderDecoder):
        raise ValueError(f"model is a {type(model).__name__}: expected a LanguageModel or an EncoderDecoder")
    if isinstance(model, LanguageModel) and not model.stack.is_causal:
        raise ValueError("model has is_causal=False: only one that looks back can be asked for the next token")
    prompt, lengths = _prompt(model, prompt, lengths)
    _room(model, prompt, steps)
    sampling = _Sampling(temperature, top_k, top_p)
    if (rng is None) is not (temperature == 0):
        raise ValueError(
            f"temperature={temperature} without rng: pass rng=jax.random.key(seed)"
            if rng is None
            else "rng came, and temperature is 0, at which nothing is drawn: leave rng out, or pass a temperature"
        )
    if rng is not None:
        validation.one_key(rng)
    if stop is not None and not (is_integer(stop) and 0 <= stop < model.vocabulary):
        raise ValueError(f"stop={stop!r}: expected a token, 0..{model.vocabulary - 1}")
    given = _source(model, source, source_lengths)
    graph, state = nnx.split(model)
    rng = randomness.of_seed(0) if rng is None else randomness.threefry(rng)
    return _generate(graph, state, prompt, lengths, given, rng, steps=steps, sampling=sampling, stop=stop)


@dataclasses.dataclass(frozen=True)
class _Sampling:
    """Logits [B, V] to tokens [B]."""

    temperature: float
    top_k: int | None
    top_p: float | None

    def __post_init__(self):
        if not is_number(self.temperature) or not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature!r}: expected a finite number >= 0")
        if self.top_k is not None and not (is_integer(self.top_k) and self.top_k >= 1):
            raise ValueError(f"top_k={self.top_k!r}: expected an integer >= 1")
        if self.top_p is not None and not (is_number(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p={self.top_p!r}: expected a number in (0, 1]")
        for name in ("top_k", "top_p"):
            if self.temperature == 0 and getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)!r} with temperature=0: pass a temperature > 0 to draw")

    def __call__(self, rng: jax.Array, rows: jax.Array, logits: jax.Array) -> jax.Array:
        if self.temperature == 0:
            return logits.argmax(axis=-1).astype(jnp.int32)
        likely, tokens = self.narrowed(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
        # The largest is 0 at any temperature, and below that of the smallest number the others are out of reach.
        likely = (likely - likely.max(axis=-1, keepdims=True)) / self._divisor(likely.dtype)
        rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng, rows)
        drawn = jax.vmap(jax.random.categorical)(rngs, likely)
        return jnp.take_along_axis(tokens, drawn[:, None], axis=-1)[:, 0].astype(jnp.int32)

    def narrowed(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits, the likeliest first and those that may not be drawn at -inf, and the token of each: [B, k] both."""
        if self.top_k is None and self.top_p is None:
            return logits, jnp.broadcast_to(jnp.arange(logits.shape[-1]), logits.shape)
        size = logits.shape[-1]
        logits, tokens = jax.lax.top_k(logits, size if self.top_k is None else min(self.top_k, size))
        if self.top_p is not None:
            largest = logits[:, :1]
            share = jax.nn.softmax((logits - largest) / self._divisor(logits.dtype), axis=-1)
            needed = jnp.cumsum(share, axis=-1) - share < self.top_p  # those before it are not enough
            logits = jnp.where(needed, logits, -jnp.inf)
        return logits, tokens

    def _divisor(self, dtype) -> float:
        """The temperature, where it and its inverse are normal numbers of a dtype."""
        smallest = float(jnp.finfo(dtype).tiny)
        return min(max(self.temperature, smallest), 1 / smallest)


@functools.partial(jax.jit, static_argnames=("graph", "steps", "sampling", "stop"))
def _generate(graph, state, prompt, lengths, given, rng, *, steps, sampling, stop):
    """The model is called as it is, so that its parameters stay where they are; examples are split as prompts are."""
    mesh = meshes.told((prompt, state))
    with contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh):
        split = Split.of(prompt)._replace(sequence=None)
        model = nnx.merge(graph, state)
        model.eval()
        model.init_cache(len(prompt), prompt.shape[1] + steps, **given)
        rows = jnp.arange(len(prompt))
        prompt, lengths, rows = (split.placed(x, split.by_example(x)) for x in (prompt, lengths, rows))

        def drawn(rng, logits):
            here = lambda rng, rows, logits: sampling(rng, rows, logits)
            examples = [(rows, split.by_example), (logits, split.by_example)]
            return split.over_devices(here, [(rng, lambda x: PartitionSpec()), *examples], split.by_example(rows))

        return _after(
            model, prompt, lengths, jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(steps)), drawn, stop
        )


def _after(model, prompt, lengths, rngs, drawn, stop):
    """The tokens that come after a prompt, `drawn(rng, logits)` of each example: [B, steps]."""
    first, *later = rngs
    logits = model.step(prompt, lengths=lengths)
    token = drawn(first, products.entries(logits, (lengths - 1)[:, None])[:, 0])
    graph, cache, *rest = nnx.split(model, nnx.Cache, ...)

    def advance(carry, rng):
        cache, before = carry
        model = nnx.merge(graph, cache, *rest)
        token = drawn(rng, model.step(before[:, None])[:, 0])
        token = token if stop is None else jnp.where(before == stop, stop, token)
        return (nnx.state(model, nnx.Cache), token), token

    if not later:
        return token[:, None]
    _, tokens = jax.lax.scan(advance, (cache, token), jnp.stack(later))
    return jnp.concatenate([token[:, None], tokens.T], axis=1)


def _prompt(model, prompt, lengths) -> tuple[jax.Array, jax.Array]:
    prompt = jnp.asarray(prompt)
    if prompt.ndim != 2 or not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise ValueError(f"prompt is {prompt.dtype}{list(prompt.shape)}: expected integers [batch, length]")
    if 0 in prompt.shape:
        raise ValueError(f"prompt has shape {list(prompt.shape)}: expected at least one example and one token")
    _tokens("prompt", prompt, model.vocabulary)
    lengths = jnp.full(len(prompt), prompt.shape[1]) if lengths is None else jnp.asarray(lengths)
    validation.lengths("lengths", lengths, *prompt.shape)
    if not validation.is_traced(lengths) and np.asarray(lengths).min() < 1:
        raise ValueError(f"lengths are {lengths.tolist()}: expected at least one token of each prompt")
    return prompt, lengths


def _tokens(name: str, tokens: jax.Array, vocabulary: int) -> None:
    if validation.is_traced(tokens):
        return
    known = np.asarray(tokens)
    if not 0 <= known.min() <= known.max() < vocabulary:
        raise ValueError(
            f"{name} has tokens from {known.min()} to {known.max()}: expected those of the model, 0..{vocabulary - 1}"
        )


def _room(model, prompt, steps) -> None:
    if not is_integer(steps) or steps < 1:
        raise ValueError(f"steps={steps!r}: expected an integer >= 1")
    if prompt.shape[1] + steps > model.max_length:
        raise ValueError(
            f"prompt has {prompt.shape[1]} tokens and steps={steps} follow: the model was built for at most "
            f"{model.max_length} in all"
        )


def _source(model, source, source_lengths) -> dict:
    if isinstance(model, LanguageModel):
        for name, given in (("source", source), ("source_lengths", source_lengths)):
            if given is not None:
                raise ValueError(f"{name} came with a LanguageModel, which reads none: put it into the prompt")
        return {}
    if source is None:
        raise ValueError("source=None: an EncoderDecoder needs int [batch, length] to read")
    return {"source": jnp.asarray(source), "source_lengths": source_lengths}
