"""Based: linear attention by the Taylor expansion of the exponential, to second order.

    y_i = sum_j w_ij v_j / sum_j w_ij,    w_ij = 1 + s_ij + s_ij^2 / 2 = phi(q_i) . phi(k_j),    s_ij = scale q_i . k_j

over the keys that query i may see. Features are 1, those of x, and x_a x_b for a <= b, each pair once: m = 1 + H +
H (H + 1) / 2 of them. Weights are at least 1/2, so that nothing keeps the sum from 0. Cost O((T + S) m Hv), state
m (Hv + 1) for each key head. Arora et al. 2024, arXiv:2402.18668, where queries and keys have 16 numbers
beside values of 64: m grows as H^2. Its windows of exact attention are other layers of a model.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from attnzoo.engines import dense, recurrence, state
from attnzoo.engines.state import Channels, Write
from attnzoo.recurrent import SUMMED, Recurrent


@dataclasses.dataclass(frozen=True)
class Based(Recurrent):
    """Linear attention whose features are those of a second-order Taylor expansion of softmax's exponential.

    Example:
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> bool(jnp.allclose(attend(q, k, v, kernel=Based()), v))  # a mean of equal values
      True
      >>> Based().state_bytes(Dims.of(q, k, v))  # 4 N m (Hv + 1), m = 1 + 8 + 36
      3240.0
    """

    supports = dataclasses.replace(SUMMED, scale=True)

    def head(self, params, draws, q, k, v, visible, *, scale):
        scores = dense.scores(q, k, scale)
        weights = jnp.where(visible, 1 + scores + scores**2 / 2, 0)
        total = weights.sum(axis=1, keepdims=True)
        return (weights @ v.astype(weights.dtype) / jnp.where(total == 0, 1, total)).astype(v.dtype)

    def rule(self, params, draws, scale):
        return recurrence.Rule(
            read=lambda q, at: (_features(q * dense.scale_of(scale, q)),),
            write=lambda k, v, at: Write(state.counted(v), (Channels(_features(k)),)),
            finish=state.normalised,
            powers=lambda width: _taylor(width**-0.5 if scale is None else scale),
        )


def _taylor(scale):
    """What q . k weighs by, and its powers."""
    return 1.0, scale, scale * scale / 2


def _features(x):
    """phi [t, m] of [t, H]: phi(x) . phi(y) = 1 + x . y + (x . y)^2 / 2."""
    width = x.shape[1]
    squares = x**2 * 0.5**0.5
    products = (x[:, :-apart] * x[:, apart:] for apart in range(1, width))
    return jnp.concatenate([jnp.ones_like(x[:, :1]), x, squares, *products], axis=1)
