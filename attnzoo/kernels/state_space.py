"""A state space with a scalar transition, in its dual form: causal linear attention under a mask of decays.

    h_t = e^(g_t) h_(t-1) + beta_t k_t v_t^T,    o_t = scale h_t^T q_t
    o_i = scale sum_j e^(g_(j+1) + ... + g_i) beta_j (q_i . k_j) v_j

over the keys j that query i may see, g_t <= 0 and beta_t >= 0 numbers of each token. Cost O((T + S) H Hv), state H Hv
for each head. Dao and Gu 2024, arXiv:2405.21060: q, k and v are their C, B and X, beta is the step Delta_t, and
g_t = Delta_t A. They make both of one projection, where the layers here have two, and scale by 1.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from attnzoo.contract import gates
from attnzoo.engines import dense, recurrence
from attnzoo.engines.state import Channels, Write
from attnzoo.recurrent import IN_TIME, Recurrent, scaled


@dataclasses.dataclass(frozen=True)
class StateSpace(Recurrent):
    """Mamba-2's state space: sums of keys and values, one decay for each token. Tokens bring `log_decay` and `beta`.

    Example:
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> halved = {"log_decay": jnp.full((1, 4, 2), jnp.log(0.5)), "beta": jnp.ones((1, 4, 2))}
      >>> attend(q, k, v, kernel=StateSpace(), tokens=halved, scale=1 / 8, is_causal=True)[0, :, 0, 0]
      Array([1.   , 1.5  , 1.75 , 1.875], dtype=float32)
    """

    supports = IN_TIME

    def token_inputs(self, dims):
        return {"log_decay": gates.log_decay(), "beta": gates.step()}

    def head(self, params, draws, q, k, v, visible, *, scale, log_decay, beta):
        precise = jnp.promote_types(q.dtype, jnp.float32)
        kept = jnp.where(visible, jnp.exp(dense.behind(log_decay.astype(precise), visible)), 0)
        return (dense.scores(q, k, scale) * kept * beta[None] @ v.astype(precise)).astype(v.dtype)

    def rule(self, params, draws, scale):
        return recurrence.Rule(
            read=scaled(scale),
            write=lambda k, v, at, log_decay, beta: Write((v,), (Channels(beta[:, None] * k, log_decay),)),
        )
