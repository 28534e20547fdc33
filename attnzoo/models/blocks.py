"""The blocks of a Transformer: attention and a feed-forward network, each with a norm and a residual.

x = x + part(norm(x))        norm="before" (Xiong et al. 2020, arXiv:2002.04745)
x = norm(x + part(x))        norm="after" (Vaswani et al. 2017, arXiv:1706.03762, section 3.1)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnzoo.contract import fields
from attnzoo.contract.sizes import Dims
from attnzoo.door import refusal, validation
from attnzoo.kernel import Kernel
from attnzoo.layers import products, projected
from attnzoo.layers.projected import Attention
from attnzoo.nnx import MultiHeadAttention
from attnzoo.positions import RelativeEncoding

NORMS = ("before", "after")
ACTIVATIONS: dict[str, Callable[..., jax.Array]] = {"gelu": jax.nn.gelu, "relu": jax.nn.relu}
DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """What all blocks of a model have in common; plain values, so that it can be written into a file.

    Attributes:
      width: of the residual stream; `num_heads` divides it.
      num_heads: of queries.
      num_kv_heads: of keys and values, which divides `num_heads`; as many where None.
      feed_forward: width inside the feed-forward network; 4 x `width` where None.
      norm: "before" or "after" each part.
      activation: of the feed-forward network, "gelu" or "relu".
      dropout_rate: of what each part gives, and of the embeddings; off in `model.eval()`.
      embedding_stddev: of each coordinate of a token's embedding before training. Published models have 0.02 (GPT-2) to
        1 (T5). Small models that must tell many tokens apart, such as for associative recall, learn sooner with 0.3
        to 1, and absolute positions as large: a step of Adam moves every coordinate by about the learning rate, which
        is little only beside large ones.
      dtype: of activations; parameters are float32.
      remat: whether the backward pass computes a block's activations anew instead of keeping them.

    Raises:
      ValueError: a field has the wrong type or value.

    Example:
      >>> from attnzoo.models import BlockConfig
      >>> config = BlockConfig(width=16, num_heads=2, num_kv_heads=1)
      >>> config.inner_width
      64
      >>> config.dims(batch=1, length=4)
      Dims(batch=1, query_length=4, key_length=4, num_heads=2, num_key_value_heads=1, head_dim=8, value_dim=8)
      >>> BlockConfig(width=16, num_heads=3)
      Traceback (most recent call last):
      ValueError: BlockConfig(width=16, num_heads=3): num_heads must divide width
    """

    width: int
    num_heads: int
    num_kv_heads: int | None = None
    feed_forward: int | None = None
    norm: str = "before"
    activation: str = "gelu"
    dropout_rate: float = 0.0
    embedding_stddev: float = 0.02
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        for name in ("width", "num_heads"):
            fields.positive_integer(self, name)
        for name in ("num_kv_heads", "feed_forward"):
            if getattr(self, name) is not None:
                fields.positive_integer(self, name)
        for name, choices in (("norm", NORMS), ("activation", tuple(ACTIVATIONS)), ("dtype", DTYPES)):
            fields.one_of(self, name, choices)
        fields.truth_value(self, "remat")
        fields.positive_number(self, "embedding_stddev")
        if not fields.is_number(self.dropout_rate) or not 0 <= self.dropout_rate < 1:
            raise ValueError(f"BlockConfig(dropout_rate={self.dropout_rate!r}): expected a number in [0, 1)")
        if self.width % self.num_heads:
            raise ValueError(
                f"BlockConfig(width={self.width}, num_heads={self.num_heads}): num_heads must divide width"
            )
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ValueError(
                f"BlockConfig(num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}): num_kv_heads must divide "
                "num_heads"
            )

    @property
    def inner_width(self) -> int:
        """What feed-forward networks widen to."""
        return self.feed_forward or 4 * self.width

    def dims(self, batch: int, length: int) -> Dims:
        """The sizes of attention among `length` tokens."""
        width = self.width // self.num_heads
        return Dims(batch, length, length, self.num_heads, self.num_kv_heads or self.num_heads, width, width)


class FeedForward(nnx.Module):
    """narrow(activation(widen(x)))."""

    def __init__(self, config: BlockConfig, rngs: nnx.Rngs):
        inner, dtype = config.inner_width, jnp.dtype(config.dtype)
        self.activation = config.activation
        self.widen = nnx.Linear(config.width, inner, dtype=dtype, rngs=rngs)
        self.narrow = nnx.Linear(inner, config.width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return products.applied(self.narrow, ACTIVATIONS[self.activation](products.applied(self.widen, x)))


class CrossAttention(MultiHeadAttention):
    """Attention to a memory that can be projected once, for all steps of decoding."""

    def remember(self, memory: jax.Array) -> None:
        """Keep keys, values and what tokens bring of `memory` [B, S, width] for `recall`."""
        kept = {"key": products.applied(self.key, memory), "value": products.applied(self.value, memory)}
        kept |= self._brought(memory)
        for name, x in kept.items():
            setattr(self, f"memory_{name}", nnx.Cache(x))

    def recall(self, x: jax.Array, place: jax.Array, lengths: jax.Array | None) -> jax.Array:
        """Attend from x [B, t, width], of which the first stands at `place` [B], to what is remembered.

        Of that, `lengths` [B] tokens are real.
        """
        kept = lambda name: getattr(self, f"memory_{name}").get_value()
        query, key, value = products.applied(self.query, x), kept("key"), kept("value")
        brought = self.attention_kernel.token_inputs(self._dims(1, 1))
        attended = projected.attend_heads(
            query,
            key.astype(query.dtype),
            value.astype(query.dtype),
            {"query_offset": place, "key_value_seq_lengths": lengths},
            Attention(
                kernel=self.attention_kernel,
                params=self._learned("attention"),
                positions=self.position_encoding,
                precision=self.precision,
                tokens={name: kept(name) for name in brought},
            ),
        )
        return self._projected_out(attended.out, None, x)


class Block(nnx.Module):
    """Self-attention, attention to a memory where there is one, and a feed-forward network.

    Args:
      attention: kernel of self-attention.
      positions: how self-attention counts positions.
      max_length: the longest sequence.
      cross: kernel of attention to the memory, None where there is no memory.
      max_memory: the longest memory.
    """

    def __init__(
        self,
        config: BlockConfig,
        attention: Kernel,
        positions: RelativeEncoding,
        max_length: int,
        *,
        cross: Kernel | None = None,
        max_memory: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.config = config
        heads: dict[str, Any] = {
            "num_heads": config.num_heads,
            "in_features": config.width,
            "num_kv_heads": config.num_kv_heads,
            "dtype": jnp.dtype(config.dtype),
            "rngs": rngs,
        }
        self.attention = MultiHeadAttention(attention=attention, positions=positions, max_length=max_length, **heads)
        self.attention_norm = self._norm(rngs)
        self.cross = None if cross is None else CrossAttention(attention=cross, max_length=max_memory, **heads)
        self.cross_norm = None if cross is None else self._norm(rngs)
        self.feed_forward = FeedForward(config, rngs)
        self.feed_forward_norm = self._norm(rngs)
        self.dropout = dropout_of(config, rngs)

    def __call__(
        self,
        x: jax.Array,
        *,
        is_causal: bool,
        lengths: jax.Array | None = None,
        memory: jax.Array | None = None,
        memory_lengths: jax.Array | None = None,
        sow_weights: bool = False,
    ) -> jax.Array:
        """Sequences x [B, T, width], of which `lengths` [B] tokens are real; the same for `memory` [B, S, width]."""
        of_self: dict[str, Any] = {"is_causal": is_causal, "sow_weights": sow_weights}
        of_self |= {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths}
        x = self._around(self.attention_norm, lambda x: self.attention(x, **of_self), x)
        if memory is not None:
            of_cross: dict[str, Any] = {"query_seq_lengths": lengths, "key_value_seq_lengths": memory_lengths}
            cross, norm = self.to_memory()
            x = self._around(norm, lambda x: cross(x, memory, sow_weights=sow_weights, **of_cross), x)
        return self._around(self.feed_forward_norm, self.feed_forward, x)

    def step(
        self, x: jax.Array, lengths: jax.Array | None = None, memory_lengths: jax.Array | None = None
    ) -> jax.Array:
        """The next tokens x [B, t, width], `lengths` of them real, after `init_cache` and `remember`."""
        if self.attention.cache_index is None:
            raise ValueError("there is no cache: call `init_cache` of the stack before the first step")
        place = self.attention.cache_index.get_value()
        attend = lambda x: self.attention(x, decode=True, query_seq_lengths=lengths)
        x = self._around(self.attention_norm, attend, x)
        if self.cross is not None:
            cross, norm = self.to_memory()
            x = self._around(norm, lambda x: cross.recall(x, place, memory_lengths), x)
        return self._around(self.feed_forward_norm, self.feed_forward, x)

    def to_memory(self) -> tuple[CrossAttention, nnx.LayerNorm]:
        """Attention to the memory, and its norm."""
        if self.cross is None or self.cross_norm is None:
            raise ValueError("memory came to a block without attention to one: build it with `cross`")
        return self.cross, self.cross_norm

    def _norm(self, rngs: nnx.Rngs) -> nnx.LayerNorm:
        return nnx.LayerNorm(self.config.width, dtype=jnp.dtype(self.config.dtype), rngs=rngs)

    def _around(self, norm: nnx.LayerNorm, part: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        if self.config.norm == "before":
            return x + self.dropout(part(norm(x)))
        return norm(x + self.dropout(part(x)))


class Stack(nnx.Module):
    """Blocks one after another, and a last norm where norms come before parts.

    Args:
      name: what the stack is called in refusals, such as "encoder".
      attention: kernels of self-attention, one for each block.
      positions: how self-attention counts positions, in each block with parameters of its own.
      max_length: the longest sequence.
      is_causal: whether a token sees only itself and what stands before it.
      cross: kernels of attention to the memory, one for each block; none where there is no memory.
      max_memory: the longest memory.

    Raises:
      NotImplementedError: a kernel cannot serve in its slot.
    """

    def __init__(
        self,
        config: BlockConfig,
        name: str,
        attention: Sequence[Kernel],
        positions: RelativeEncoding,
        max_length: int,
        *,
        is_causal: bool,
        cross: Sequence[Kernel] = (),
        max_memory: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.config, self.is_causal = config, is_causal
        needed = ["causal" if is_causal else "bidirectional"] + ["bias"] * positions.is_biased(config.dims(1, 1))
        form = f"{'causal ' * is_causal}self-attention{f' with {positions!r}' * ('bias' in needed)}"
        for number, kernel in enumerate(attention):
            refusal.refuse_slot(kernel, f"{form} of {name} block {number}", needed)
        for number, kernel in enumerate(cross):
            refusal.refuse_slot(kernel, f"cross-attention of {name} block {number}", ["cross", "bidirectional"])
        others: Sequence[Kernel | None] = cross or [None] * len(attention)
        self.blocks = nnx.List(
            [
                Block(config, kernel, positions, max_length, cross=other, max_memory=max_memory, rngs=rngs)
                for kernel, other in zip(attention, others, strict=True)
            ]
        )
        is_last = config.norm == "before"
        self.norm = nnx.LayerNorm(config.width, dtype=jnp.dtype(config.dtype), rngs=rngs) if is_last else None

    def __call__(
        self,
        x: jax.Array,
        *,
        lengths: jax.Array | None = None,
        memory: jax.Array | None = None,
        memory_lengths: jax.Array | None = None,
        sow_weights: bool = False,
    ) -> jax.Array:
        """As a block does."""

        def call(block: Block, x: jax.Array) -> jax.Array:
            return block(
                x,
                is_causal=self.is_causal,
                lengths=lengths,
                memory=memory,
                memory_lengths=memory_lengths,
                sow_weights=sow_weights,
            )

        call = nnx.remat(call) if self.config.remat and not sow_weights else call
        for block in self.blocks:
            x = call(block, x)
        return self._last(x)

    def step(
        self, x: jax.Array, lengths: jax.Array | None = None, memory_lengths: jax.Array | None = None
    ) -> jax.Array:
        """As a block does."""
        for block in self.blocks:
            x = block.step(x, lengths, memory_lengths)
        return self._last(x)

    def init_cache(self, batch: int, length: int, memory: jax.Array | None = None) -> None:
        """Make the caches of all blocks, or empty them, for sequences of up to `length` tokens."""
        for block in self.blocks:
            block.attention.init_cache((batch, length, self.config.width), jnp.dtype(self.config.dtype), is_ragged=True)
            if memory is not None:
                block.to_memory()[0].remember(memory)

    def _last(self, x: jax.Array) -> jax.Array:
        return x if self.norm is None else self.norm(x)


def dropout_of(config: BlockConfig, rngs: nnx.Rngs) -> nnx.Dropout:
    """Dropout of activations; without a rate it keeps no state."""
    return nnx.Dropout(config.dropout_rate, rngs=rngs if config.dropout_rate > 0 else None)


def kernels_of(name: str, given: Kernel | Sequence[Kernel], num_layers: int) -> list[Kernel]:
    """One kernel for each block."""
    kernels = [given] * num_layers if isinstance(given, Kernel) else list(given)
    if len(kernels) != num_layers:
        raise ValueError(f"{name} lists {len(kernels)} kernels: expected one for each of {num_layers} blocks")
    for kernel in kernels:
        validation.kernel(kernel)
    return kernels
