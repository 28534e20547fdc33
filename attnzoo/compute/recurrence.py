"""Linear attention: keys are summed before queries meet them.

    y_i = sum_j w_ij v_j / (sum_j w_ij + epsilon),    w_ij = e^(b_j - M_i) phi_i . psi_j + floor_i

over the keys j that query i may see, where phi and psi are features of queries and keys, b_j the logarithm of a
scale that was taken out of psi_j, M_i the largest b_j that i sees, and floor_i a weight that all keys share. b and
floor are optional. Work and memory are O(T + S): sums over everything where all queries see the same keys, else a
scan over chunks that carries the sums so far (Katharopoulos et al. 2020, arXiv:2006.16236; the chunked form of Hua
et al. 2022, arXiv:2202.10447).

Where there are segments, tokens are brought into the order of their ids first, and of positions among equals, so that
ids may come in any order. A query is placed at the last key that it sees, so that causality and segments become one
thing: the keys up to a place, of one segment. Places do not decrease along the queries, so chunks of queries and of
keys meet like two sorted lists that are merged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.compute import heads
from attnzoo.compute.groups import Order
from attnzoo.masking import Mask

# Measured on a CPU at 64 features and 8 heads: forward, 64 takes two thirds of the time of 128.
CHUNK = 64
LOWEST = -1e30


class Features(NamedTuple):
    """Feature maps of one head.

    `query` maps q [t, H] to phi [t, F] and floor [t] or None; `key` maps k [s, H] to psi [s, F] and b [s] or None.
    """

    query: Callable
    key: Callable


class Sums(NamedTuple):
    """What a query needs to know of the keys before its chunk. Those of one segment, scaled by e^-top."""

    values: jax.Array  # sum_j e^(b_j - top) psi_j v_j^T: [F, Hv]
    weights: jax.Array  # sum_j e^(b_j - top) psi_j: [F]
    plain_values: jax.Array  # sum_j v_j: [Hv]
    count: jax.Array  # number of keys: []
    top: jax.Array  # largest b_j: []


class Queries(NamedTuple):
    """A chunk of queries."""

    q: jax.Array  # [t, H]
    place: jax.Array  # int [t]: the last key that it may see
    segment: jax.Array  # int [t]


class Keys(NamedTuple):
    """A chunk of keys."""

    k: jax.Array  # [s, H]
    v: jax.Array  # [s, Hv]
    index: jax.Array  # int [s]
    segment: jax.Array  # int [s]
    shown: jax.Array  # bool [s]
    next_segment: jax.Array  # int []: of the first key after this chunk


def attend(
    features_of: Callable[[Any], Features],
    constants: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    *,
    epsilon: float = 0.0,
    chunk: int = CHUNK,
) -> jax.Array:
    """All heads: q [B, T, N, H], k [B, S, K, H], v [B, S, K, Hv] -> [B, T, N, Hv].

    Args:
      features_of: the maps of one head, from its part of `constants`; float32 at least comes in.
      constants: a tree whose leaves lead with N, or with 1 where heads share. Heads of queries that share their key
        head and their constants share sums, too.
      epsilon: added to the normaliser.
    """
    chunk = max(1, min(chunk, max(q.shape[1], k.shape[1])))  # a short sequence is one chunk, as long as it is
    if mask.key_segments is not None:
        out = _merged(features_of, constants, q, k, v, mask, epsilon, chunk)
    elif mask.is_causal and not mask.is_placed:
        out = _merged(features_of, constants, q, k, v, mask.in_one_segment(len(q)), epsilon, chunk)
    elif mask.is_causal or chunk == max(q.shape[1], k.shape[1]):
        out = _aligned(features_of, constants, q, k, v, mask, epsilon, chunk)
    else:
        out = _whole(features_of, constants, q, k, v, mask, epsilon)
    return out.astype(v.dtype)


def start(batch: int, heads: int, features: int, value_dim: int, dtype) -> Sums:
    """The sums of decoding before the first token: leaves lead with [B, heads], in float32 at least."""
    none = _no_sums(features, value_dim, jnp.promote_types(dtype, jnp.float32))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, heads, *x.shape)), none)


def step(
    features_of: Callable, constants, sums: Sums, q, k, v, shown, *, epsilon: float = 0.0
) -> tuple[Sums, jax.Array]:
    """The tokens that come next, of all heads: the sums with them, and their outputs [B, t, N, Hv].

    Args:
      features_of: `features_of(constants)` of the heads that share sums -> Features.
      constants: a tree whose leaves lead with the heads of `sums`, or with 1.
      sums: lead with [B, K], or with [B, N] where each query head has keys of its own.
      q: [B, t, N, H]. k: [B, t, K, H]. v: [B, t, K, Hv].
      shown: bool [B, t], False for padding.
    """
    own, dtype = sums.count.shape[1], sums.values.dtype
    constants = jax.tree.map(lambda x: jnp.broadcast_to(x, (own, *x.shape[1:])), constants)
    k, v = (jnp.repeat(x.astype(dtype), own // x.shape[2], axis=2) for x in (k, v))
    groups = q.astype(dtype).reshape(*q.shape[:2], own, -1, q.shape[3])

    def group(constants, sums, q, k, v, shown):
        return _stepped(features_of(constants), sums, q, k, v, shown, epsilon)

    over_heads = jax.vmap(group, (0, 0, 1, 1, 1, None), (0, 1))
    sums, out = jax.vmap(over_heads, (None, 0, 0, 0, 0, 0))(constants, sums, groups, k, v, shown)
    return sums, out.reshape(*q.shape[:3], v.shape[3])


def _stepped(features: Features, sums: Sums, q, k, v, shown, epsilon):
    """The query heads of a group, q [t, G, H], beside one head of keys, k [t, H] and v [t, Hv]."""
    psi, b = features.key(k)
    inside = jnp.tri(len(k), dtype=bool)  # padding stands at the end, where no token looks

    def one_head(q):
        phi, floor = features.query(q)
        return _normalised(*_join(phi, floor, psi, b, v, inside, shown, sums), epsilon)

    nothing = jnp.zeros(len(k), int)
    return _absorb(sums, psi, b, Keys(k, v, nothing, nothing, shown, None), 0), jax.vmap(one_head, 1, 1)(q)


def _whole(features_of, constants, q, k, v, mask: Mask, epsilon):
    """Every query sees every key that is shown."""
    widest = jax.eval_shape(lambda x: features_of(_first(constants)).key(x)[0], q[0, :1, 0]).shape[-1]

    def one_head(q, k, v, constants, mask):
        features = features_of(constants)
        q, k, v = map(heads.precise, (q, k, v))
        nothing = jnp.zeros(len(k), int)
        keys = Keys(k, v, nothing, nothing, jnp.ones(len(k), bool) if mask.keys is None else mask.keys, None)
        sums = _absorb(_empty(features, k, v), *features.key(k), keys, 0)
        phi, floor = features.query(q)
        return _normalised(*_meet(phi, floor, sums, sums.top), epsilon)

    per_head = jax.tree.map(lambda x: x[None], constants), mask
    numbers = (mask.query_length + mask.key_length) * widest
    return heads.over_heads(one_head, q, k, v, per_head, numbers=numbers, shares_keys=_is_shared(constants))


def _aligned(features_of, constants, q, k, v, mask: Mask, epsilon, chunk):
    """Without segments: causal, where query i stands beside key i + offset and chunks go in pairs, or all in one."""
    offset, length, key_length = mask.query_offset if mask.is_causal else 0, q.shape[1], k.shape[1]
    before = min(length, max(0, -offset))
    lead = min(max(0, offset), max(key_length - 1, 0))
    chunks = -(-max(key_length, lead + length - before) // chunk)
    cut = functools.partial(_cut, chunks=chunks, chunk=chunk)
    # What is the same in all chunks is known beforehand, so that its arithmetic disappears.
    index, nothing = np.arange(chunk)[None], np.zeros((1, chunk), int)
    place, everything = index if mask.is_causal else np.full_like(index, chunk - 1), np.ones((1, chunk), bool)

    def meet(q, k, v, shown):
        keys = Keys(k, v, index, nothing, everything if shown is None else shown, nothing[:, 0])
        return Queries(q, place, nothing), keys, everything[:, 0]

    shown = None if mask.keys is None else cut(mask.keys[:, 0])
    if shown is None and lead + length - before > key_length:
        shown = cut(np.ones((1, key_length), bool))  # what fills the last chunk is hidden from queries that reach it
    out = _scan(features_of, constants, (cut(q[:, before:], lead=lead), cut(k), cut(v), shown), meet, epsilon)
    out = _uncut(out)[:, lead : lead + length - before]
    return jnp.pad(out, ((0, 0), (before, 0), (0, 0), (0, 0)))


def _merged(features_of, constants, q, k, v, mask: Mask, epsilon, chunk):
    """With segments: the chunks of queries and keys that meet, found by merging their places."""
    query_segment, key_segment = mask.query_segments[:, 0], mask.key_segments[:, 0]
    queries_in_order, keys_in_order = (jax.vmap(lambda x: _sorted(x, chunk))(x) for x in (query_segment, key_segment))
    cut_queries, cut_keys = (functools.partial(_cut_along, order) for order in (queries_in_order, keys_in_order))
    stands = jnp.arange(mask.query_length)[None] + mask.query_offset if mask.is_causal else mask.key_length
    stands = jnp.broadcast_to(stands, query_segment.shape)
    place, seen = jax.vmap(_places)(query_segment, key_segment, stands)
    query_chunks, key_chunks = queries_in_order.tokens.shape[1], keys_in_order.tokens.shape[1]
    last = cut_queries(jnp.maximum(place, 0))[..., -1].T // chunk
    step = jnp.arange(query_chunks + key_chunks - 1)
    row = jax.vmap(lambda last: jnp.searchsorted(jnp.arange(query_chunks - 1) + last[:-1], step))(last).T
    column = step[:, None] - row
    places = cut_queries(jnp.where(seen, place, -1) + 1) - 1
    queries = Queries(cut_queries(q), places, cut_queries(query_segment))
    segment = cut_keys(key_segment)
    following = jnp.roll(segment[..., 0], -1, axis=0)
    index = jnp.broadcast_to(jnp.arange(key_chunks * chunk).reshape(key_chunks, 1, chunk), segment.shape)
    shown = jnp.ones(key_segment.shape, bool) if mask.keys is None else mask.keys[:, 0]
    shown = cut_keys(jnp.broadcast_to(shown, key_segment.shape))
    keys = Keys(cut_keys(k), cut_keys(v), index, segment, shown, following)
    each = jax.vmap(lambda x, chunk: x[chunk], in_axes=1, out_axes=1)
    queries, keys = (jax.tree.map(lambda x, at=at: each(x, at), tree) for tree, at in ((queries, row), (keys, column)))
    advances = jnp.diff(column, axis=0, append=column[-1:]) > 0
    out = _scan(features_of, constants, (queries, keys, advances), lambda *chunk: chunk, epsilon)
    add = jax.vmap(lambda out, row: jnp.zeros((query_chunks, *out.shape[1:]), out.dtype).at[row].add(out), 1)
    return jax.vmap(Order.restored)(queries_in_order, add(out, row))


def _sorted(segment: jax.Array, chunk: int) -> Order:
    """Tokens in the order of their ids, int [L], in chunks."""
    tokens = jnp.argsort(segment, stable=True)
    slots = jnp.zeros_like(tokens).at[tokens].set(jnp.arange(len(tokens), dtype=tokens.dtype))
    padded = jnp.pad(tokens, (0, -len(tokens) % chunk), constant_values=-1)
    return Order(padded.reshape(-1, chunk), slots)


def _cut_along(order: Order, x: jax.Array) -> jax.Array:
    """[B, L, ...] -> [chunks, B, chunk, ...] in an order of each example."""
    return jnp.moveaxis(jax.vmap(Order.grouped)(order, x), 1, 0)


def _places(query_segment: jax.Array, key_segment: jax.Array, stands: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The last key of its segment up to where each query [T] stands, by its place in their order; and whether one is.

    Where none is, it is the place of some other key, so that places never decrease along sorted queries.
    """
    keys = jnp.arange(len(key_segment))
    is_query = jnp.concatenate([jnp.zeros_like(keys), jnp.ones_like(stands)])
    by_position, by_segment = jnp.concatenate([keys, stands]), jnp.concatenate([key_segment, query_segment])
    order = jnp.lexsort((is_query, by_position, by_segment))
    come = jnp.cumsum(1 - is_query[order]) - 1
    place = jnp.zeros_like(come).at[order].set(come)[len(keys) :]
    found = jnp.sort(key_segment)[jnp.maximum(place, 0)]
    return place, (place >= 0) & (found == query_segment)


def _cut(x: jax.Array, chunks: int, chunk: int, lead: int = 0) -> jax.Array:
    """[B, L, ...] -> [chunks, B, chunk, ...], with `lead` positions before the first."""
    behind = chunks * chunk - lead - x.shape[1]
    padded = jnp.pad(x, [(0, 0), (lead, behind)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(padded.reshape(x.shape[0], chunks, chunk, *x.shape[2:]), 1, 0)


def _uncut(x: jax.Array) -> jax.Array:
    """[chunks, B, chunk, ...] -> [B, chunks * chunk, ...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


def _scan(features_of, constants, chunks, meet, epsilon):
    """Outputs [steps, B, t, N, Hv] of chunks of queries beside chunks of keys.

    Chunks keep the layout [B, t, N, H] of the whole; heads are moved outward one chunk at a time, in cache.

    Args:
      chunks: a tree of arrays that lead with [steps].
      meet: makes of one step of it the queries, the keys, and whether the keys change next, each led by [B or 1].
    """
    queries, keys, _ = jax.eval_shape(lambda chunks: meet(*_first(chunks)), chunks)
    (batch, _, num_heads, _), key_heads = queries.q.shape, keys.k.shape[2]
    sum_heads = key_heads if _is_shared(constants) else num_heads

    def head(constants, sums, q, k, v, queries, keys, advances):
        """The heads of queries [g, t, H] that share these keys [s, H] and their sums."""
        features = features_of(constants)
        psi, b = features.key(k)
        one = lambda q: _beside(features, q, psi, b, v, queries, keys, sums, epsilon)
        out = heads.over_axis(one, _vmap, len(q))(q)
        if sums is None:
            return None, out
        follows = _kept(sums, keys.next_segment == keys.segment[0])
        follows = _absorb(follows, psi, b, keys._replace(k=k, v=v), keys.next_segment)
        return jax.tree.map(lambda new, old: jnp.where(advances, new, old), follows, sums), out

    def example(sums, queries, keys, advances):
        q, k, v = (jnp.moveaxis(x, 1, 0) for x in map(heads.precise, (queries.q, keys.k, keys.v)))
        k, v = (jnp.repeat(x, sum_heads // key_heads, axis=0) for x in (k, v))
        rest = queries._replace(q=None), keys._replace(k=None, v=None), advances
        each = heads.over_axis(lambda *operands: head(*operands, *rest), _vmap, sum_heads)
        sums, out = each(constants, sums, q.reshape(sum_heads, -1, *q.shape[1:]), k, v)
        return sums, jnp.moveaxis(out.reshape(num_heads, *out.shape[2:]), 0, 1)

    def step(sums, chunk):
        return heads.over_axis(example, _vmap, batch)(sums, *meet(*chunk))

    if len(jax.tree.leaves(chunks)[0]) == 1:
        return step(None, _first(chunks))[1][None]
    nothing = [jnp.zeros((1, x.shape[-1]), x.dtype) for x in (keys.k, keys.v)]
    empty = _empty(features_of(_first(constants)), *map(heads.precise, nothing))
    start = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, sum_heads, *x.shape)), empty)
    return jax.lax.scan(jax.checkpoint(step), start, chunks)[1]


def _beside(features, q, psi, b, v, queries: Queries, keys: Keys, sums: Sums, epsilon):
    """Outputs [t, Hv] of one head of queries over the keys of the chunk and those before it."""
    first, last = keys.index[0], keys.index[-1]
    live = (queries.place >= first) & (queries.place <= last)
    inside = live[:, None] & keys.shown[None] & (keys.index[None] <= queries.place[:, None])
    inside &= queries.segment[:, None] == keys.segment[None]
    before = live & (queries.segment == keys.segment[0])
    return _normalised(*_join(*features.query(q), psi, b, v, inside, before, sums), epsilon)


def _is_shared(constants) -> bool:
    """Whether all heads have the same constants."""
    return all(x.shape[0] == 1 for x in jax.tree.leaves(constants))


def _first(constants):
    return jax.tree.map(lambda x: x[0], constants)


def _vmap(function, xs):
    return jax.vmap(function)(xs)


def _join(phi, floor, psi, b, v, inside, before, sums: Sums | None):
    """Numerators [t, Hv] and denominators [t] over keys of the chunk (where `inside`) and those before it, if any."""
    weights = phi @ psi.T
    top = None
    if b is not None:
        top = jnp.max(jnp.where(inside, b, LOWEST), axis=1)
        top = top if sums is None else jnp.maximum(top, jnp.where(before, sums.top, LOWEST))
        weights *= jnp.exp(jnp.where(inside, b[None] - top[:, None], LOWEST))
    if floor is not None:
        weights += floor[:, None]
    weights = jnp.where(inside, weights, 0)
    above, below = weights @ v, weights.sum(axis=1)
    if sums is None:
        return above, below
    earlier = _meet(phi, floor, sums, top)
    return above + jnp.where(before[:, None], earlier[0], 0), below + jnp.where(before, earlier[1], 0)


def _meet(phi, floor, sums: Sums, top):
    """Numerators and denominators of queries that see all keys in `sums`, scaled by e^-top."""
    shrink = 1.0 if top is None else jnp.exp(jnp.minimum(sums.top - top, 0))
    above, below = phi @ sums.values, phi @ sums.weights
    above, below = above * jnp.reshape(shrink, (-1, 1)), below * shrink
    if floor is not None:
        above += floor[:, None] * sums.plain_values[None]
        below += floor * sums.count
    return above, below


def _absorb(sums: Sums, psi, b, keys: Keys, segment) -> Sums:
    """`sums` with the shown keys of one segment."""
    taken = keys.shown & (keys.segment == segment)
    top, shrink, weight = sums.top, 1.0, taken.astype(psi.dtype)
    if b is not None:
        top = jnp.maximum(top, jnp.max(jnp.where(taken, b, LOWEST), initial=LOWEST))
        shrink = jnp.exp(sums.top - top)
        weight = jnp.exp(jnp.where(taken, b - top, LOWEST))
    psi = psi * weight[:, None]
    return Sums(
        sums.values * shrink + psi.T @ keys.v,
        sums.weights * shrink + psi.sum(axis=0),
        sums.plain_values + taken.astype(psi.dtype) @ keys.v,
        sums.count + taken.sum(dtype=psi.dtype),
        top,
    )


def _kept(sums: Sums, condition) -> Sums:
    """`sums`, or empty ones where they are of a segment that has ended."""
    kept = jax.tree.map(lambda x: jnp.where(condition, x, 0), sums)
    return kept._replace(top=jnp.where(condition, sums.top, LOWEST))


def _empty(features, k, v) -> Sums:
    psi = jax.eval_shape(features.key, k)[0]
    return _no_sums(psi.shape[-1], v.shape[-1], psi.dtype)


def _no_sums(width: int, value_dim: int, dtype) -> Sums:
    zeros = functools.partial(jnp.zeros, dtype=dtype)
    return Sums(zeros((width, value_dim)), zeros(width), zeros(value_dim), zeros(()), jnp.asarray(LOWEST, dtype))


def _normalised(above, below, epsilon):
    below = below + epsilon
    return above / jnp.where(below == 0, 1, below)[:, None]
