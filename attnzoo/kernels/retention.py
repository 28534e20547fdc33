"""Retention: linear attention that forgets at a fixed rate, another for each head.

    o_i = scale sum_j gamma^(i - j) (q_i . k_j) v_j,    gamma = 1 - 2^(-5 - head)

over the keys j that query i may see, i counted from `query_offset`; hidden positions count. Cost O((T + S) H Hv),
state H Hv for each head. Sun et al. 2023, arXiv:2307.08621, eq. 5. Its rotation is `Rotary`; its group norm, which
cancels the paper's normalisation of scores, belongs to a layer. Where nothing decays it is linear attention without a
feature map and a normaliser.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from attnzoo.engines import dense, recurrence
from attnzoo.engines.state import Channels, Write
from attnzoo.recurrent import IN_TIME, Recurrent, scaled


@dataclasses.dataclass(frozen=True)
class Retention(Recurrent):
    """RetNet's retention: weights that decay with the distance. `draws` holds the logarithm of gamma for each head.

    Example:
      >>> q = k = v = jnp.ones((1, 3, 2, 8))
      >>> 32 * (1 - jnp.exp(Retention().draw(jax.random.key(0), Dims.of(q, k, v)))).round(6)
      Array([1. , 0.5], dtype=float32)
      >>> halved = jnp.log(jnp.full(2, 0.5))
      >>> attend(q, k, v, kernel=Retention(), draws=halved, scale=1 / 8, is_causal=True)[0, :, 0, 0]
      Array([1.  , 1.5 , 1.75], dtype=float32)
    """

    supports = dataclasses.replace(IN_TIME, positions=True)

    def draw(self, rng, dims):
        """log gamma of each head: [N]."""
        return jnp.log1p(-jnp.exp2(-5.0 - jnp.arange(dims.num_heads, dtype=float)))

    def head(self, params, draws, q, k, v, visible, *, scale, positions):
        precise = jnp.promote_types(q.dtype, jnp.float32)
        distance = jnp.arange(len(q))[:, None] + positions.query_offset - jnp.arange(len(k))[None]
        kept = jnp.where(visible, jnp.exp(draws.astype(precise) * jnp.where(visible, distance, 0)), 0)
        return (dense.scores(q, k, scale) * kept @ v.astype(precise)).astype(v.dtype)

    def rule(self, params, draws, scale):
        def write(k, v, at):
            return Write((v,), (Channels(k, log_decay=draws.astype(jnp.promote_types(k.dtype, jnp.float32))),))

        return recurrence.Rule(scaled(scale), write)
