"""Softmax over the visible keys of one head, as the equation reads: what every softmax kernel's `head` shares."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def scores(q: jax.Array, k: jax.Array, scale: float | jax.Array | None = None) -> jax.Array:
    """scale q k^T, [T, S], accumulated in float32 at least; `scale` is 1 / sqrt(head dim) unless given."""
    accumulate = jnp.promote_types(q.dtype, jnp.float32)
    return jnp.matmul(q, k.T, preferred_element_type=accumulate) * scale_of(scale, q)


def scale_of(scale: float | jax.Array | None, q: jax.Array) -> jax.Array:
    """`scale`, or 1 / sqrt(head dim) where None, in the dtype that scores of `q` accumulate in."""
    return jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, jnp.promote_types(q.dtype, jnp.float32))


def softmax(scores: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weights [T, S] over visible keys and their log-sum-exp [T]; a row that sees nothing gives 0 and -inf."""
    lowest = jnp.finfo(scores.dtype).min
    top = jax.lax.stop_gradient(jnp.max(jnp.where(visible, scores, lowest), axis=-1, keepdims=True, initial=lowest))
    weights = jnp.where(visible, jnp.exp(jnp.where(visible, scores - top, 0)), 0)
    total = weights.sum(axis=-1, keepdims=True)
    seen = total > 0
    total = jnp.where(seen, total, 1)
    return weights / total, jnp.where(seen, top + jnp.log(total), -jnp.inf)[:, 0]


def attend(scores, v, visible, bias=None, dropout=None):
    """softmax(scores + bias) v over visible keys: out [T, Hv], log-sum-exp [T]."""
    weights, lse = softmax(scores if bias is None else scores + bias, visible)
    if dropout is not None:
        weights = weights * dropout
    return jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=scores.dtype).astype(v.dtype), lse
