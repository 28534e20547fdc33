"""The blocks of a Transformer: attention and a feed-forward network, each with a norm and a residual.

x = x + part(norm(x))        norm="before" (Xiong et al. 2020, arXiv:2002.04745)
x = norm(x + part(x))        norm="after" (Vaswani et al. 2017, arXiv:1706.03762, section 3.1)
x = x + norm(part(norm(x)))  norm="both", two norms (Gemma 2, arXiv:2408.00118, section 2)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnzoo.contract import fields
from attnzoo.contract.sizes import Dims
from attnzoo.door import refusal, validation
from attnzoo.kernel import Kernel
from attnzoo.layers import convolution, products, projected
from attnzoo.layers.projected import Attention
from attnzoo.nnx import MultiHeadAttention
from attnzoo.positions import RelativeEncoding

NORMS = ("before", "after", "both")
KINDS: dict[str, type[nnx.LayerNorm] | type[nnx.RMSNorm]] = {"layer": nnx.LayerNorm, "rms": nnx.RMSNorm}
ACTIVATIONS: dict[str, Callable[..., jax.Array]] = {"gelu": jax.nn.gelu, "relu": jax.nn.relu}
GATED: dict[str, Callable[..., jax.Array]] = {"swiglu": jax.nn.silu, "geglu": jax.nn.gelu}
NORMS_OF_QK = ("layer", "rms", "l2")
DTYPES = ("float32", "bfloat16", "float16", "float64")
# What layers of attention take as it stands in a config, and what a model has once.
OF_ATTENTION = ("conv_width", "qkv_activation", "normalize_out", "gate", "sinks")
OF_MODEL = ("width", "norm", "norm_kind", "dropout_rate", "embedding_stddev", "dtype", "remat", "logits_soft_cap")


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """What a block is but for its kernel; plain values, so that it can be written into a file.

    Norms of queries and keys, convolution, gate, sinks and soft cap are those of self-attention; see
    `attnzoo.nnx.MultiHeadAttention`.

    Attributes:
      width: of the residual stream; `num_heads` divides it.
      num_heads: of queries.
      num_kv_heads: of keys and values, which divides `num_heads`; as many where None.
      feed_forward: width inside the feed-forward network; 4 x `width` where None.
      norm: "before" or "after" each part, or "both".
      activation: of the feed-forward network: "gelu", "relu", or a gate beside it, "swiglu" or "geglu" (Shazeer 2020,
        arXiv:2002.05202), of which two layers widen.
      dropout_rate: of what each part gives, and of the embeddings; off in `model.eval()`.
      embedding_stddev: of each coordinate of a token's embedding before training. Published models have 0.02 (GPT-2) to
        1 (T5). Small models that must tell many tokens apart, such as for associative recall, learn sooner with 0.3
        to 1, and absolute positions as large: a step of Adam moves every coordinate by about the learning rate, which
        is little only beside large ones.
      dtype: of activations; parameters are float32.
      remat: whether the backward pass computes a block's activations anew instead of keeping them.
      norm_kind: "layer", or "rms", which subtracts no mean and adds no bias (Zhang and Sennrich, arXiv:1910.07467).
      normalize_qk: of queries and keys, "layer", "rms" or "l2"; None for none.
      conv_width: tokens that a short causal convolution of queries, keys and values takes in; None for none.
      qkv_activation: of queries, keys and values, such as "silu"; None for none.
      normalize_out: whether what heads give is normalised.
      gate: the activation of its gate, "silu" or "sigmoid"; None for none.
      sinks: whether heads learn a logit that joins their sum of exponentials.
      soft_cap: of attention's scores; None for none.
      logits_soft_cap: of a language model's logits, c tanh(logit / c); None for none.

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
    norm_kind: str = "layer"
    normalize_qk: str | None = None
    conv_width: int | None = None
    qkv_activation: str | None = None
    normalize_out: bool = False
    gate: str | None = None
    sinks: bool = False
    soft_cap: float | None = None
    logits_soft_cap: float | None = None

    def __post_init__(self):
        is_there = lambda name: getattr(self, name) is not None
        for name in ("width", "num_heads", *filter(is_there, ("num_kv_heads", "feed_forward", "conv_width"))):
            fields.positive_integer(self, name)
        activations = tuple(projected.ACTIVATIONS)
        choices = {
            "norm": NORMS,
            "norm_kind": tuple(KINDS),
            "activation": (*ACTIVATIONS, *GATED),
            "dtype": DTYPES,
            "normalize_qk": NORMS_OF_QK,
            "qkv_activation": activations,
            "gate": activations,
        }
        for name in filter(is_there, choices):
            fields.one_of(self, name, choices[name])
        for name in ("remat", "normalize_out", "sinks"):
            fields.truth_value(self, name)
        for name in ("embedding_stddev", *filter(is_there, ("soft_cap", "logits_soft_cap"))):
            fields.positive_number(self, name)
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

    def state_bytes(self, kernel: Kernel, length: int) -> float | None:
        """What a block with this kernel keeps of one example of `length` tokens to decode it; None where it cannot."""
        dims = self.dims(1, length)
        kept = kernel.state_bytes(dims, self.dtype)
        if kept is None or self.conv_width is None:
            return kept
        made = jax.eval_shape(lambda: convolution.start(dims, self.conv_width or 1, (1,), jnp.dtype(self.dtype)))
        return kept + sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made))


class FeedForward(nnx.Module):
    """narrow(activation(widen(x))), or narrow(activation(widen_gate(x)) * widen(x))."""

    def __init__(self, config: BlockConfig, rngs: nnx.Rngs):
        inner, dtype = config.inner_width, jnp.dtype(config.dtype)
        self.activation = config.activation
        self.widen = nnx.Linear(config.width, inner, dtype=dtype, rngs=rngs)
        self.narrow = nnx.Linear(inner, config.width, dtype=dtype, rngs=rngs)
        if config.activation in GATED:
            self.widen_gate = nnx.Linear(config.width, inner, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = products.applied(self.widen, x)
        if self.activation in GATED:
            wide = GATED[self.activation](products.applied(self.widen_gate, x)) * wide
        else:
            wide = ACTIVATIONS[self.activation](wide)
        return products.applied(self.narrow, wide)


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
        of_self: dict[str, Any] = {
            "normalize_qk": True if config.normalize_qk == "layer" else config.normalize_qk or False,
            **{name: getattr(config, name) for name in OF_ATTENTION},
        }
        self.attention = MultiHeadAttention(
            attention=attention, positions=positions, max_length=max_length, **of_self, **heads
        )
        self.attention_norm = norm_of(config, rngs)
        self.cross = None if cross is None else CrossAttention(attention=cross, max_length=max_memory, **heads)
        self.cross_norm = None if cross is None else norm_of(config, rngs)
        self.feed_forward = FeedForward(config, rngs)
        self.feed_forward_norm = norm_of(config, rngs)
        if config.norm == "both":
            self.attention_norm_after = norm_of(config, rngs)
            self.feed_forward_norm_after = norm_of(config, rngs)
            if cross is not None:
                self.cross_norm_after = norm_of(config, rngs)
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
        of_self: dict[str, Any] = {"is_causal": is_causal, "sow_weights": sow_weights, "soft_cap": self.config.soft_cap}
        of_self |= {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths}
        x = self._around("attention", lambda x: self.attention(x, **of_self), x)
        if memory is not None:
            of_cross: dict[str, Any] = {"query_seq_lengths": lengths, "key_value_seq_lengths": memory_lengths}
            cross = self.to_memory()
            x = self._around("cross", lambda x: cross(x, memory, sow_weights=sow_weights, **of_cross), x)
        return self._around("feed_forward", self.feed_forward, x)

    def step(
        self, x: jax.Array, lengths: jax.Array | None = None, memory_lengths: jax.Array | None = None
    ) -> jax.Array:
        """The next tokens x [B, t, width], `lengths` of them real, after `init_cache` and `remember`."""
        if self.attention.cache_index is None:
            raise ValueError("there is no cache: call `init_cache` of the stack before the first step")
        place = self.attention.cache_index.get_value()
        of_self: dict[str, Any] = {"query_seq_lengths": lengths, "soft_cap": self.config.soft_cap}
        x = self._around("attention", lambda x: self.attention(x, decode=True, **of_self), x)
        if self.cross is not None:
            cross = self.cross
            x = self._around("cross", lambda x: cross.recall(x, place, memory_lengths), x)
        return self._around("feed_forward", self.feed_forward, x)

    def to_memory(self) -> CrossAttention:
        """Attention to the memory."""
        if self.cross is None:
            raise ValueError("memory came to a block without attention to one: build it with `cross`")
        return self.cross

    def _around(self, name: str, part: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        """A part with its norms and what goes past it."""
        norm = getattr(self, f"{name}_norm")
        if self.config.norm == "after":
            return norm(x + self.dropout(part(x)))
        out = part(norm(x))
        if self.config.norm == "both":
            out = getattr(self, f"{name}_norm_after")(out)
        return x + self.dropout(out)


class Stack(nnx.Module):
    """Blocks one after another, and a last norm where norms come before parts.

    Args:
      config: of all blocks, or one for each.
      name: what the stack is called in refusals, such as "encoder".
      attention: kernels of self-attention, one for each block.
      positions: how self-attention counts positions, in each block with parameters of its own.
      max_length: the longest sequence.
      is_causal: whether a token sees only itself and what stands before it.
      cross: kernels of attention to the memory, one for each block; none where there is no memory.
      max_memory: the longest memory.

    Raises:
      ValueError: blocks differ in what a model has once, or there are not as many configs as kernels.
      NotImplementedError: a kernel cannot serve in its slot.
    """

    def __init__(
        self,
        config: BlockConfig | Sequence[BlockConfig],
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
        self.config, self.is_causal = of_model(config), is_causal
        configs = configs_of(config, len(attention))
        for number, (own, kernel) in enumerate(zip(configs, attention, strict=True)):
            _refuse_slot(kernel, own, positions, is_causal, f"{name} block {number}")
        for number, kernel in enumerate(cross):
            refusal.refuse_slot(kernel, f"cross-attention of {name} block {number}", ["cross", "bidirectional"])
        others: Sequence[Kernel | None] = cross or [None] * len(attention)
        self.blocks = nnx.List(
            [
                Block(own, kernel, positions, max_length, cross=other, max_memory=max_memory, rngs=rngs)
                for own, kernel, other in zip(configs, attention, others, strict=True)
            ]
        )
        self.norm = None if self.config.norm == "after" else norm_of(self.config, rngs)

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
                block.to_memory().remember(memory)

    def _last(self, x: jax.Array) -> jax.Array:
        return x if self.norm is None else self.norm(x)


def norm_of(config: BlockConfig, rngs: nnx.Rngs) -> nnx.LayerNorm | nnx.RMSNorm:
    """A norm of the residual stream."""
    return KINDS[config.norm_kind](config.width, dtype=jnp.dtype(config.dtype), rngs=rngs)


def dropout_of(config: BlockConfig, rngs: nnx.Rngs) -> nnx.Dropout:
    """Dropout of activations; without a rate it keeps no state."""
    return nnx.Dropout(config.dropout_rate, rngs=rngs if config.dropout_rate > 0 else None)


def of_model(config: BlockConfig | Sequence[BlockConfig]) -> BlockConfig:
    """The config that says what a model has once."""
    return config if isinstance(config, BlockConfig) else config[0]


def configs_of(config: BlockConfig | Sequence[BlockConfig], num_layers: int) -> list[BlockConfig]:
    """One config for each block, which are alike in what a model has once."""
    configs = [config] * num_layers if isinstance(config, BlockConfig) else list(config)
    if len(configs) != num_layers:
        raise ValueError(f"config lists {len(configs)}: expected one for each of {num_layers} blocks, or one for all")
    for number, own in enumerate(configs):
        for name in OF_MODEL:
            if getattr(own, name) != getattr(configs[0], name):
                raise ValueError(
                    f"config: {name}={getattr(own, name)!r} in block {number} and {getattr(configs[0], name)!r} in "
                    f"block 0: expected the same {name} in all blocks"
                )
    return configs


def _refuse_slot(kernel: Kernel, config: BlockConfig, positions: RelativeEncoding, is_causal: bool, block: str) -> None:
    """Refuse self-attention that the kernel, or a convolution, cannot do."""
    if config.conv_width is not None and not is_causal:
        raise NotImplementedError(
            f"conv_width={config.conv_width} cannot serve in {block}, which looks both ways: a convolution looks back "
            "in time alone; expected None there, or a causal model"
        )
    wanted = {
        "causal" if is_causal else "bidirectional": "",
        "bias": f"{positions!r}" if positions.is_biased(config.dims(1, 1)) else None,
        "residual": "sinks" if config.sinks else None,
        "soft_cap": f"soft_cap={config.soft_cap}" if config.soft_cap is not None else None,
    }
    told = " and ".join(text for text in wanted.values() if text)
    form = f"{'causal ' * is_causal}self-attention{f' with {told}' if told else ''}"
    refusal.refuse_slot(kernel, f"{form} of {block}", [field for field, text in wanted.items() if text is not None])


def kernels_of(name: str, given: Kernel | Sequence[Kernel], num_layers: int) -> list[Kernel]:
    """One kernel for each block."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        validation.kernel(given, name)
        return [given] * num_layers
    kernels = list(given)
    if len(kernels) != num_layers:
        raise ValueError(f"{name} lists {len(kernels)} kernels: expected one for each of {num_layers} blocks")
    for number, kernel in enumerate(kernels):
        validation.kernel(kernel, f"{name}[{number}]")
    return kernels
