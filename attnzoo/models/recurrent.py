"""What attention came from: the recurrent encoder-decoder that it was invented for, and recurrence without it.

    h = BiGRU(embed(x))                                  annotations, one for each source token
    c_i = sum_j softmax_j(score(s_{i-1}, h_j)) h_j       where the decoder looks
    s_i = GRU(s_{i-1}, [embed(y_{i-1}); c_i])
    logits_i = W [s_i; c_i; embed(y_{i-1})]

Bahdanau, Cho and Bengio 2015, arXiv:1409.0473, with their additive score; Luong, Pham and Manning 2015,
arXiv:1508.04025, for the scores s . h (dot) and s . W h (general).

What comes later needs all that came earlier: over a mesh, devices have examples, and parameters are brought together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from attnzoo.contract import varying
from attnzoo.contract.sizes import Dims
from attnzoo.door.attention import attend, attention_weights
from attnzoo.door.meshes import Split
from attnzoo.kernels import Additive, Softmax

SCORES = ("additive", "dot", "general")


class Pairs(NamedTuple):
    """A batch to learn from.

    Attributes:
      source: int [B, S].
      lengths: int [B]; source tokens from there on are padding.
      previous: int [B, T], the token before each target; the first is the one that starts.
    """

    source: jax.Array
    lengths: jax.Array
    previous: jax.Array


class RecurrentEncoderDecoder(nnx.Module):
    """Source tokens to target tokens, one after the other.

    Args:
      source_vocabulary: number of source tokens.
      target_vocabulary: number of target tokens, the one that starts included.
      width: of embeddings and of each direction of the encoder; annotations and the decoder are twice as wide.
      score: how the decoder's state meets annotations: one of `SCORES`.

    Raises:
      ValueError: there is no such score.

    Example:
      >>> from flax import nnx
      >>> from attnzoo.models.recurrent import Pairs, RecurrentEncoderDecoder
      >>> model = RecurrentEncoderDecoder(20, 12, width=8, rngs=nnx.Rngs(0))
      >>> pairs = Pairs(jnp.ones((2, 5), int), jnp.array([5, 3]), jnp.ones((2, 4), int))
      >>> model(pairs).shape
      (2, 4, 12)
    """

    def __init__(
        self, source_vocabulary: int, target_vocabulary: int, *, width: int, score: str = "additive", rngs: nnx.Rngs
    ):
        if score not in SCORES:
            raise ValueError(f"score={score!r}: expected one of {', '.join(SCORES)}")
        wide = 2 * width
        self.read = nnx.Embed(source_vocabulary, width, rngs=rngs)
        self.write = nnx.Embed(target_vocabulary, width, rngs=rngs)
        forward, backward = (nnx.RNN(nnx.GRUCell(width, width, rngs=rngs)) for _ in range(2))
        self.encoder = nnx.Bidirectional(forward, backward)
        self.first = nnx.Linear(width, wide, rngs=rngs)
        self.cell = nnx.GRUCell(width + wide, wide, rngs=rngs)
        self.head = nnx.Linear(width + 2 * wide, target_vocabulary, rngs=rngs)
        self.bridge = nnx.Linear(wide, wide, use_bias=False, rngs=rngs) if score == "general" else None
        self.kernel = Additive() if score == "additive" else Softmax()
        params = self.kernel.init(rngs.params(), Dims(1, 1, 1, 1, 1, wide, wide))
        self.attention = nnx.data(jax.tree.map(nnx.Param, params))
        self.scale = None if score == "additive" else 1.0

    def __call__(self, pairs: Pairs) -> jax.Array:
        """Logits [B, T, target_vocabulary] of each target, given those before it."""
        return _by_example(RecurrentEncoderDecoder._logits, self, pairs)

    def _logits(self, pairs: Pairs) -> jax.Array:
        state, memory = self._encode(pairs.source, pairs.lengths)

        def step(state, token):
            state, logits, _ = self._step(state, token, memory)
            return state, logits

        return jnp.moveaxis(jax.lax.scan(step, state, pairs.previous.T)[1], 0, 1)

    def decode(self, source: jax.Array, lengths: jax.Array, start: int, steps: int) -> tuple[jax.Array, jax.Array]:
        """The likeliest token at each of `steps`: tokens [B, steps], and where it looked: weights [B, steps, S]."""
        decoded = functools.partial(RecurrentEncoderDecoder._decoded, start=start, steps=steps)
        return _by_example(decoded, self, (source, lengths))

    def _decoded(self, given: tuple[jax.Array, jax.Array], start: int, steps: int) -> tuple[jax.Array, jax.Array]:
        source, lengths = given
        state, memory = self._encode(source, lengths)

        def step(carry, _):
            state, logits, weights = self._step(carry[0], carry[1], memory)
            token = logits.argmax(axis=-1)
            return (state, token), (token, weights)

        first = varying.as_of(jnp.full(source.shape[0], start), source)
        _, (tokens, weights) = jax.lax.scan(step, (state, first), None, length=steps)
        return tokens.T, jnp.moveaxis(weights, 0, 1)

    def _encode(self, source, lengths):
        read = self.read(source)
        starts = tuple(_start(rnn, read) for rnn in (self.encoder.forward_rnn, self.encoder.backward_rnn))
        annotations: Any = self.encoder(read, seq_lengths=lengths, initial_carry=starts)
        # The backward direction has read the whole source when it comes to the first token.
        summary = annotations[:, 0, annotations.shape[-1] // 2 :]
        return jnp.tanh(self.first(summary)), (annotations[:, :, None], lengths)

    def _step(self, state, token, memory):
        annotations, lengths = memory
        embedded = self.write(token)
        query = state if self.bridge is None else self.bridge(state)
        operands = query[:, None, None], annotations
        given = {"kernel": self.kernel, "key_value_seq_lengths": lengths, "scale": self.scale}
        given["params"] = jax.tree.map(lambda x: x[...], self.attention, is_leaf=lambda x: isinstance(x, nnx.Param))
        context = attend(*operands, annotations, **given)[:, 0, 0]
        state, _ = self.cell(state, jnp.concatenate([embedded, context], axis=-1))
        logits = self.head(jnp.concatenate([state, context, embedded], axis=-1))
        return state, logits, attention_weights(*operands, **given)[:, 0, 0]


def _remembering(rng, shape, dtype=jnp.float32):
    """Biases of the four gates of an LSTM, 1 where it forgets and 0 elsewhere: at first, it keeps what it has."""
    return jnp.zeros((4, shape[0] // 4), dtype).at[1].set(1).reshape(shape)


CELLS: dict[str, Callable[..., Any]] = {
    "gru": nnx.GRUCell,
    "lstm": functools.partial(nnx.OptimizedLSTMCell, bias_init=_remembering),
}


class RecurrentLanguageModel(nnx.Module):
    """Tokens to logits by layers of recurrence, each with norm and residual: what comes later sees what came earlier.

    Args:
      vocabulary: number of tokens, in and out.
      width: of the residual stream.
      num_layers: number of recurrent layers.
      cell: "gru" (Cho et al. 2014, arXiv:1406.1078) or "lstm" (Hochreiter and Schmidhuber 1997), whose forget gates
        start open, with a bias of 1 (Jozefowicz et al. 2015).

    Raises:
      ValueError: there is no such cell.

    Example:
      >>> from flax import nnx
      >>> from attnzoo.models import RecurrentLanguageModel
      >>> model = RecurrentLanguageModel(256, width=16, num_layers=2, cell="gru", rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 64), int)).shape
      (2, 64, 256)
    """

    def __init__(self, vocabulary: int, *, width: int, num_layers: int, cell: str, rngs: nnx.Rngs):
        if cell not in CELLS:
            raise ValueError(f"cell={cell!r}: expected one of {', '.join(CELLS)}")
        self.embed = nnx.Embed(vocabulary, width, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(num_layers)])
        self.layers = nnx.List([nnx.RNN(CELLS[cell](width, width, rngs=rngs), rngs=rngs) for _ in range(num_layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Tokens int [B, T] -> logits [B, T, vocabulary]."""
        return _by_example(RecurrentLanguageModel._logits, self, tokens)

    def _logits(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x), initial_carry=_start(layer, x))
        return self.head(self.norm(x))


def _start(layer: Any, x: jax.Array) -> Any:
    """The state before the first token of x [B, T, D], for each device its own."""
    return varying.as_of(layer.cell.initialize_carry((x.shape[0], x.shape[2]), layer.rngs), x)


def _by_example(call: Callable, model: nnx.Module, examples: Any) -> Any:
    """`call(model, examples)`, by each device that has a part of the batch for its part."""
    split = Split.of(*jax.tree.leaves(examples))._replace(heads=None, sequence=None)
    if not split.batch:
        return call(model, examples)
    graph, state = nnx.split(model)
    here = lambda examples, state: call(nnx.merge(graph, state), examples)
    whole = lambda x: PartitionSpec()
    return split.over_devices(here, [(examples, split.by_example), (state, whole)], PartitionSpec(split.batch))
