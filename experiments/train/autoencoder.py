"""A causal model that tells every token of a sequence from what it keeps at the last one.

    x = stack(embed(tokens))_T;   logits_t = head(mlp(x + position_t))

So nothing is told that the stack has not brought into one vector, whatever its kernels see. The decoder has two layers
that are as wide as the model, each after a norm, and sinusoidal positions; Poli et al. 2024, arXiv:2403.17844, for the
compression task.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from attnzoo.layers import products
from attnzoo.models import LanguageModel
from attnzoo.positions import SinusoidalPositions

PLACES = SinusoidalPositions(scale=1.0)


class AutoEncoder(nnx.Module):
    """Tokens to logits of the same tokens; arguments are those of `LanguageModel`."""

    def __init__(self, vocabulary: int, config, *, is_tied: bool = False, rngs: nnx.Rngs, **given):
        # Tied, for it has no layer of logits then, of which there is one here.
        self.encoder = LanguageModel(vocabulary, config, **given, is_tied=True, rngs=rngs)
        width, dtype = self.encoder.stack.config.width, jnp.dtype(self.encoder.stack.config.dtype)
        self.norms = nnx.List([nnx.LayerNorm(width, dtype=dtype, rngs=rngs) for _ in range(3)])
        self.layers = nnx.List([nnx.Linear(width, width, dtype=dtype, rngs=rngs) for _ in range(2)])
        self.head = None if is_tied else nnx.Linear(width, vocabulary, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Tokens int [B, T] -> float32 logits [B, T, vocabulary]."""
        kept = self.encoder.stack(self.encoder.embedding(tokens))[:, -1:]
        x = kept + PLACES.vectors((), jnp.arange(tokens.shape[1]), kept.shape[-1]).astype(kept.dtype)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = jax.nn.gelu(layer(norm(x)))
        x = self.norms[-1](x)
        logits = (
            self.encoder.embedding.logits(x) if self.head is None else products.applied(self.head, x, is_whole=True)
        )
        return logits.astype(jnp.float32)
