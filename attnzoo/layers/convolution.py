"""A short causal convolution of what is projected, each channel by itself.

    y_t = sum_j w_j x_(t - j),    j = 0 .. width - 1

over the tokens before, in their places; what is hidden, padding, and tokens of other segments count as 0. A state of
one size recalls by what stood beside a token, of which keys alone do not tell: published recurrences have it on
queries, keys and values (Dao and Gu 2024, arXiv:2405.21060; Yang, Kautz and Hatamizadeh 2024, arXiv:2412.06464).

While decoding, the last width - 1 tokens that were projected are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract.fields import is_integer
from attnzoo.contract.mask import Mask
from attnzoo.contract.shards import Shards
from attnzoo.contract.sizes import Dims
from attnzoo.contract.support import Support
from attnzoo.door import batching, meshes, visibility
from attnzoo.door.arguments import Asked
from attnzoo.engines import across
from attnzoo.layers import products, projected

Heads = tuple[jax.Array, ...]  # queries, keys and values
HEADS = ("query", "key", "value")
PAIRS = (
    "it may hide a part of what a token takes in: say padding as key_mask= or lengths, documents as segments, and what "
    "else attention is not to see by the kernel"
)
CACHED = tuple(f"cached_{name}_conv" for name in HEADS)


def name(heads: str) -> str:
    """What the weights for queries, keys or values are called in a layer."""
    return f"{heads}_conv"


def check(width: Any) -> None:
    """Refuse a width that is none."""
    if width is not None and not (is_integer(width) and width >= 1):
        raise ValueError(f"conv_width={width!r}: expected how many tokens are taken in, at least 1, or None")


def init(rng: jax.Array, dims: Dims, width: int) -> dict[str, jax.Array]:
    """Weights [N or K, width, H], that of the token itself first: uniform, as convolutions of that fan-in are."""
    sizes = {
        "query": (dims.num_heads, dims.head_dim),
        "key": (dims.num_key_value_heads, dims.head_dim),
        "value": (dims.num_key_value_heads, dims.value_dim),
    }
    most = width**-0.5
    rngs = jax.random.split(rng, len(HEADS))
    return {
        name(of): jax.random.uniform(rng, (sizes[of][0], width, sizes[of][1]), minval=-most, maxval=most)
        for rng, of in zip(rngs, HEADS, strict=True)
    }


def start(dims: Dims, width: int, batch: tuple[int, ...], dtype) -> dict[str, jax.Array]:
    """What is kept before the first token, [*batch, width - 1, heads, H] each."""
    heads = (dims.num_heads, dims.num_key_value_heads, dims.num_key_value_heads)
    sizes = zip(CACHED, heads, (dims.head_dim, dims.head_dim, dims.value_dim), strict=True)
    return {cached: jnp.zeros((*batch, width - 1, count, size), dtype) for cached, count, size in sizes}


def whole(weights: Mapping[str, jax.Array], heads: Heads, asked: Asked, is_self: bool) -> Heads:
    """Heads [*batch, T, N or K, H] of whole sequences.

    Args:
      is_self: whether queries and keys are of the same tokens.

    Raises:
      NotImplementedError: the call is not causal, or hides in ways that a convolution cannot follow.
    """
    _refuse(asked, is_self)
    batch = heads[0].shape[:-3]
    query, key, value = (x.reshape(-1, *x.shape[len(batch) :]) for x in heads)
    sequence = meshes.as_tuple(asked.get("sequence_axis"))
    part = meshes.of_caller(sequence, query.shape[1], key.shape[1])
    mask = _mask(Dims.of(query, key, value), batch, asked, part)
    of_keys, of_queries = visibility.shown(mask, key.shape[2], part)
    query, key, value = (visibility.silenced(of_keys, x) for x in (query, key, value))
    query = visibility.silenced(of_queries, query)
    both = mask.segments
    ids = (None,) * 3 if both is None else (both[0][:, 0], both[1][:, 0], both[1][:, 0])
    made = (
        convolved(x, weights[name(of)], own, sequence)
        for of, x, own in zip(HEADS, (query, key, value), ids, strict=True)
    )
    return tuple(x.reshape(given.shape) for x, given in zip(made, heads, strict=True))


def step(
    weights: Mapping[str, jax.Array], cache: Mapping[str, jax.Array], heads: Heads, lengths: Any
) -> tuple[Heads, dict[str, jax.Array]]:
    """Heads [*batch, t, N or K, H] of the next tokens, `lengths` [*batch] of them real, or all; and the cache after."""
    made, kept = [], {}
    for of, cached, x in zip(HEADS, CACHED, heads, strict=True):
        batch, tokens = x.shape[:-3], x.shape[-3]
        before = cache[cached]
        flat, past = (each.reshape(-1, *each.shape[len(batch) :]) for each in (x, before))
        joined = products.joined(past.astype(x.dtype), flat)
        made.append(convolved(joined, weights[name(of)])[:, before.shape[-3] :].reshape(x.shape))
        real = jnp.zeros_like(joined, jnp.int32).sum((1, 2, 3))  # split as examples are
        real += tokens if lengths is None else jnp.reshape(jnp.asarray(lengths), (-1,))
        last = products.entries(joined, real[:, None] + jnp.arange(before.shape[-3])[None])
        kept[cached] = last.astype(before.dtype).reshape(before.shape)
    return tuple(made), kept


@functools.partial(jax.jit, static_argnames="sequence_axis")
def convolved(
    x: jax.Array, weights: jax.Array, segments: jax.Array | None = None, sequence_axis: tuple[str, ...] = ()
) -> jax.Array:
    """x [B, T, N, H] by weights [N, width, H], among tokens of one segment [B, T]; summed in float32 at least.

    A device that has a part of the sequence is sent the width - 1 tokens before it. Lengths that devices do not divide
    are brought together.
    """
    length = x.shape[1]
    part = meshes.of_caller(sequence_axis, length, length)
    split = meshes.Split.of(x, sequence=None if part else sequence_axis)
    shards = part or split.shards(length, length)
    if part is None and shards is not None and length % shards.count:
        split, shards = split._replace(sequence=None), None
    given = [
        (x, split.of_sequence),
        (weights, split.by_head),
        (segments, lambda ids: split.by_example(ids, length_axis=1)),
    ]
    return split.over_devices(functools.partial(_here, shards), given, split.of_sequence(x))


def _here(shards: Shards | None, x: jax.Array, weights: jax.Array, segments: jax.Array | None) -> jax.Array:
    """The same of what one device has."""
    width, precise = weights.shape[1], jnp.promote_types(x.dtype, jnp.float32)
    before = lambda given: _from(shards, given, width - 1)
    (past, ids), total = jax.tree.map(before, (x, segments)), jnp.zeros_like(x, precise)
    for distance in range(width):
        earlier = lambda given, start=width - 1 - distance: given[:, start : start + x.shape[1]]
        taken = earlier(past)
        if segments is not None:
            taken = jnp.where((segments == earlier(ids))[..., None, None], taken, 0)
        total += taken.astype(precise) * weights[:, distance].astype(precise)[None, None]
    return total.astype(x.dtype)


def _from(shards: Shards | None, x: jax.Array, width: int) -> jax.Array:
    """x [B, T, ...] behind the `width` entries before it, 0 where there are none."""
    if shards is not None:
        return across.with_neighbours(shards, x, 1, (width, 0))
    return jnp.pad(x, [(0, 0), (width, 0), *[(0, 0)] * (x.ndim - 2)])


def _mask(dims: Dims, batch: tuple[int, ...], asked: Asked, part: Shards | None) -> Mask:
    """What hides whole tokens, with all batch axes as one."""
    given = batching.flattened(asked, batch)
    hides: Any = {name: given.get(name) for name in visibility.AXES} | {"global_tokens": None}
    hides["mask"] = None if given.get("mask") is None else projected.as_bool(given["mask"])
    structure = Mask(dims.query_length, dims.key_length, is_causal=True)
    found = visibility.apply(structure, hides, dims, not batch, Support(causal=True), part)
    if found.dense is not None:
        _unable("mask", PAIRS)
    return found


def _refuse(asked: Asked, is_self: bool) -> None:
    if not is_self:
        _unable("inputs_k", "keys of other tokens stand before no query: leave it out where it is inputs_q")
    if not asked.get("is_causal"):
        _unable("is_causal=False", "it looks back in time alone: pass is_causal=True")
    offset = asked.get("query_offset", 0)
    if not (is_integer(offset) and offset == 0):
        _unable("query_offset", "the tokens before the first query are not there: decode, which keeps them")
    if asked.get("mask_mod") is not None:
        _unable("mask_mod", PAIRS)


def _unable(argument: str, why: str) -> None:
    raise NotImplementedError(f"a layer with conv_width cannot honour `{argument}`: {why}")
