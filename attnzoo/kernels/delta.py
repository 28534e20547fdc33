"""The delta rule: a token writes what the state lacks of its value.

    S_t = S_(t-1) + beta_t k_t (v_t - S_(t-1)^T k_t)^T,    o_t = scale S_t^T q_t

over the keys that a query may see, with q and k of unit norm. Cost O((T + S) H Hv), state H Hv for each head; the chunk
form solves a triangular system (`engines/state.py`). Schlag, Irie and Schmidhuber 2021, arXiv:2102.11174, eq. 21-24;
norms and chunks: Yang et al. 2024, arXiv:2406.06484. With beta up to 2 the transition I - beta k k^T has eigenvalues
down to -1, and tracks states such as parity: Grazzi et al. 2024, arXiv:2411.12537.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo.contract import gates
from attnzoo.engines import dense, recurrence, replay
from attnzoo.engines.state import Channels, Write
from attnzoo.recurrent import IN_TIME, Recurrent, scaled

EPSILON = 1e-6  # beside squared norms, as in public code


@dataclasses.dataclass(frozen=True)
class Delta(Recurrent):
    """DeltaNet: a state that is corrected by the delta rule. Tokens bring `beta`, how much of the error is written.

    Attributes:
      max_beta: 1, or 2 for negative eigenvalues: the layers' `beta` lies between 0 and this.

    Raises:
      ValueError: `max_beta` is neither.

    Example:
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> beta = jnp.ones((1, 4, 2))
      >>> out = attend(q, k, v, kernel=Delta(), tokens={"beta": beta}, scale=1.0, is_causal=True)
      >>> bool(jnp.allclose(out, v, atol=1e-5))  # what was written is found by its key, however often it comes
      True
    """

    max_beta: int = 1

    supports = IN_TIME

    def __post_init__(self):
        if self.max_beta not in (1, 2):
            raise ValueError(f"{type(self).__name__}(max_beta={self.max_beta!r}): max_beta must be 1 or 2")

    def token_inputs(self, dims):
        return {"beta": gates.beta(self.max_beta)}

    def head(self, params, draws, q, k, v, visible, *, scale, beta, log_decay=None):
        q, k = unit(q), unit(k)
        return replay.read(q * dense.scale_of(scale, q), k, v, visible, log_decay, beta)

    def rule(self, params, draws, scale):
        return recurrence.Rule(
            read=lambda q, at: scaled(scale)(unit(q), at),
            write=lambda k, v, at, beta, log_decay=None: Write((v,), (Channels(unit(k), log_decay),), beta),
        )


def unit(x: jax.Array) -> jax.Array:
    """Rows of norm 1, in float32 at least; 0 where a row is 0."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + EPSILON)
