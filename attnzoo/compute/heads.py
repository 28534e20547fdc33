"""From one head to all of them: a loop on a CPU, a batch elsewhere.

On a CPU a tile of one head stays in cache, and one head at a time is several times faster than all at once, unless
all of them are small. On an accelerator a loop over heads would leave it idle. The choice is made where the program is
lowered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Pairs of queries and keys in all heads together, up to which their scores fit a CPU's cache.
SMALL = 2**20


def over_heads(one_head: Callable, q: jax.Array, k: jax.Array, v: jax.Array, per_head: tuple[Any, ...] = ()):
    """out[b, :, n] = one_head(q[b, :, n], k[b, :, n // G], v[b, :, n // G], *per_head[b, n]), G = N / K.

    Args:
      one_head: maps [T, H], [S, H], [S, Hv] and the trees of one head to [T, ...], or to a tree of such.
      q: [B, T, N, H]. k: [B, S, K, H]. v: [B, S, K, Hv].
      per_head: trees whose leaves lead with [B or 1, N or 1].

    Returns:
      [B, T, N, ...], or a tree of such.
    """
    operands = _grouped(q, k, v, per_head)
    looped = lambda *operands: _nested(one_head, jax.lax.map, *operands)
    at_once = lambda *operands: _nested(one_head, _vmap, *operands)
    if q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1] <= SMALL:
        out = at_once(*operands)
    else:
        out = jax.lax.platform_dependent(*operands, cpu=looped, default=at_once)
    return jax.tree.map(_ungrouped, out)


def _grouped(q, k, v, per_head):
    """Heads outward: q [B, K, G, T, H], k and v [B, K, S, ...], leaves [B or 1, K or 1, G or 1, ...]."""
    batch, _, num_heads, _ = q.shape
    kv_heads = k.shape[2]
    split = (kv_heads, num_heads // kv_heads)

    def leaf(x):
        return x.reshape(x.shape[:1] + (split if x.shape[1] == num_heads else (1, 1)) + x.shape[2:])

    q = jnp.moveaxis(q, 1, 2).reshape(batch, *split, q.shape[1], q.shape[3])
    return q, jnp.moveaxis(k, 1, 2), jnp.moveaxis(v, 1, 2), jax.tree.map(leaf, per_head)


def _ungrouped(x):
    """[B, K, G, T, ...] -> [B, T, N, ...]."""
    return jnp.moveaxis(x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:]), 1, 2)


def _nested(one_head, loop, q, k, v, per_head):
    def group(k, v, q, per_head):
        return over_axis(lambda q, per_head: one_head(q, k, v, *per_head), loop, q.shape[0])(q, per_head)

    def example(q, k, v, per_head):
        return over_axis(group, loop, q.shape[0])(k, v, q, per_head)

    return over_axis(example, loop, q.shape[0])(q, k, v, per_head)


def _vmap(function, xs):
    return jax.vmap(function)(xs)


def over_axis(function: Callable, loop: Callable, size: int) -> Callable:
    """`function` over leading axes of `size`; a leaf whose leading axis is 1 is shared, not repeated."""

    def mapped(*args):
        leaves, treedef = jax.tree.flatten(args)
        varying = [leaf.shape[0] != 1 for leaf in leaves]

        def one(rows):
            rows = iter(rows)
            picked = [next(rows) if varies else leaf[0] for varies, leaf in zip(varying, leaves, strict=True)]
            return function(*treedef.unflatten(picked))

        if size == 1:
            return jax.tree.map(lambda x: x[None], one([]))
        return loop(one, [leaf for varies, leaf in zip(varying, leaves, strict=True) if varies])

    return mapped
