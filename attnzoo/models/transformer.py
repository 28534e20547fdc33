"""A Transformer over tokens, with any attention kernel in any block.

    x = embed(tokens) + position
    x = x + attend(norm(x));  x = x + feed_forward(norm(x))        in each block
    logits = head(norm(x))

Vaswani et al. 2017, arXiv:1706.03762, with the normalisation before each part (Xiong et al. 2020, arXiv:2002.04745)
and learned positions, or any others: absolute ones are added to x, relative ones belong to the attention of every
block, each with parameters of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnzoo.interface import Kernel
from attnzoo.kernels import Softmax
from attnzoo.nnx import MultiHeadAttention
from attnzoo.positions import AbsoluteEncoding, LearnedPositions, NoPositions, PositionEncoding, RelativeEncoding


class Block(nnx.Module):
    """Attention and a feed-forward network of four times the width, each with norm and residual."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        attention: Kernel,
        positions: RelativeEncoding,
        max_length: int,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.attention_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.attention = MultiHeadAttention(
            num_heads,
            width,
            attention=attention,
            positions=positions,
            max_length=max_length,
            dtype=dtype,
            rngs=rngs,
        )
        self.feed_forward_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.widen = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, is_causal: bool, key_mask: jax.Array | None) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), is_causal=is_causal, key_mask=key_mask)
        return x + self.narrow(jax.nn.gelu(self.widen(self.feed_forward_norm(x))))


class Transformer(nnx.Module):
    """Tokens to logits.

    Args:
      vocabulary: number of tokens, in and out.
      max_length: the longest sequence.
      width: of the residual stream; `num_heads` divides it.
      num_layers: number of blocks.
      attention: one kernel for all blocks, or one for each.
      positions: how the model knows where a token stands.
      is_causal: whether a token may see only itself and what stands before it.
      dtype: of activations; parameters are float32.

    Raises:
      ValueError: as many kernels as blocks are expected; a sequence is longer than `max_length`.

    Example:
      >>> from flax import nnx
      >>> model = Transformer(256, max_length=64, width=32, num_layers=2, num_heads=4, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 64), int)).shape
      (2, 64, 256)
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        max_length: int,
        width: int,
        num_layers: int,
        num_heads: int,
        attention: Kernel | Sequence[Kernel] = Softmax(),
        positions: PositionEncoding = LearnedPositions(),
        is_causal: bool = True,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        kernels = [attention] * num_layers if isinstance(attention, Kernel) else list(attention)
        if len(kernels) != num_layers:
            raise ValueError(f"attention lists {len(kernels)} kernels: expected one for each of {num_layers} blocks")
        small = nnx.initializers.normal(0.02)
        self.max_length = max_length
        self.is_causal = is_causal
        self.embed = nnx.Embed(vocabulary, width, dtype=dtype, embedding_init=small, rngs=rngs)
        self.absolute = positions if isinstance(positions, AbsoluteEncoding) else None
        if self.absolute is not None:
            learned = self.absolute.init(rngs.params(), max_length, width)
            self.position = nnx.data(jax.tree.map(nnx.Param, learned))
        relative = positions if self.absolute is None else NoPositions()
        self.blocks = nnx.List(
            [Block(width, num_heads, kernel, relative, max_length, dtype, rngs) for kernel in kernels]
        )
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array, *, key_mask: jax.Array | None = None) -> jax.Array:
        """Tokens int [B, T] -> logits [B, T, vocabulary]; keys where `key_mask` [B, T] is False are hidden."""
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(f"tokens have length {length}: the model was built for at most {self.max_length}")
        x = self.embed(tokens)
        if self.absolute is not None:
            learned = jax.tree.map(lambda x: x[...], self.position, is_leaf=lambda x: isinstance(x, nnx.Param))
            x = x + self.absolute.vectors(learned, np.arange(length), x.shape[-1]).astype(x.dtype)
        for block in self.blocks:
            x = block(x, is_causal=self.is_causal, key_mask=key_mask)
        return self.head(self.norm(x)).astype(jnp.float32)
