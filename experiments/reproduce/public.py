"""Kernels as the public code of the Long Range Arena runs them, where the library has no reason to.

Both keep the scores of all heads, [B, N, T, S], as plain automatic differentiation does: that T^2 memory is what the
published ratios are taken to.

    MaterialisedSoftmax    softmax(scale q k^T) v
    MixedSynthesizer       softmax(scale q k^T + R) v,    R learned, [N, longest T, longest S]

The second is what LRA's "Synthesizer" computes: its configuration asks for factorised random scores in place of
products (Tay et al. 2020, arXiv:2005.00743), its training script hands none of that on, and the layer's own defaults,
a full random matrix added to products, remain.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo import Kernel, Support

KEPT = Support(mask=True, key_mask=True, scale=True, memory=2.0)


@dataclasses.dataclass(frozen=True)
class MaterialisedSoftmax(Kernel):
    """Exact attention that keeps its scores."""

    supports = KEPT

    def head(self, params, draws, q, k, v, visible, *, scale):
        return _attended(_scores(q, k, scale), v, visible)

    def batched(self, params, draws, q, k, v, mask, *, scale):
        return _over_heads(q, k, v, mask, scale)


@dataclasses.dataclass(frozen=True)
class MixedSynthesizer(Kernel):
    """Exact attention with learned scores added, one for each pair of positions."""

    supports = KEPT

    def init(self, rng, dims):
        """R, small: [N, T, S]."""
        return 0.02 * jax.random.normal(rng, (dims.num_heads, dims.query_length, dims.key_length))

    def head(self, params, draws, q, k, v, visible, *, scale):
        return _attended(_scores(q, k, scale) + params[: len(q), : len(k)], v, visible)

    def batched(self, params, draws, q, k, v, mask, *, scale):
        return _over_heads(q, k, v, mask, scale, params[:, : q.shape[1], : k.shape[1]])


def _scores(q, k, scale):
    return q @ k.T * (q.shape[-1] ** -0.5 if scale is None else scale)


def _over_heads(q, k, v, mask, scale, added=0.0):
    """q [B, T, N, H], k [B, S, K, H], v [B, S, K, Hv] -> [B, T, N, Hv], by two products over all heads."""
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    visible = mask.at(jnp.arange(q.shape[1]), jnp.arange(k.shape[1]))
    out = _attended(scores + added, jnp.moveaxis(v, 2, 1), visible)
    return jnp.moveaxis(out, 1, 2)


def _attended(scores, v, visible):
    """Softmax over visible keys; 0 where there are none."""
    scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.where(visible, jnp.exp(scores - top), 0)
    total = weights.sum(axis=-1, keepdims=True)
    return (weights / jnp.where(total == 0, 1, total)) @ v
