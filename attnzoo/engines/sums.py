"""Cumulative sums of what keys bring, in the order of time, each segment for itself."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from attnzoo.contract.mask import Mask
from attnzoo.engines.heads import precise


def upto(x: jax.Array, mask: Mask) -> tuple[jax.Array, jax.Array]:
    """Sums up to and with where queries and keys stand: x [B, N, S] -> [B, N, T], [B, N, S], in float32 at least.

    Of each segment its own keys count, whatever the order of ids; segments cannot touch each other's digits.

    Example:
      >>> from attnzoo.engines import sums
      >>> of_queries, of_keys = sums.upto(jnp.ones((1, 1, 4)), Mask(2, 4, is_causal=True, query_offset=1))
      >>> of_queries.tolist(), of_keys.tolist()
      ([[[2.0, 3.0]]], [[[1.0, 2.0, 3.0, 4.0]]])
    """
    x, (batch, num_heads, _) = precise(x), x.shape
    stands = jnp.reshape(jnp.arange(mask.query_length) + mask.query_offset, (-1, 1, mask.query_length))
    if mask.segments is None:
        of_keys = jnp.cumsum(x, axis=2)
        at = jnp.broadcast_to(jnp.clip(stands, 0, mask.key_length - 1), (batch, num_heads, mask.query_length))
        return jnp.take_along_axis(of_keys, at, axis=2), of_keys
    of_queries, of_keys, stands = (jnp.broadcast_to(x[:, 0], (batch, x.shape[-1])) for x in (*mask.segments, stands))
    return jax.vmap(_of_segments)(x, of_queries, of_keys, stands)


def _of_segments(x: jax.Array, query_ids: jax.Array, key_ids: jax.Array, stands: jax.Array):
    """One example: keys and queries as one sequence, in the order of ids and positions; a query comes after its key."""
    length = len(key_ids)
    ids, at = jnp.concatenate([key_ids, query_ids]), jnp.concatenate([jnp.arange(length), stands])
    order = jnp.lexsort((jnp.arange(len(ids)) >= length, at, ids))
    place = jnp.argsort(order)
    begins = jnp.diff(ids[order], prepend=ids[order[0]] - 1) != 0
    brought = jnp.pad(x, ((0, 0), (0, len(stands))))[:, order]
    found = jax.vmap(functools.partial(_restarting, begins))(brought)[:, place]
    return found[:, length:], found[:, :length]


def _restarting(begins: jax.Array, x: jax.Array) -> jax.Array:
    """Cumulative sums [L] that begin anew where `begins` says so."""

    def joined(a, b):
        return a[0] | b[0], b[1] + jnp.where(b[0], 0, a[1])

    return jax.lax.associative_scan(joined, (begins, x))[1]
