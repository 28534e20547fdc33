"""A recurrence of one head as its equation reads, for `head`: each query replays the tokens that it sees.

S <- diag(e^g) S,    S <- S + k x^T,    o = S^T q,    x = v, or by the delta rule beta (v - S^T k)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attnzoo.engines.heads import precise


def read(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    visible: jax.Array,
    log_decay: jax.Array | None = None,
    beta: jax.Array | None = None,
) -> jax.Array:
    """q [T, H], k [S, H], v [S, Hv], visible [T, S] -> [T, Hv] in the dtype of v, computed in float32 at least.

    Args:
      log_decay: g, [S] or [S, H]; nothing is lost where None.
      beta: [S], by the delta rule; values are written as they are where None.

    Example:
      >>> from attnzoo.engines import replay
      >>> q = k = v = jnp.ones((3, 1))
      >>> halved = jnp.log(jnp.full(3, 0.5))
      >>> replay.read(q, k, v, jnp.tri(3, dtype=bool), halved)[:, 0]
      Array([1.  , 1.5 , 1.75], dtype=float32)
    """
    dtype, tokens = v.dtype, {"log_decay": log_decay, "beta": beta}
    q, k, v, tokens = jax.tree.map(precise, (q, k, v, tokens))

    def write(state, token):
        k, v, seen, log_decay, beta = token
        if log_decay is not None:
            state = state * jnp.exp(jnp.where(seen[:, None], jnp.atleast_1d(log_decay)[None], 0))[:, :, None]
        new = v[None] if beta is None else beta * (v[None] - jnp.einsum("thv,h->tv", state, k))
        return state + jnp.where(seen[:, None, None], k[None, :, None] * new[:, None, :], 0), None

    empty = jnp.zeros((len(q), k.shape[1], v.shape[1]), jnp.result_type(q, k, v))
    state, _ = jax.lax.scan(write, empty, (k, v, visible.T, tokens["log_decay"], tokens["beta"]))
    return jnp.einsum("th,thv->tv", q, state).astype(dtype)
