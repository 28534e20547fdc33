"""Kernels as the public code of the Long Range Arena runs them, where the library has no reason to.

    MaterialisedSoftmax        softmax(scale q k^T) v
    MixedSynthesizer           softmax(scale q k^T + R) v,    R learned, [N, longest T, longest S]
    CausalSparseTransformer    softmax over A(i) = {j <= i : j in the block of i, or j mod l = 0, or j mod l >= l - c}

The first two keep the scores of all heads, [B, N, T, S], as plain automatic differentiation does: that T^2 memory is
what the published ratios are taken to. For the third only accuracies were published; it visits only what is visible.

The second is what LRA's "Synthesizer" computes: its configuration asks for factorised random scores in place of
products (Tay et al. 2020, arXiv:2005.00743), its training script hands none of that on, and the layer's own defaults,
a full random matrix added to products, remain.

The third is LRA's Sparse Transformer: the fixed pattern of Child et al. 2019, arXiv:1904.10509, with l = 50 and c = 10,
never looking ahead though it encodes. The paper's summaries have the remainders l - c to l; the code counts positions
from 0, so that the remainder l, which is 0, is the first of a block. The learned token at which the answer is read,
where there is one, stands before the others, sees all and is seen by all; i and j count from the one after it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo import Kernel, SparseTransformer, Support
from attnzoo.engines import dense, streaming
from attnzoo.engines.schedule import Layout

KEPT = Support(mask=True, key_mask=True, scale=True, memory=2.0)


@dataclasses.dataclass(frozen=True)
class MaterialisedSoftmax(Kernel):
    """Exact attention that keeps its scores."""

    supports = KEPT

    def head(self, params, draws, q, k, v, visible, *, scale):
        return _attended(_scores(q, k, scale), v, visible)

    def batched(self, params, draws, q, k, v, call):
        return _over_heads(q, k, v, call.mask, call.scale)


@dataclasses.dataclass(frozen=True)
class MixedSynthesizer(Kernel):
    """Exact attention with learned scores added, one for each pair of positions."""

    supports = KEPT

    def init(self, rng, dims):
        """R, small: [N, T, S]."""
        return 0.02 * jax.random.normal(rng, (dims.num_heads, dims.query_length, dims.key_length))

    def head(self, params, draws, q, k, v, visible, *, scale):
        return _attended(_scores(q, k, scale) + params[: len(q), : len(k)], v, visible)

    def batched(self, params, draws, q, k, v, call):
        return _over_heads(q, k, v, call.mask, call.scale, params[:, : q.shape[1], : k.shape[1]])


@dataclasses.dataclass(frozen=True)
class CausalSparseTransformer(SparseTransformer):
    """The fixed pattern, never looking ahead; `has_class` where its first token stands for the class."""

    block_size: int = 50
    summary: int = 10
    has_class: bool = True

    supports = dataclasses.replace(
        SparseTransformer.supports,
        causal=False,
        cross=False,
        decode=False,
        why="its first token sees the whole of one sequence",
    )

    def is_summary(self, position):
        return super().is_summary(position) | (position % self.block_size == 0)

    def head(self, params, draws, q, k, v, visible, *, bias, scale, soft_cap, dropout, positions):
        i = jnp.arange(len(q))[:, None] + positions.query_offset - self.has_class
        j = jnp.arange(len(k)) - self.has_class
        joined = (i // self.block_size == j // self.block_size) | self.is_summary(j)
        joined = joined & (j <= i) | (self.has_class & ((i < 0) | (j < 0)))
        return dense.attend(dense.scores(q, k, scale, soft_cap), v, visible & joined, bias, dropout)

    def batched(self, params, draws, q, k, v, call):
        score, params = streaming.dot_product(q, call.scale, call.soft_cap)
        over = lambda call, layout: streaming.part(score, params, q, k, v, call, layout)
        causal = call.under(dataclasses.replace(call.mask, is_causal=True))
        found = [over(causal, self._own), over(causal, self._summaries)]
        if self.has_class:
            found += [over(call, _first_query), over(causal, _first_key)]
        return streaming.joined(*found)

    def _own(self, mask, drawn=()):
        return self._after_the_class(super()._own, mask)

    def _summaries(self, mask, drawn=()):
        return self._after_the_class(super()._summaries, mask)

    def _after_the_class(self, layout_of, mask) -> Layout:
        """A layout that counts from the key after the token of the class, where there is one."""
        if not self.has_class:
            return layout_of(mask)
        counted = {"query_offset": mask.query_offset - 1, "key_length": mask.key_length - 1}
        rows, columns, schedules = layout_of(dataclasses.replace(mask, **counted))
        return Layout(rows, np.where(columns >= 0, columns + 1, -1).astype(np.int32), schedules)


def _first_query(mask, drawn=()) -> Layout:
    """The query at position 0, or before it, beside all keys."""
    return streaming.listed_layout(mask, np.flatnonzero(_places(mask) < 1), np.arange(mask.key_length))


def _first_key(mask, drawn=()) -> Layout:
    """All other queries beside key 0."""
    return streaming.listed_layout(mask, np.flatnonzero(_places(mask) >= 1), np.arange(mask.key_length)[:1])


def _places(mask) -> np.ndarray:
    return np.arange(mask.query_length) + mask.query_offset


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
