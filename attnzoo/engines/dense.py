"""Softmax over the visible keys of one head, as the equation reads: what every softmax kernel's `head` shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


def scores(
    q: jax.Array, k: jax.Array, scale: float | jax.Array | None = None, soft_cap: jax.Array | None = None
) -> jax.Array:
    """scale q k^T, [T, S], accumulated in float32 at least, and capped; `scale` is 1 / sqrt(head dim) unless given."""
    accumulate = jnp.promote_types(q.dtype, jnp.float32)
    return capped(jnp.matmul(q, k.T, preferred_element_type=accumulate) * scale_of(scale, q), soft_cap)


def capped(scores: jax.Array, soft_cap: float | jax.Array | None) -> jax.Array:
    """soft_cap tanh(scores / soft_cap), which lies between -soft_cap and soft_cap; as they are where None."""
    return scores if soft_cap is None else soft_cap * jnp.tanh(scores / soft_cap)


def scale_of(scale: float | jax.Array | None, q: jax.Array) -> jax.Array:
    """`scale`, or 1 / sqrt(head dim) where None, in the dtype that scores of `q` accumulate in."""
    return jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, jnp.promote_types(q.dtype, jnp.float32))


class Part(NamedTuple):
    """Softmax over some keys of every query: what it gives, and what joins it with softmax over other keys."""

    out: jax.Array  # [..., T, Hv]
    top: jax.Array  # the largest score [..., T], -inf where nothing is visible; it has no gradient
    log_total: jax.Array  # log sum_j e^(s_j - top) [..., T], 0 where nothing is visible

    def lse(self) -> jax.Array:
        """The log-sum-exp of the scores, [..., T]."""
        return self.top + self.log_total


def softmax(scores: jax.Array, visible: jax.Array, shares: jax.Array | None = None) -> Part:
    """Weights [T, S] over visible keys, as `out`; a row that sees nothing gives 0.

    A score of -inf hides; the lowest finite number is a score like others, and weighs as much as its equals.

    Args:
      shares: [T, S], by which the exponentials are multiplied.
    """
    scores = jnp.where(visible, scores, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, initial=-jnp.inf))
    weights = jnp.exp(scores - finite(top)[:, None])
    weights = weights if shares is None else weights * shares
    total = weights.sum(axis=-1)
    total = jnp.where(total > 0, total, 1)
    return Part(weights / total[:, None], top, jnp.log(total))


def finite(top: jax.Array) -> jax.Array:
    """The largest score, 0 where it is -inf: from where nothing is visible, exponentials are of -inf, and so 0."""
    return jnp.where(top == -jnp.inf, 0, top)


def beside_sinks(out: jax.Array, lse: jax.Array, sinks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Softmax whose sum has one term more in each head, e^sink, that weighs nothing: outputs [B, T, N, Hv] are less by
    the share e^lse / (e^lse + e^sink), and log-sum-exps [B, T, N] are those of both.

    Args:
      sinks: [N].
    """
    sinks = sinks.astype(lse.dtype)[None, None]
    share = jnp.where(lse == -jnp.inf, 0, jax.nn.sigmoid(lse - sinks))
    return (out * share[..., None]).astype(out.dtype), jnp.logaddexp(lse, sinks)


def attend(scores, v, visible, bias=None, dropout=None):
    """softmax(scores + bias) v over visible keys: out [T, Hv], log-sum-exp [T]."""
    found = part(scores, v, visible, bias, dropout)
    return found.out, found.lse()


def biased(scores: jax.Array, bias: jax.Array | Callable | None) -> jax.Array:
    """Scores and the bias on them, an array, or what depends on them."""
    if bias is None:
        return scores
    return bias(scores) if callable(bias) else scores + bias


def part(scores, v, visible, bias=None, dropout=None, shares=None) -> Part:
    """The same as a part of softmax over more keys."""
    found = softmax(biased(scores, bias), visible, shares)
    weights = found.out if dropout is None else found.out * dropout
    out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=scores.dtype).astype(v.dtype)
    return found._replace(out=out)


def behind(x: jax.Array, visible: jax.Array) -> jax.Array:
    """What the keys behind key j bring of x [S], as far as query i sees them: sum_(l > j) x_l, [T, S].

    Example:
      >>> from attnzoo.engines import dense
      >>> dense.behind(jnp.arange(1.0, 4.0), jnp.tri(3, dtype=bool))
      Array([[0., 0., 0.],
             [2., 0., 0.],
             [5., 3., 0.]], dtype=float32)
    """
    seen = jnp.where(visible, x, 0)
    return jnp.pad(jnp.cumsum(seen[:, :0:-1], axis=1)[:, ::-1], ((0, 0), (0, 1)))
