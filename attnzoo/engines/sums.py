"""Cumulative sums of what keys bring, in the order of time, each segment for itself, and differences of them.

A difference of two sums has the digits that the larger one has left. So a sum is a pair, itself and what was rounded
off it, by which a difference is as precise as a sum over those between alone (Knuth, The Art of Computer Programming,
volume 2, section 4.2.2, theorem B).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attnzoo.contract.mask import Mask
from attnzoo.engines.heads import precise


def upto(x: jax.Array, mask: Mask) -> tuple[jax.Array, jax.Array]:
    """Sums up to and with where queries and keys stand: x [B, N, S] -> pairs [B, N, T, 2], [B, N, S, 2].

    In float32 at least. Of each segment its own keys count, whatever the order of ids; segments cannot touch each
    other's digits.

    Example:
      >>> from attnzoo.engines import sums
      >>> of_queries, of_keys = sums.upto(jnp.ones((1, 1, 4)), Mask(2, 4, is_causal=True, query_offset=1))
      >>> sums.between(of_queries[0, 0], of_keys[0, 0])  # what comes after each key, up to each query
      Array([[ 1.,  0., -1., -2.],
             [ 2.,  1.,  0., -1.]], dtype=float32)
    """
    x, (batch, num_heads, _) = precise(x), x.shape
    stands = mask.stands[:, None]
    if mask.segments is None:
        of_keys = _summed(jnp.zeros(x.shape, bool), x)
        at = jnp.broadcast_to(jnp.clip(stands, 0, mask.key_length - 1), (batch, num_heads, mask.query_length))
        return jnp.take_along_axis(of_keys, at[..., None], axis=2), of_keys
    of_queries, of_keys, stands = (jnp.broadcast_to(x[:, 0], (batch, x.shape[-1])) for x in (*mask.segments, stands))
    return jax.vmap(_of_segments)(x, of_queries, of_keys, stands)


def between(of_queries: jax.Array, of_keys: jax.Array) -> jax.Array:
    """The sums [t, 2] of queries less those [s, 2] of keys: [t, s]."""
    high, low = (of_queries[:, None, part] - of_keys[None, :, part] for part in (0, 1))
    return high + low


def _of_segments(x: jax.Array, query_ids: jax.Array, key_ids: jax.Array, stands: jax.Array):
    """One example: keys and queries as one sequence, in the order of ids and positions; a query comes after its key."""
    length = len(key_ids)
    ids, at = jnp.concatenate([key_ids, query_ids]), jnp.concatenate([jnp.arange(length), stands])
    order = jnp.lexsort((jnp.arange(len(ids)) >= length, at, ids))
    begins = jnp.diff(ids[order], prepend=ids[order[0]] - 1) != 0
    brought = jnp.pad(x, ((0, 0), (0, len(stands))))[:, order]
    found = _summed(jnp.broadcast_to(begins, brought.shape), brought)[:, jnp.argsort(order)]
    return found[:, length:], found[:, :length]


def _summed(begins: jax.Array, x: jax.Array) -> jax.Array:
    """Cumulative sums of x [..., L], anew where `begins` says so: pairs [..., L, 2]."""

    def joined(a, b):
        high, low = (jnp.where(b[0], 0, part) for part in a[1:])
        total, rounded = _added(high, b[1])
        return a[0] | b[0], total, low + b[2] + rounded

    _, high, low = jax.lax.associative_scan(joined, (begins, x, jnp.zeros_like(x)), axis=x.ndim - 1)
    return jnp.stack([high, low], axis=-1)


def _added(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a + b, and what was rounded off it, which has no gradient."""
    total = a + b
    a, b, rounded = jax.lax.stop_gradient((a, b, total))
    of_b = rounded - a
    return total, (a - (rounded - of_b)) + (b - of_b)
