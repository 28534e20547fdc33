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

from attnzoo.contract import varying
from attnzoo.engines.alone import is_alone
from attnzoo.engines.ambient import Ambient

# Numbers that all heads together go through, up to which they fit a CPU's cache.
SMALL = 2**20

_in_turn = Ambient("heads_in_turn", False)


def are_in_turn() -> bool:
    """Whether the program that is traced is of one head after another, on a CPU."""
    return _in_turn()


def over_heads(
    one_head: Callable,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    per_head: tuple[Any, ...] = (),
    *,
    numbers: int | None = None,
    shares_keys: bool = False,
):
    """out[b, :, n] = one_head(q[b, :, n], k[b, :, n // G], v[b, :, n // G], *per_head[b, n]), G = N / K.

    Args:
      one_head: maps [T, H], [S, H], [S, Hv] and the trees of one head to [T, ...], or to a tree of such.
      q: [B, T, N, H]. k: [B, S, K, H]. v: [B, S, K, Hv].
      per_head: trees whose leaves lead with [B or 1, N or 1].
      numbers: that one head holds at once beside its operands; T S where None. Where they are few, all heads together
        are faster on a CPU, too: there is no tile that is worth keeping in cache.
      shares_keys: take the heads of a group together, so that what depends on their key head alone is done once.

    Returns:
      [B, T, N, ...], or a tree of such.
    """
    numbers = q.shape[1] * k.shape[1] if numbers is None else numbers
    few = 2 * (q.shape[1] * q.shape[3] + k.shape[1] * (k.shape[3] + v.shape[3]))
    operands = _grouped(q, k, v, per_head)
    looped = lambda *operands: _nested(one_head, jax.lax.map, _vmap if shares_keys else jax.lax.map, *operands)
    at_once = lambda *operands: _nested(one_head, _vmap, _vmap, *operands)
    if numbers <= few:
        out = at_once(*operands)
    else:
        out = _chosen(looped, at_once, q.shape[0] * q.shape[2] * numbers, *operands)
    return jax.tree.map(_ungrouped, out)


def accumulate(function: Callable, sequences: Any, leading: Any, into: tuple[Any, Any], numbers: int):
    """What `function` gives for each head, added up where heads share a place.

    Unlike `over_heads` it moves no axis of a whole array, and is not meant to be differentiated: it is for the two
    halves of a rule that is. A head finds its part of a sequence with fewer heads in that of its group.

    Args:
      function: maps (sequences of one head [L, ...], leading of one head) to the two trees of one head.
      sequences: a tree of [B, L, heads, ...], where each number of heads divides the largest.
      leading: a tree of [B or 1, N or 1, ...].
      into: shapes of the two trees of results, of [B, L, heads, ...] and of [B or 1, N or 1, ...].
      numbers: in the largest array, were all heads taken at once.
    """
    arrays = jax.tree.leaves(sequences)
    batch, sizes = arrays[0].shape[0], [x.shape[2] for x in arrays]
    looped = lambda sequences, leading: _summed_in_a_loop(function, sequences, leading, into, batch, max(sizes))
    at_once = lambda sequences, leading: _summed_at_once(
        function, sequences, leading, into, batch, max(sizes), min(sizes)
    )
    return _chosen(looped, at_once, numbers, sequences, leading)


def _chosen(looped, at_once, numbers: int, *operands):
    if isinstance(numbers, int) and numbers <= SMALL:  # a symbol is of any size
        return at_once(*operands)
    if jax.device_count() > 1:  # a loop over an axis that is split would have every device do the work of all
        alone = looped
        looped = lambda *operands: jax.lax.cond(is_alone(), alone, at_once, *operands)
    return jax.lax.platform_dependent(*operands, cpu=looped, default=at_once)


def _summed_in_a_loop(function, sequences, leading, into, batch, num_heads):
    def at(is_sequence, x, head):
        b, n = head // num_heads, head % num_heads
        if is_sequence:
            return b, slice(None), n * x.shape[2] // num_heads
        return b if x.shape[0] != 1 else 0, n if x.shape[1] != 1 else 0

    def picked(is_sequence, tree, head):
        return jax.tree.map(lambda x: x[at(is_sequence, x, head)], tree)

    def added(is_sequence, totals, parts, head):
        return jax.tree.map(lambda total, part: total.at[at(is_sequence, total, head)].add(part), totals, parts)

    def one(head, totals):
        # A CPU multiplies in float32, and would round and widen again what is as large as the scores.
        with _in_turn.during(True):
            parts = function(jax.tree.map(precise, picked(True, sequences, head)), picked(False, leading, head))
        return added(True, totals[0], parts[0], head), added(False, totals[1], parts[1], head)

    start = varying.as_of(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), into), (sequences, leading))
    return jax.lax.fori_loop(0, batch * num_heads, one, start)


def _summed_at_once(function, sequences, leading, into, batch, num_heads, kv_heads):
    split = (kv_heads, num_heads // kv_heads)

    def outward(x):
        """[B, L, heads, ...] -> [B, K, G or 1, L, ...]."""
        return jnp.moveaxis(x.reshape(*x.shape[:2], kv_heads, -1, *x.shape[3:]), 1, 3)

    def sequence_sum(part, total):
        part = part if total.shape[2] == num_heads else part.sum(axis=2, keepdims=True)
        return jnp.moveaxis(part, 3, 1).reshape(total.shape).astype(total.dtype)

    def leading_sum(part, total):
        part = part.reshape(batch, num_heads, *part.shape[3:])
        shared = tuple(axis for axis in (0, 1) if total.shape[axis] == 1)
        return part.sum(axis=shared, keepdims=True).astype(total.dtype)

    for size in (split[1], split[0], batch):
        function = over_axis(function, size)
    operands = jax.tree.map(outward, sequences), jax.tree.map(lambda x: _split_heads(x, num_heads, split), leading)
    parts = function(*operands)
    return jax.tree.map(sequence_sum, parts[0], into[0]), jax.tree.map(leading_sum, parts[1], into[1])


def _split_heads(x, num_heads: int, split: tuple[int, int]):
    """[B or 1, N or 1, ...] -> [B or 1, K or 1, G or 1, ...]."""
    return x.reshape(x.shape[:1] + (split if x.shape[1] == num_heads else (1, 1)) + x.shape[2:])


def precise(x: jax.Array) -> jax.Array:
    """In float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _grouped(q, k, v, per_head):
    """Heads outward: q [B, K, G, T, H], k and v [B, K, S, ...], leaves [B or 1, K or 1, G or 1, ...]."""
    batch, _, num_heads, _ = q.shape
    split = (k.shape[2], num_heads // k.shape[2])
    q = jnp.moveaxis(q, 1, 2).reshape(batch, *split, q.shape[1], q.shape[3])
    leaves = jax.tree.map(lambda x: _split_heads(x, num_heads, split), per_head)
    return q, jnp.moveaxis(k, 1, 2), jnp.moveaxis(v, 1, 2), leaves


def _ungrouped(x):
    """[B, K, G, T, ...] -> [B, T, N, ...]."""
    return jnp.moveaxis(x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:]), 1, 2)


def _nested(one_head, loop, group_loop, q, k, v, per_head):
    def group(k, v, q, per_head):
        return over_axis(lambda q, per_head: one_head(q, k, v, *per_head), q.shape[0], group_loop)(q, per_head)

    def example(q, k, v, per_head):
        return over_axis(group, q.shape[0], loop)(k, v, q, per_head)

    return over_axis(example, q.shape[0], loop)(q, k, v, per_head)


def _vmap(function, xs):
    return jax.vmap(function)(xs)


def over_axis(function: Callable, size: int, loop: Callable = _vmap) -> Callable:
    """`function` over leading axes of `size`, all at once or by another `loop`.

    A leaf whose leading axis is 1 is shared, not repeated.
    """

    def mapped(*args):
        leaves, treedef = jax.tree.flatten(args)
        varying = [leaf.shape[0] != 1 for leaf in leaves]

        def one(rows):
            rows = iter(rows)
            picked = [next(rows) if varies else leaf[0] for varies, leaf in zip(varying, leaves, strict=True)]
            return function(*jax.tree.unflatten(treedef, picked))

        if size == 1:
            return jax.tree.map(lambda x: x[None], one([]))
        return loop(one, [leaf for varies, leaf in zip(varying, leaves, strict=True) if varies])

    return mapped


def means(x: jax.Array, runs: int) -> jax.Array:
    """[B, T, N, H] -> [B, runs, N, H], in float32 at least: means of so many runs of tokens, all as long, of heads side
    by side, as projections leave them.
    """
    rows = x.reshape(len(x), runs, -1, x.shape[2] * x.shape[3])
    found = rows.mean(axis=2, dtype=jnp.promote_types(x.dtype, jnp.float32))
    return found.reshape(*found.shape[:2], *x.shape[2:])
