"""Additive attention: a small network scores each pair of query and key.

    e_ij = w . tanh(W_q q_i + W_k k_j + b),    y_i = sum_j softmax_j(e_ij) v_j

Cost O(T S U) tangents for `units` U, memory O(T + S) a tile at a time. Bahdanau, Cho and Bengio 2014,
arXiv:1409.0473, appendix A.1.2, where the decoder's state is the query, the annotations are keys and values, and
w is called v_a. Learned: W_q, W_k [N, H, U], b and w [N, U].
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo.contract import fields
from attnzoo.engines import across, caching, dense, everywhere, heads, streaming
from attnzoo.kernel import Kernel
from attnzoo.kernels.softmax import EXACT


@dataclasses.dataclass(frozen=True)
class Additive(Kernel):
    """Bahdanau's attention: scores by a hidden layer of tangents.

    `units` is the width of that layer, the head dimension where None.

    Raises:
      ValueError: `units` is no integer >= 1.

    Example:
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> kernel = Additive(units=3)
      >>> params = kernel.init(jax.random.key(0), Dims.of(q, k, v))
      >>> params["query"].shape, params["score"].shape
      ((2, 8, 3), (2, 3))
      >>> attend(q, k, v, kernel=kernel, params=params).shape
      (1, 4, 2, 8)
    """

    units: int | None = None

    supports = dataclasses.replace(
        EXACT, scale=False, soft_cap=False, why="its scores are a learned network's, not scaled products"
    )

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
        k = _project_keys(params, k)
        q, score = _project_queries(params, q)
        return dense.attend(jnp.tanh(q[:, None] + k[None, :]) @ score, v, visible, bias, dropout)

    def batched(self, params, draws, q, k, v, call):
        num_heads, (kv_heads, head_dim) = q.shape[2], k.shape[2:]
        params = _for_each_head(params, num_heads)
        q, score = jax.vmap(_project_queries, (0, 2), (2, 0))(params, q)
        units = score.shape[-1]
        learned = {"score": score[None]}
        if call.shards is not None and kv_heads * head_dim < num_heads * units:
            learned["key"] = params["key"][None]  # keys are sent as they came, which are less, and projected there
        else:
            k = jax.vmap(_project_keys, (0, 2), 2)(params, jnp.repeat(k, num_heads // kv_heads, axis=2))

        def of_tile(learned, q, k, dtype):
            return _score(learned["score"], q, _project_keys(learned, k) if "key" in learned else k)

        layout = streaming.pairwise_layout
        return across.over_heads(of_tile, learned, q, k, v, call, layout, per_pair=units)

    def meets(self, shards, mask):
        return True

    def start(self, params, draws, dims, max_length, dtype):
        """W_k k, which each query head has of its own, and the values."""
        shape = (dims.batch, max_length, dims.num_heads, params["key"].shape[-1])
        return caching.empty(dims, max_length, dtype) | {"key": jnp.zeros(shape, dtype)}

    def step(self, params, draws, cache, q, k, v, positions, call):
        num_heads, kv_heads = q.shape[2], k.shape[2]
        params = _for_each_head(params, num_heads)
        projected = jax.vmap(_project_keys, (0, 2), 2)(params, jnp.repeat(k, num_heads // kv_heads, axis=2))
        slots = caching.slots_of(call.shards, cache["value"].shape[1])
        cache = caching.written(cache, {"key": projected, "value": v}, positions - slots[0])

        def one_head(q, _, v, k, params, positions, call):
            q, score = _project_queries(params, q)
            scores = jax.lax.map(lambda q: _score(score, q[None], k)[0], q)
            bias = caching.bias_at(call.bias, positions, slots)
            return dense.part(scores, v, caching.seen(positions, slots, call.mask), bias)

        keys, params = jnp.moveaxis(cache["key"], 2, 1), jax.tree.map(lambda x: x[None], params)
        own = keys, params, positions[:, None], call.by_head(num_heads)
        found = heads.over_heads(one_head, q, cache["value"], cache["value"], own)
        return cache, everywhere.of_each(call.shards, found)

    def meets_cache(self):
        return True


def _score(score, q, k):
    """Scores score . tanh(q_i + k_j) of projected queries and keys."""
    return jnp.tanh(q[:, None] + k[None, :]) @ score


def _project_queries(params, q):
    """W_q q + b, and w beside it, in float32 at least."""
    precise = jnp.promote_types(q.dtype, jnp.float32)
    query, bias, score = (params[name].astype(precise) for name in ("query", "bias", "score"))
    return q.astype(precise) @ query + jnp.expand_dims(bias, range(q.ndim - 1)), score


def _project_keys(params, k):
    """W_k k, in float32 at least."""
    precise = jnp.promote_types(k.dtype, jnp.float32)
    return k.astype(precise) @ params["key"].astype(precise)


def _for_each_head(params, num_heads):
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_heads, *x.shape[1:])), params)
