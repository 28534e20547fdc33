"""Linear attention: keys are summed before queries meet them.

    y_i = sum_j w_ij v_j / (sum_j w_ij + epsilon),    w_ij = e^(b_j - M_i) phi_i . psi_j + floor_i

over the keys j that query i may see, where phi and psi are features of queries and keys, b_j the logarithm of a
scale that was taken out of psi_j, M_i the largest b_j that i sees, and floor_i a weight that all keys share. b and
floor are optional. Work and memory are O(T + S): sums over everything where all queries see the same keys, else a
scan over chunks that carries the sums so far (Katharopoulos et al. 2020, arXiv:2006.16236; the chunked form of Hua
et al. 2022, arXiv:2202.10447).

A query is placed at the last key that it sees, so that causality and segments become one thing: the keys up to a
place, of one segment. Places do not decrease along the queries, so chunks of queries and of keys meet like two
sorted lists that are merged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.interface import Dims
from attnzoo.masking import Mask, pick

# Measured on a CPU at 64 features: 128 is within 10% of the best from 1,024 to 65,536 tokens.
CHUNK = 128
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


def attend(features: Features, q, k, v, mask: Mask, *, epsilon: float = 0.0, chunk: int = CHUNK) -> jax.Array:
    """One head: q [T, H], k [S, H], v [S, Hv] -> [T, Hv]."""
    accumulate = jnp.promote_types(q.dtype, jnp.float32)
    q, k, values = (x.astype(accumulate) for x in (q, k, v))
    shown = jnp.ones(len(k), bool) if mask.keys is None else mask.keys
    if mask.key_segments is not None:
        out = _merged(features, q, k, values, shown, mask, epsilon, chunk)
    elif mask.is_causal:
        out = _aligned(features, q, k, values, shown, mask.query_offset, epsilon, chunk)
    else:
        out = _whole(features, q, k, values, shown, epsilon)
    return out.astype(v.dtype)


def start(batch: int, heads: int, features: int, value_dim: int, dtype) -> Sums:
    """The sums of decoding before the first token: leaves lead with [B, heads], in float32 at least."""
    none = _no_sums(features, value_dim, jnp.promote_types(dtype, jnp.float32))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, heads, *x.shape)), none)


def step(features_of: Callable, drawn, sums: Sums, q, k, v, shown, *, epsilon: float = 0.0) -> tuple[Sums, jax.Array]:
    """The tokens that come next, of all heads: the sums with them, and their outputs [B, t, N, Hv].

    Args:
      features_of: `features_of(drawn)` of the heads that share sums -> Features.
      drawn: a tree whose leaves lead with the heads of `sums`, or with 1.
      sums: lead with [B, K], or with [B, N] where each query head has keys of its own.
      q: [B, t, N, H]. k: [B, t, K, H]. v: [B, t, K, Hv].
      shown: bool [B, t], False for padding.
    """
    own, dtype = sums.count.shape[1], sums.values.dtype
    drawn = jax.tree.map(lambda x: jnp.broadcast_to(x, (own, *x.shape[1:])), drawn)
    k, v = (jnp.repeat(x.astype(dtype), own // x.shape[2], axis=2) for x in (k, v))
    groups = q.astype(dtype).reshape(*q.shape[:2], own, -1, q.shape[3])

    def group(drawn, sums, q, k, v, shown):
        return _stepped(features_of(drawn), sums, q, k, v, shown, epsilon)

    over_heads = jax.vmap(group, (0, 0, 1, 1, 1, None), (0, 1))
    sums, out = jax.vmap(over_heads, (None, 0, 0, 0, 0, 0))(drawn, sums, groups, k, v, shown)
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


def numbers(mask: Mask, features: int) -> int:
    """In the largest array of one head: weights within a chunk where a scan carries sums, else all features."""
    is_scan = mask.is_causal or mask.key_segments is not None
    return CHUNK**2 if is_scan else max(mask.query_length, mask.key_length) * features


def flops(
    dims: Dims, features: int, feature_flops: float, is_causal: bool, key_heads: int, chunk: int = CHUNK
) -> float:
    """Operations without segments; `feature_flops` are those of the features of one token.

    Args:
      key_heads: how many heads have keys of their own; the others share features and sums.
    """
    per_key = 2 * features * dims.value_dim + 2 * dims.value_dim + 3 * features + feature_flops
    per_query = 2 * features * dims.value_dim + 2 * features + 3 * dims.value_dim + feature_flops
    if not is_causal:
        keys, queries = dims.key_length, dims.query_length
    else:
        keys = queries = -(-max(dims.key_length, dims.query_length) // chunk) * chunk
        per_query += chunk * (2 * features + 2 * dims.value_dim + 2)
    return dims.batch * (key_heads * keys * per_key + dims.num_heads * queries * per_query)


def _whole(features, q, k, v, shown, epsilon):
    """Every query sees every key that is shown."""
    nothing = jnp.zeros(len(k), int)
    keys = Keys(k, v, nothing, nothing, shown, None)
    sums = _absorb(_empty(features, k, v), *features.key(k), keys, 0)
    phi, floor = features.query(q)
    return _normalised(*_meet(phi, floor, sums, sums.top), epsilon)


def _aligned(features, q, k, v, shown, offset, epsilon, chunk):
    """Causal without segments: query i stands beside key i + offset, and chunks go in pairs."""
    before = min(len(q), max(0, -offset))
    lead = min(max(0, offset), max(len(k) - 1, 0))
    chunks = -(-max(len(k), lead + len(q) - before) // chunk)

    def cut(x, lead=0):
        padded = jnp.pad(x, [(lead, chunks * chunk - lead - len(x))] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(chunks, chunk, *x.shape[1:])

    index = jnp.arange(chunks * chunk).reshape(chunks, chunk)
    segment = jnp.zeros_like(index)
    queries = Queries(cut(q[before:], lead), index, segment)
    keys = Keys(cut(k), cut(v), index, segment, cut(shown), segment[:, 0])
    out = _scan(features, queries, keys, jnp.ones(chunks, bool), epsilon).reshape(chunks * chunk, -1)
    return jnp.pad(out[lead : lead + len(q) - before], ((before, 0), (0, 0)))


def _merged(features, q, k, v, shown, mask: Mask, epsilon, chunk):
    """With segments: the chunks of queries and keys that meet, found by merging their places."""
    place = _places(mask)
    query_chunks, key_chunks = -(-len(q) // chunk), -(-len(k) // chunk)

    def cut(x, chunks, mode="constant"):
        padded = jnp.pad(x, [(0, chunks * chunk - len(x))] + [(0, 0)] * (x.ndim - 1), mode=mode)
        return padded.reshape(chunks, chunk, *x.shape[1:])

    seen = (place >= 0) & (pick(mask.key_segments, place) == mask.query_segments)
    last = cut(jnp.maximum(place, 0), query_chunks, "edge")[:, -1] // chunk
    step = jnp.arange(query_chunks + key_chunks - 1)
    row = jnp.searchsorted(jnp.arange(query_chunks - 1) + last[:-1], step)
    column = step - row
    queries = Queries(cut(q, query_chunks), cut(jnp.where(seen, place, -1) + 1, query_chunks) - 1, None)
    queries = queries._replace(segment=cut(mask.query_segments, query_chunks))
    segment = cut(mask.key_segments, key_chunks, "edge")
    following = jnp.roll(segment[:, 0], -1)
    index = jnp.arange(key_chunks * chunk).reshape(key_chunks, chunk)
    keys = Keys(cut(k, key_chunks), cut(v, key_chunks), index, segment, cut(shown, key_chunks), following)
    queries = jax.tree.map(lambda x: x[row], queries)
    keys = jax.tree.map(lambda x: x[column], keys)
    out = _scan(features, queries, keys, jnp.diff(column, append=column[-1:]) > 0, epsilon)
    whole = jnp.zeros((query_chunks, *out.shape[1:]), out.dtype).at[row].add(out)
    return whole.reshape(query_chunks * chunk, -1)[: len(q)]


def _places(mask: Mask) -> jax.Array:
    """The last key of its segment that each query may see, int [T], non-decreasing; some other key where none."""
    last = jnp.searchsorted(mask.key_segments, mask.query_segments, side="right") - 1
    if mask.is_causal:
        last = jnp.minimum(last, jnp.arange(mask.query_length) + mask.query_offset)
    return last


def _scan(features, queries: Queries, keys: Keys, advances, epsilon):
    """Outputs [steps, t, Hv] of chunks of queries beside chunks of keys; `advances` where the keys change next."""

    @jax.checkpoint
    def step(sums, chunk):
        queries, keys, advances = chunk
        phi, floor = features.query(queries.q)
        psi, b = features.key(keys.k)
        first, last = keys.index[0], keys.index[-1]
        live = (queries.place >= first) & (queries.place <= last)
        inside = live[:, None] & keys.shown & (keys.index <= queries.place[:, None])
        inside &= queries.segment[:, None] == keys.segment
        before = live & (queries.segment == keys.segment[0])
        out = _normalised(*_join(phi, floor, psi, b, keys.v, inside, before, sums), epsilon)
        follows = _absorb(_kept(sums, keys.next_segment == keys.segment[0]), psi, b, keys, keys.next_segment)
        return jax.tree.map(lambda new, old: jnp.where(advances, new, old), follows, sums), out

    start = _empty(features, keys.k[0], keys.v[0])
    return jax.lax.scan(step, start, (queries, keys, advances))[1]


def _join(phi, floor, psi, b, v, inside, before, sums: Sums):
    """Numerators [t, Hv] and denominators [t] over keys of the chunk (where `inside`) and those before it."""
    weights = phi @ psi.T
    top = None
    if b is not None:
        top = jnp.max(jnp.where(inside, b, LOWEST), axis=1)
        top = jnp.maximum(top, jnp.where(before, sums.top, LOWEST))
        weights *= jnp.exp(jnp.where(inside, b - top[:, None], LOWEST))
    if floor is not None:
        weights += floor[:, None]
    weights = jnp.where(inside, weights, 0)
    earlier = _meet(phi, floor, sums, top)
    return (
        weights @ v + jnp.where(before[:, None], earlier[0], 0),
        weights.sum(axis=1) + jnp.where(before, earlier[1], 0),
    )


def _meet(phi, floor, sums: Sums, top):
    """Numerators and denominators of queries that see all keys in `sums`, scaled by e^-top."""
    shrink = 1.0 if top is None else jnp.exp(jnp.minimum(sums.top - top, 0))
    above, below = phi @ sums.values, phi @ sums.weights
    above, below = above * jnp.reshape(shrink, (-1, 1)), below * shrink
    if floor is not None:
        above += floor[:, None] * sums.plain_values
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
