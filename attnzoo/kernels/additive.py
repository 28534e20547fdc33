"""Additive attention: a small network scores each pair of query and key.

    e_ij = w . tanh(W_q q_i + W_k k_j + b),    y_i = sum_j softmax_j(e_ij) v_j

Cost O(T S U) tangents for `units` U, memory O(T + S) a tile at a time. Bahdanau, Cho and Bengio 2014,
arXiv:1409.0473, appendix A.1.2, where the decoder's state is the query, the annotations are keys and values, and
w is called v_a. Learned: W_q, W_k [N, H, U], b and w [N, U].
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from attnzoo import fields
from attnzoo.compute import costs, dense, streaming
from attnzoo.interface import Kernel
from attnzoo.kernels.softmax import EXACT
from attnzoo.masking import Mask

# 128 x 128 pairs of 64 units are 4 MB, about as much as the scores of a step elsewhere.
LAYOUT = functools.partial(streaming.natural_layout, tile=(128, 128), pairs=128 * 128)


@dataclasses.dataclass(frozen=True)
class Additive(Kernel):
    """Bahdanau's attention. `units` is the width of the hidden layer, the head dimension where None."""

    units: int | None = None

    supports = dataclasses.replace(EXACT, scale=False, why="its scores are a learned network's, not scaled products")

    def __post_init__(self):
        if self.units is not None:
            fields.positive_integer(self, "units")

    def init(self, rng, dims):
        units = dims.head_dim if self.units is None else self.units
        keys = jax.random.split(rng, 3)
        project = jax.nn.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=0)
        return {
            "query": project(keys[0], (dims.num_heads, dims.head_dim, units)),
            "key": project(keys[1], (dims.num_heads, dims.head_dim, units)),
            "bias": jnp.zeros((dims.num_heads, units)),
            "score": jax.random.normal(keys[2], (dims.num_heads, units)) * units**-0.5,
        }

    def head(self, params, draws, q, k, v, visible, *, bias, dropout):
        q, k, score = _project(params, q, k)
        return dense.attend(jnp.tanh(q[:, None] + k[None, :]) @ score, v, visible, bias, dropout)

    def batched(self, params, draws, q, k, v, mask, *, bias, dropout):
        num_heads, kv_heads = q.shape[2], k.shape[2]
        params = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_heads, *x.shape[1:])), params)
        project = jax.vmap(_project, (0, 2, 2), (2, 2, 0))
        q, k, score = project(params, q, jnp.repeat(k, num_heads // kv_heads, axis=2))
        units = score.shape[-1]
        return streaming.over_heads(_score, score[None], q, k, v, mask, bias, dropout, LAYOUT, per_pair=units)

    def cost(self, dims, *, is_causal=False, dtype=jnp.float32):
        units = dims.head_dim if self.units is None else self.units
        layout = LAYOUT(Mask(dims.query_length, dims.key_length, is_causal))
        projections = 2 * (dims.query_length + dims.key_length) * dims.head_dim * units
        flops = costs.softmax_over_tiles(dims, layout, 4 * units) + dims.batch * dims.num_heads * projections
        weights = dims.num_heads * 2 * units * (dims.head_dim + 1)
        # The cache holds W_k k, which each query head has of its own.
        cache = dims.batch * dims.key_length * (dims.num_heads * units + dims.num_key_value_heads * dims.value_dim)
        return costs.of(dims, flops, dtype, extra_elements=weights, state_elements=cache)


def _score(score, q, k):
    """Scores score . tanh(q_i + k_j) of projected queries and keys."""
    return jnp.tanh(q[:, None] + k[None, :]) @ score


def _project(params, q, k):
    """W_q q + b, W_k k and w, in float32 at least."""
    precise = jnp.promote_types(q.dtype, jnp.float32)
    query, key, bias, score = (params[name].astype(precise) for name in ("query", "key", "bias", "score"))
    return q.astype(precise) @ query + bias, k.astype(precise) @ key, score
