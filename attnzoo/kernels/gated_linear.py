"""Gated linear attention: a state whose channels forget by gates of each token.

    S_t = diag(e^(g_t)) S_(t-1) + k_t v_t^T,    o_t = scale S_t^T q_t

over the keys that a query may see, g_t <= 0 of H numbers for each token. There is no feature map and no normaliser.
Cost O((T + S) H Hv), state H Hv for each head. Yang et al. 2023, arXiv:2312.06635, eq. 3. The gate of their layer is
sigmoid^(1/16) of a projection, there of rank 16.
"""

from __future__ import annotations

import dataclasses

import jax

from attnzoo.contract.support import TokenInput
from attnzoo.engines import dense, recurrence, replay
from attnzoo.engines.state import Channels, Write
from attnzoo.recurrent import IN_TIME, Recurrent, scaled

TEMPERATURE = 16


@dataclasses.dataclass(frozen=True)
class GatedLinear(Recurrent):
    """GLA: sums of keys and values that decay by token and channel. Tokens bring `log_decay` [H].

    Example:
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> halved = {"log_decay": jnp.full((1, 4, 2, 8), jnp.log(0.5))}
      >>> attend(q, k, v, kernel=GatedLinear(), tokens=halved, scale=1 / 8, is_causal=True)[0, :, 0, 0]
      Array([1.   , 1.5  , 1.75 , 1.875], dtype=float32)
    """

    supports = IN_TIME

    def token_inputs(self, dims):
        return {"log_decay": TokenInput((dims.head_dim,), lambda x: jax.nn.log_sigmoid(x) / TEMPERATURE)}

    def head(self, params, draws, q, k, v, visible, *, scale, log_decay):
        return replay.read(q * dense.scale_of(scale, q), k, v, visible, log_decay)

    def rule(self, params, draws, scale):
        return recurrence.Rule(
            read=scaled(scale),
            write=lambda k, v, at, log_decay: Write((v,), (Channels(k, log_decay),)),
        )
