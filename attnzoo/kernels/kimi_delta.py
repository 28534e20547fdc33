"""Kimi delta attention: the gated delta rule, whose decay differs by channel of the key.

    S <- diag(e^(g_t)) S,    S_t = S + beta_t k_t (v_t - S^T k_t)^T,    o_t = scale S_t^T q_t

over the keys that a query may see, with q and k of unit norm, g_t <= 0 of H numbers for each token. Cost
O((T + S) H Hv), state H Hv for each head. Kimi Team 2025, arXiv:2510.26692. With equal decays of channels it is
`GatedDelta`.
"""

from __future__ import annotations

import dataclasses

from attnzoo.contract import gates
from attnzoo.kernels.delta import Delta


@dataclasses.dataclass(frozen=True)
class KimiDelta(Delta):
    """KDA: a decay for each token and channel beside the delta rule. Tokens bring `log_decay` [H] and `beta`.

    Attributes:
      max_beta: 1, or 2 for negative eigenvalues: the layers' `beta` lies between 0 and this.

    Example:
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> brought = {"beta": jnp.ones((1, 4, 2)), "log_decay": jnp.full((1, 4, 2, 8), -0.1)}
      >>> attend(q, k, v, kernel=KimiDelta(), tokens=brought, is_causal=True).shape
      (1, 4, 2, 8)
    """

    def token_inputs(self, dims):
        return {"log_decay": gates.log_decay((dims.head_dim,))} | super().token_inputs(dims)
