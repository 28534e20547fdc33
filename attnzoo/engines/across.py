"""Softmax over keys, wherever they are: on this device, with its neighbours, or around a ring of all.

Where a sequence is split over devices and a query sees no further than a mask's reach, a device fetches as many tokens
from those before and behind it, and nobody sends more. Where the reach has no end, or is as long as what all others
have, keys go around the `ring`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract.bias import PositionBias
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Known, Mask, Origin
from attnzoo.contract.shards import Shards
from attnzoo.engines import dense, ring, streaming
from attnzoo.engines.schedule import Layout


def over_heads(*args, **kwargs) -> tuple[jax.Array, jax.Array]:
    """Softmax attention of all heads, of the arguments of `part`.

    Returns:
      out [B, T, N, Hv], and the log-sum-exp of the scores [B, T, N], -inf where nothing is visible.

    Example:
      >>> from attnzoo.contract.call import Call
      >>> from attnzoo.contract.shards import Shards
      >>> from attnzoo.engines import across, streaming
      >>> mesh = jax.make_mesh((1,), ("sequence",), (jax.sharding.AxisType.Auto,))
      >>> split = jax.sharding.PartitionSpec(None, "sequence")
      >>> def of_one_device(q, k, v):
      ...     score, params = streaming.dot_product(q)
      ...     call = Call(Mask(4, 4, is_causal=True), shards=Shards(("sequence",), 1, 4, 4))
      ...     return across.over_heads(score, params, q, k, v, call, streaming.natural_layout)[0]
      >>> q = k = v = jax.random.normal(jax.random.key(0), (1, 4, 2, 8))
      >>> out = jax.jit(jax.shard_map(of_one_device, mesh=mesh, in_specs=split, out_specs=split))(q, k, v)
      >>> bool(jnp.allclose(out, attend(q, k, v, is_causal=True), atol=1e-5))
      True
    """
    only = part(*args, **kwargs)
    return only.out, only.lse()


def part(
    score: Callable,
    params: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    call: Call,
    layout_of: Callable[..., Layout],
    *,
    per_pair: int = 1,
    sides: tuple[int, int] | None = None,
) -> dense.Part:
    """Softmax of all heads over all keys that mask and layout show, of the arguments of `streaming.part`.

    Args:
      sides: how many tokens before and behind its own a device needs, where a layout shows less than the mask does.
    """
    shards, call = call.shards, dataclasses.replace(call, shards=None)
    given = score, params, q, k, v
    if shards is None:
        return streaming.part(*given, call, layout_of, per_pair=per_pair)
    sides = _sides(shards, call.mask) if sides is None else sides
    if sides is None:
        return ring.part(*given, dataclasses.replace(call, shards=shards), layout_of, per_pair=per_pair)
    k, v = (with_neighbours(shards, x, 1, sides) for x in (k, v))
    return streaming.part(score, params, q, k, v, _beside_neighbours(shards, call, sides), layout_of, per_pair=per_pair)


def with_neighbours(shards: Shards, x: jax.Array, axis: int, sides: tuple[int, int]) -> jax.Array:
    """This device's part of a sequence, with so many tokens before and behind it along `axis`; 0 beyond the ends."""
    size = x.shape[axis]

    def fetched(side, direction):
        for distance in range(1, math.ceil(side / size) + 1):
            width = min(size, side - (distance - 1) * size)
            start = 0 if direction > 0 else size - width
            yield shards.of_neighbour(jax.lax.slice_in_dim(x, start, start + width, axis=axis), direction * distance)

    before, behind = (list(fetched(side, direction)) for side, direction in zip(sides, (-1, 1), strict=True))
    return jnp.concatenate([*before[::-1], x, *behind], axis)


def _sides(shards: Shards, mask: Mask) -> tuple[int, int] | None:
    """How many tokens before and behind its own a device needs; None where it is no less than to be sent all."""
    if not mask.is_placed:
        return None
    (left, right), longer = mask.reach, mask.query_length - mask.key_length
    begins = [mask.place + i * longer for i in (0, shards.count - 1)]  # its queries, from its keys on
    sides = max(0, left - min(begins)), max(0, right + max(begins) + longer)
    return sides if sum(sides) < (shards.count - 1) * mask.key_length else None


def _beside_neighbours(shards: Shards, call: Call, sides: tuple[int, int]) -> Call:
    """The call of a device that has so many tokens before and behind its own."""
    mask, length = call.mask, call.mask.key_length
    first, first_query = ((shards.index * size)[None, None] for size in (length, mask.query_length))
    keys = mask.keys
    if keys is None and any(sides):  # beyond the ends there are none
        keys = jnp.ones((1, 1, length), bool)

    def columns(x):
        if not isinstance(x, jax.Array) or x.shape[3] == 1:
            return x
        padded = jnp.pad(shards.filled(x, 3), [(0, 0)] * 3 + [sides])
        return jax.lax.dynamic_slice_in_dim(padded, first[0, 0], sum(sides) + length, 3)

    fetched = lambda x: None if x is None else with_neighbours(shards, x, 2, sides)
    offset = Known(mask.place + sides[0])
    mask = dataclasses.replace(
        mask,
        key_length=sum(sides) + length,
        query_offset=offset if mask.query_length == length else offset + first_query - first,
        dense=columns(mask.dense),
        keys=fetched(keys),
        key_segments=fetched(mask.key_segments),
        origin=Origin(first_query, first - sides[0], mask.query_offset),
    )
    bias = call.bias
    if bias is not None and not isinstance(bias.given, PositionBias):
        bias = dataclasses.replace(bias, given=columns(bias.given))
    return dataclasses.replace(call, mask=mask, bias=bias)
