"""Transformers over tokens, with any attention kernel in any slot that it can serve.

    x = embed(tokens) + position;  x = blocks(x)
    LanguageModel      logits = head(x)                       a decoder alone, or with is_causal=False an encoder alone
    Classifier         logits = head(pooled x)                an encoder, over one document or over each of two
    EncoderDecoder     logits = head(decoder(target; encoder(source)))

Vaswani et al. 2017, arXiv:1706.03762, whose own choices are `BlockConfig(norm="after", activation="relu")` and
`SinusoidalPositions`. Absolute positions are added to embeddings; relative ones belong to the self-attention of every
block, each with parameters of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnzoo.engines import dense
from attnzoo.kernel import Kernel
from attnzoo.kernels import Softmax
from attnzoo.layers import products, projected
from attnzoo.models.blocks import BlockConfig, Stack, dropout_of, kernels_of, of_model
from attnzoo.positions import AbsoluteEncoding, LearnedPositions, NoPositions, PositionEncoding, RelativeEncoding

POOLINGS = ("mean", "cls")
PAIRINGS = {
    "joined": lambda x, y: (x, y),
    "compared": lambda x, y: (x, y, x * y, x - y),
}


class Embedding(nnx.Module):
    """Tokens to vectors, with absolute positions added."""

    def __init__(
        self, vocabulary: int, config: BlockConfig, positions: PositionEncoding, max_length: int, rngs: nnx.Rngs
    ):
        self.max_length, self.vocabulary = max_length, vocabulary
        init = _embedding_init(config)
        self.embed = nnx.Embed(vocabulary, config.width, dtype=jnp.dtype(config.dtype), embedding_init=init, rngs=rngs)
        self.absolute = positions if isinstance(positions, AbsoluteEncoding) else None
        if self.absolute is not None:
            learned = self.absolute.init(rngs.params(), max_length, config.width)
            self.position = nnx.data(jax.tree.map(nnx.Param, learned))
        self.dropout = dropout_of(config, rngs)

    def __call__(self, tokens: jax.Array, places: np.ndarray | jax.Array | None = None) -> jax.Array:
        """Tokens int [B, T], which stand at `places` int [B, T], 0 .. T - 1 unless given."""
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(f"tokens have length {length}: the model was built for at most {self.max_length}")
        x = self.embed(tokens, out_sharding=products.rows_sharding(tokens, self.embed.embedding[...]))
        if self.absolute is not None:
            learned = jax.tree.map(lambda x: x[...], self.position, is_leaf=lambda x: isinstance(x, nnx.Param))
            places = np.arange(length)[None] if places is None else places
            x = x + self.absolute.vectors(learned, places, x.shape[-1]).astype(x.dtype)
        return self.dropout(x)

    def logits(self, x: jax.Array) -> jax.Array:
        """The product of vectors with every token's own."""
        return products.product(self.embed.attend, x, self.embed.embedding[...].T, is_whole=True)


class LanguageModel(nnx.Module):
    """Tokens to logits of the token that comes next, or of the tokens themselves where they are masked.

    Args:
      vocabulary: number of tokens, in and out.
      config: of all blocks, or one for each.
      max_length: the longest sequence.
      num_layers: number of blocks.
      attention: one kernel for all blocks, or one for each.
      positions: how the model knows where a token stands.
      is_causal: whether a token sees only itself and what stands before it.
      is_tied: whether logits are products with the embeddings of tokens (Press and Wolf 2017, arXiv:1608.05859), and
        not of a layer of their own.

    Raises:
      ValueError: as many kernels as blocks are expected; `positions` is none; a sequence is longer than `max_length`.
      NotImplementedError: a kernel cannot serve in its slot.

    Example:
      >>> from flax import nnx
      >>> from attnzoo.models import BlockConfig, LanguageModel
      >>> config = BlockConfig(width=16, num_heads=2)
      >>> mixed = [SlidingWindow(left=7, right=0), Softmax()]
      >>> model = LanguageModel(50, config, max_length=16, num_layers=2, attention=mixed, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 16), int)).shape
      (2, 16, 50)
    """

    def __init__(
        self,
        vocabulary: int,
        config: BlockConfig | Sequence[BlockConfig],
        *,
        max_length: int,
        num_layers: int,
        attention: Kernel | Sequence[Kernel] = Softmax(),
        positions: PositionEncoding = LearnedPositions(),
        is_causal: bool = True,
        is_tied: bool = False,
        rngs: nnx.Rngs,
    ):
        kernels, shared = kernels_of("attention", attention, num_layers), of_model(config)
        name = "decoder" if is_causal else "encoder"
        self.max_length, self.vocabulary = max_length, vocabulary
        self.place: nnx.Cache[jax.Array]  # of the next token, from `init_cache` on
        self.embedding = Embedding(vocabulary, shared, positions, max_length, rngs)
        self.stack = Stack(config, name, kernels, _relative(positions), max_length, is_causal=is_causal, rngs=rngs)
        self.head = None if is_tied else nnx.Linear(shared.width, vocabulary, dtype=jnp.dtype(shared.dtype), rngs=rngs)

    def __call__(
        self,
        tokens: jax.Array,
        *,
        lengths: jax.Array | None = None,
        places: jax.Array | None = None,
        sow_weights: bool = False,
    ) -> jax.Array:
        """Tokens int [B, T], of which `lengths` [B] are real -> float32 logits [B, T, vocabulary].

        With `places` int [B, n], logits [B, n, vocabulary] at those positions alone. With `sow_weights`, every
        attention layer leaves its [B, N, T, S] weights to `nnx.capture(model, nnx.Intermediate)`, first layer first.
        """
        x = self.stack(self.embedding(tokens), lengths=lengths, sow_weights=sow_weights)
        if places is not None:
            x = products.entries(x, places)
        return self._logits(x)

    def init_cache(self, batch: int, length: int) -> None:
        """Make the caches for `step`, or empty them, for sequences of up to `length` tokens.

        Raises:
          ValueError: `length` is more than the model was built for.
          NotImplementedError: a kernel cannot decode.
        """
        _start(self, batch, length)
        self.stack.init_cache(batch, length)

    def step(self, tokens: jax.Array, *, lengths: jax.Array | None = None) -> jax.Array:
        """The next tokens int [B, t], `lengths` [B] of them real -> their float32 logits [B, t, vocabulary].

        Raises:
          ValueError: tokens go past the end of the cache; under `jit` their logits are NaN.
        """
        x = self.stack.step(self.embedding(tokens, _advance(self, tokens, lengths)), lengths)
        return self._logits(x)

    def _logits(self, x):
        logits = self.embedding.logits(x) if self.head is None else products.applied(self.head, x, is_whole=True)
        return dense.capped(logits.astype(jnp.float32), self.stack.config.logits_soft_cap)


class Classifier(nnx.Module):
    """Tokens to logits of classes: an encoder, and its tokens pooled.

    Args:
      vocabulary: number of tokens.
      num_classes: number of classes.
      pooling: "mean" over real tokens, or "cls", the output at a learned vector that is put before them.
      pairing: None where an example is one document. For pairs, what a `PairHead` sees of two: "joined" or "compared".
      (others): those of `LanguageModel`.

    Raises:
      ValueError: there is no such pooling or pairing, or what `LanguageModel` raises.
      NotImplementedError: a kernel cannot serve in its slot.

    Example:
      >>> from flax import nnx
      >>> from attnzoo.models import BlockConfig, Classifier
      >>> config = BlockConfig(width=16, num_heads=2, norm="after")
      >>> model = Classifier(50, 10, config, max_length=16, num_layers=1, attention=Performer(8), rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 16), int), lengths=jnp.array([16, 3])).shape
      (2, 10)
      >>> sizes = {"max_length": 16, "num_layers": 1}
      >>> model = Classifier(50, 10, config, **sizes, pairing="compared", rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((1, 2, 16), int), lengths=jnp.array([[16, 3]])).shape
      (1, 10)
    """

    def __init__(
        self,
        vocabulary: int,
        num_classes: int,
        config: BlockConfig | Sequence[BlockConfig],
        *,
        max_length: int,
        num_layers: int,
        attention: Kernel | Sequence[Kernel] = Softmax(),
        positions: PositionEncoding = LearnedPositions(),
        pooling: str = "mean",
        pairing: str | None = None,
        rngs: nnx.Rngs,
    ):
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r}: expected one of {', '.join(POOLINGS)}")
        if pairing not in (None, *PAIRINGS):
            raise ValueError(f"pairing={pairing!r}: expected one of {', '.join(PAIRINGS)}, or None for no pairs")
        kernels, shared = kernels_of("attention", attention, num_layers), of_model(config)
        self.pooling, self.pairing, self.max_length = pooling, pairing, max_length
        longest = max_length + (pooling == "cls")
        self.embedding = Embedding(vocabulary, shared, positions, max_length, rngs)
        self.stack = Stack(config, "encoder", kernels, _relative(positions), longest, is_causal=False, rngs=rngs)
        if pooling == "cls":
            self.cls = nnx.Param(_embedding_init(shared)(rngs.params(), (shared.width,)))
        self.head: nnx.Linear | PairHead
        if pairing is None:
            self.head = nnx.Linear(shared.width, num_classes, dtype=jnp.dtype(shared.dtype), rngs=rngs)
        else:
            self.head = PairHead(num_classes, shared, pairing, rngs)

    def __call__(self, tokens: jax.Array, *, lengths: jax.Array | None = None, sow_weights: bool = False) -> jax.Array:
        """Tokens int [B, T], of which `lengths` [B] are real -> float32 logits [B, num_classes].

        With a pairing, tokens [B, 2, T] and `lengths` [B, 2]: the encoder meets 2 B documents, and none sees another.
        """
        if tokens.ndim != (2 if self.pairing is None else 3) or (self.pairing and tokens.shape[1] != 2):
            expected = "[B, T]" if self.pairing is None else "[B, 2, T], the documents of each pair"
            raise ValueError(f"tokens have shape {tokens.shape}: expected {expected}")
        if lengths is not None and lengths.shape != tokens.shape[:-1]:
            raise ValueError(f"lengths have shape {lengths.shape}: expected one for each document, {tokens.shape[:-1]}")
        flat = None if lengths is None else lengths.reshape(-1)
        pooled = self._pooled(tokens.reshape(-1, tokens.shape[-1]), flat, sow_weights)
        return self.head(pooled.reshape(*tokens.shape[:-1], -1)).astype(jnp.float32)

    def _pooled(self, tokens, lengths, sow_weights):
        x = self.embedding(tokens)
        if self.pooling == "cls":
            x = products.in_front(self.cls[...].astype(x.dtype), x)
            lengths = None if lengths is None else lengths + 1
        x = self.stack(x, lengths=lengths, sow_weights=sow_weights)
        return x[:, 0] if self.pooling == "cls" else _mean(x, lengths)


class PairHead(nnx.Module):
    """Vectors of two documents to logits: one hidden layer over what `pairing` makes of them.

    joined      [x, y]
    compared    [x, y, x * y, x - y]            Mou et al. 2016, arXiv:1512.08422
    """

    def __init__(self, num_classes: int, config: BlockConfig, pairing: str, rngs: nnx.Rngs):
        inner, dtype = config.inner_width, jnp.dtype(config.dtype)
        self.pairing = pairing
        features = len(PAIRINGS[pairing](0, 0)) * config.width
        self.hidden = nnx.Linear(features, inner, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(inner, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, 2, width] -> [B, num_classes]."""
        features = jnp.concatenate(PAIRINGS[self.pairing](x[:, 0], x[:, 1]), axis=-1)
        return self.out(jax.nn.relu(self.hidden(features)))


class EncoderDecoder(nnx.Module):
    """A source and the target so far to logits of the target token that comes next.

    Args:
      source_vocabulary: number of source tokens.
      target_vocabulary: number of target tokens, in and out.
      config: what all blocks of both stacks have in common.
      max_source_length: the longest source.
      max_length: the longest target.
      num_layers: number of blocks in each stack.
      encoder_attention: one kernel for all blocks of the encoder, or one for each.
      decoder_attention: the same for causal self-attention of the decoder.
      cross_attention: the same for the decoder's attention to what the encoder gave.
      positions: how both stacks know where a token stands.

    Raises:
      ValueError: what `LanguageModel` raises.
      NotImplementedError: a kernel cannot serve in its slot.

    Example:
      >>> from flax import nnx
      >>> from attnzoo.models import BlockConfig, EncoderDecoder
      >>> config = BlockConfig(width=16, num_heads=2)
      >>> longest = {"max_source_length": 16, "max_length": 8}
      >>> model = EncoderDecoder(
      ...     50, 50, config, **longest, num_layers=1, encoder_attention=Nystrom(4), rngs=nnx.Rngs(0)
      ... )
      >>> model(jnp.zeros((2, 16), int), jnp.zeros((2, 8), int), source_lengths=jnp.array([16, 7])).shape
      (2, 8, 50)
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        config: BlockConfig,
        *,
        max_source_length: int,
        max_length: int,
        num_layers: int,
        encoder_attention: Kernel | Sequence[Kernel] = Softmax(),
        decoder_attention: Kernel | Sequence[Kernel] = Softmax(),
        cross_attention: Kernel | Sequence[Kernel] = Softmax(),
        positions: PositionEncoding = LearnedPositions(),
        rngs: nnx.Rngs,
    ):
        kernels = {
            name: kernels_of(name, given, num_layers)
            for name, given in (
                ("encoder_attention", encoder_attention),
                ("decoder_attention", decoder_attention),
                ("cross_attention", cross_attention),
            )
        }
        relative = _relative(positions)
        self.max_length, self.vocabulary = max_length, target_vocabulary
        self.place: nnx.Cache[jax.Array]  # of the next token, from `init_cache` on
        self.source_embedding = Embedding(source_vocabulary, config, positions, max_source_length, rngs)
        self.encoder = Stack(
            config, "encoder", kernels["encoder_attention"], relative, max_source_length, is_causal=False, rngs=rngs
        )
        self.embedding = Embedding(target_vocabulary, config, positions, max_length, rngs)
        self.decoder = Stack(
            config,
            "decoder",
            kernels["decoder_attention"],
            relative,
            max_length,
            is_causal=True,
            cross=kernels["cross_attention"],
            max_memory=max_source_length,
            rngs=rngs,
        )
        self.head = nnx.Linear(config.width, target_vocabulary, dtype=jnp.dtype(config.dtype), rngs=rngs)

    def __call__(
        self,
        source: jax.Array,
        target: jax.Array,
        *,
        source_lengths: jax.Array | None = None,
        lengths: jax.Array | None = None,
        sow_weights: bool = False,
    ) -> jax.Array:
        """Source int [B, S] and target int [B, T], of which `source_lengths` and `lengths` [B] tokens are real.

        Returns:
          float32 logits [B, T, target_vocabulary].
        """
        memory = self.encode(source, source_lengths=source_lengths, sow_weights=sow_weights)
        x = self.decoder(
            self.embedding(target),
            lengths=lengths,
            memory=memory,
            memory_lengths=source_lengths,
            sow_weights=sow_weights,
        )
        return products.applied(self.head, x, is_whole=True).astype(jnp.float32)

    def encode(
        self, source: jax.Array, *, source_lengths: jax.Array | None = None, sow_weights: bool = False
    ) -> jax.Array:
        """The memory [B, S, width] that the decoder attends to."""
        return self.encoder(self.source_embedding(source), lengths=source_lengths, sow_weights=sow_weights)

    def init_cache(self, batch: int, length: int, source: jax.Array, source_lengths: jax.Array | None = None) -> None:
        """Encode the source and make the caches for `step`, for targets of up to `length` tokens."""
        if len(source) != batch:
            raise ValueError(f"source has {len(source)} examples: expected {batch}, as many as there are targets")
        _start(self, batch, length)
        longest = jnp.full(batch, source.shape[1]) if source_lengths is None else jnp.asarray(source_lengths)
        self.source_lengths = nnx.Cache(longest)
        self.decoder.init_cache(batch, length, self.encode(source, source_lengths=source_lengths))

    def step(self, tokens: jax.Array, *, lengths: jax.Array | None = None) -> jax.Array:
        """The next target tokens int [B, t], as `LanguageModel.step`."""
        x = self.embedding(tokens, _advance(self, tokens, lengths))
        x = self.decoder.step(x, lengths, self.source_lengths.get_value())
        return products.applied(self.head, x, is_whole=True).astype(jnp.float32)


def _embedding_init(config: BlockConfig) -> nnx.Initializer:
    return nnx.initializers.normal(config.embedding_stddev)


def _relative(positions: PositionEncoding) -> RelativeEncoding:
    if isinstance(positions, AbsoluteEncoding):
        return NoPositions()
    return projected.checked_positions(positions)


def _mean(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """The mean of real tokens, [B, T, D] -> [B, D]; 0 where there is none."""
    precise = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if lengths is None:
        return precise.mean(axis=1).astype(x.dtype)
    real = (jnp.arange(x.shape[1])[None] < lengths[:, None])[..., None]
    return (jnp.where(real, precise, 0).sum(axis=1) / jnp.maximum(lengths, 1)[:, None]).astype(x.dtype)


def _start(model: LanguageModel | EncoderDecoder, batch: int, length: int) -> None:
    """Put the place of the next token at 0."""
    if batch < 1:
        raise ValueError(f"batch={batch}: expected at least one example")
    if not 1 <= length <= model.max_length:
        raise ValueError(f"length={length}: expected 1..{model.max_length}, the longest that the model was built for")
    model.place = nnx.Cache(jnp.zeros(batch, jnp.int32))


def _advance(model: LanguageModel | EncoderDecoder, tokens: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Where the next tokens stand, int [B, t]; those after them will stand behind."""
    if not hasattr(model, "place"):
        raise ValueError("there is no cache: call `init_cache` of the model before the first step")
    place, count = model.place.get_value(), tokens.shape[1]
    if tokens.shape[0] != place.shape[0]:
        raise ValueError(f"tokens are a batch of {tokens.shape[0]}: the cache was made for {place.shape[0]}")
    model.place.set_value(place + (count if lengths is None else lengths))
    return place[:, None] + jnp.arange(count)[None]
