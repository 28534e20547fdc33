"""Softmax over keys that are few: their scores at once, or a kernel of a device where one is asked for."""

from __future__ import annotations

import jax

from attnzoo.contract.call import Call
from attnzoo.contract.mask import Mask
from attnzoo.engines import dense, heads, streaming
from attnzoo.engines.fused import way


def over_heads(q: jax.Array, k: jax.Array, v: jax.Array, call: Call) -> jax.Array:
    """[B, T, N, Hv] of q [B, T, N, H], k [B, r, N or K, H] and v [B, r, N or K, Hv], by the scale and cap of a call.

    Keys and values in float32 beside queries in fewer bits stay so; a kernel of a device rounds them to these.
    """
    if way.asked() is None:
        return heads.over_heads(lambda q, k, v: of_head(q, k, v, call.scale, call.soft_cap), q, k, v)
    return by_kernel(q, k.astype(q.dtype), v.astype(q.dtype), call)


def by_kernel(q: jax.Array, k: jax.Array, v: jax.Array, call: Call, shown: jax.Array | None = None) -> jax.Array:
    """The same by a kernel of a device, where keys or queries are few; `shown` [B, r], or [B, S], are keys to see."""
    score, params = streaming.dot_product(q, call.scale, call.soft_cap)
    mask = Mask(q.shape[1], k.shape[1], keys=None if shown is None else shown[:, None])
    return streaming.over_heads(score, params, q, k, v, Call(mask), streaming.natural_layout)[0]


def of_head(q: jax.Array, k: jax.Array, v: jax.Array, scale, soft_cap, shown: jax.Array | bool = True) -> jax.Array:
    """The same of one head, q [T, H] and k [r, H], of which it sees the keys that are `shown` [r]."""
    return dense.attend(dense.scores(q.astype(k.dtype), k, scale, soft_cap), v, visible=shown)[0]
