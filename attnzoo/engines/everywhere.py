"""A few tokens of a sequence that is split over devices, which all devices are given, and which see all keys.

Each device has found some of them among its own; what is theirs is added up, and so is what their queries find.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.bias import PositionBias
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Origin, pick
from attnzoo.contract.shards import Shards
from attnzoo.engines import dense, streaming


class Tokens(NamedTuple):
    """Some tokens, of which all devices know where they stand; leaves lead with [B, 1].

    Attributes:
      shards: of the sequence.
      slots: the slot of each token of this device, int [..., T], -1 for those that have none.
      positions: the token of each slot, by its place in the whole, int [..., G], -1 for none.
    """

    shards: Shards
    slots: jax.Array
    positions: jax.Array

    @staticmethod
    def among(shards: Shards, which: jax.Array, most: int) -> Tokens:
        """Of `which`, bool [B, 1, T] of this device, the first `most` in the whole."""
        counts = shards.gathered(which.sum(axis=-1, dtype=jnp.int32)[None], 0)
        before = jnp.where(jnp.arange(shards.count)[:, None, None] < shards.index, counts, 0).sum(axis=0)
        rank = jnp.cumsum(which, axis=-1, dtype=jnp.int32) - 1 + before[..., None]
        slots = jnp.where(which & (rank < most), rank, -1)
        tokens = Tokens(shards, slots, jnp.zeros((*slots.shape[:2], most), jnp.int32))
        own = jnp.broadcast_to(shards.indices(which.shape[-1], 0)[0] + 1, which.shape)
        return tokens._replace(positions=tokens.brought(own, 2) - 1)

    def brought(self, x: jax.Array, axis: int) -> jax.Array:
        """What is theirs of [B or 1, ...] along `axis`, 0 in empty slots: on all devices."""
        most, batch = self.positions.shape[-1], len(self.slots)
        few = min(most, self.slots.shape[-1])

        def own(x, slots):
            found = jnp.nonzero(slots >= 0, size=few, fill_value=len(slots))[0]
            place = jnp.take(slots, found, mode="fill", fill_value=most)
            picked = jnp.take(x, found, axis=0, mode="fill", fill_value=0)
            return jnp.zeros((most, *x.shape[1:]), x.dtype).at[place].add(picked, mode="drop")

        whole = x.astype(jnp.int32) if x.dtype == bool else x
        moved = jnp.moveaxis(jnp.broadcast_to(whole, (batch, *x.shape[1:])), axis, 1)
        theirs = self.shards.summed(jax.vmap(own)(moved, self.slots[:, 0]))
        return jnp.moveaxis(theirs, 1, axis).astype(x.dtype)

    def instead(self, theirs: jax.Array, others: jax.Array) -> jax.Array:
        """[B, T, ...] of this device: what is theirs, [B, G, ...], in place of what is there."""
        slots = self.slots[:, 0]
        mine = jax.vmap(lambda x, slot: jnp.take(x, jnp.maximum(slot, 0), axis=0))(theirs, slots)
        return jnp.where((slots >= 0).reshape(*slots.shape, *(1,) * (others.ndim - 2)), mine, others)


def beside_all(shards: Shards, place: np.ndarray, score, params, q, k, v, call: Call) -> dense.Part:
    """Softmax of the queries of this device over the keys at `place`, int [s], in the parts of all devices."""
    at = (jnp.arange(shards.count)[:, None] * k.shape[1] + place).reshape(1, 1, -1)
    brought = lambda x, axis: shards.gathered(jnp.take(x, place, axis=axis), axis)
    return _over(shards, at, brought, score, params, q, k, v, call)


def as_keys(tokens: Tokens, score, params, q, k, v, call: Call) -> dense.Part:
    """Softmax of the queries of this device over these tokens, of the arguments of `streaming.part`."""
    return _over(tokens.shards, tokens.positions, tokens.brought, score, params, q, k, v, call)


def _over(shards: Shards, at: jax.Array, brought: Callable, score, params, q, k, v, call: Call) -> dense.Part:
    """The same of keys at positions [B or 1, 1, s], which are `brought` of an array along an axis."""
    of_keys = lambda x: None if x is None else brought(x, 2)
    mask, bias = call.mask, call.bias
    mask = dataclasses.replace(
        mask,
        key_length=at.shape[-1],
        dense=None if mask.dense is None else _columns(mask.dense, at),
        keys=of_keys(mask.keys),
        key_segments=of_keys(mask.key_segments),
        origin=Origin((shards.index * mask.query_length)[None, None], at, mask.query_offset),
    )
    if bias is not None and not isinstance(bias.given, PositionBias):
        bias = dataclasses.replace(bias, given=_columns(bias.given, at))
    call = dataclasses.replace(call, mask=mask, bias=bias, shards=None)
    return streaming.part(score, params, q, brought(k, 1), brought(v, 1), call, streaming.listed_everywhere)


def as_queries(tokens: Tokens, score, params, q, k, v, call: Call) -> dense.Part:
    """Softmax of these tokens, [B, G, ...], over the keys of all devices."""
    shards, mask, bias, at = tokens.shards, call.mask, call.bias, tokens.positions

    def brought(x):
        return tokens.brought(x, 2) if isinstance(x, jax.Array) and x.shape[2] == q.shape[1] else x

    def pairs(x):
        return (
            shards.part(shards.filled(brought(x), 3), 3) if isinstance(x, jax.Array) and x.shape[3] > 1 else brought(x)
        )

    mask = dataclasses.replace(
        mask,
        query_length=at.shape[-1],
        dense=pairs(mask.dense),
        queries=brought(mask.queries),
        query_segments=brought(mask.query_segments),
        origin=Origin(at - mask.query_offset, (shards.index * mask.key_length)[None, None], mask.query_offset),
    )
    if bias is not None:
        bias = dataclasses.replace(bias, given=pairs(bias.given), projected=brought(bias.projected))
    call = dataclasses.replace(call, mask=mask, bias=bias)
    own = streaming.part(score, params, tokens.brought(q, 1), k, v, call, streaming.listed_everywhere)
    return of_all(shards, own)


def of_all(shards: Shards, own: dense.Part) -> dense.Part:
    """Softmax over the keys of all devices, of what each has found of its own."""
    return shards.apart(_joined(shards, own), own)


def of_each(shards: Shards | None, own: dense.Part) -> tuple[jax.Array, jax.Array]:
    """Output [..., Hv] and log-sum-exp of what `of_all` gives, the same arrays on all devices; of one device alone, of
    what it has found.
    """
    found = own if shards is None else _joined(shards, own)
    return found.out, found.lse()


def _joined(shards, own):
    top = jax.lax.pmax(jax.lax.stop_gradient(own.top), shards.axes)
    share = jnp.exp(own.top - dense.finite(top)) * jnp.exp(own.log_total)
    total, out = jax.lax.psum((share, own.out.astype(share.dtype) * share[..., None]), shards.axes)
    some = jnp.where(total > 0, total, 1)
    return dense.Part((out / some[..., None]).astype(own.out.dtype), top, jnp.log(some))


def _columns(array: jax.Array, at: jax.Array) -> jax.Array:
    """The columns of [B or 1, N or 1, T, S or 1] at positions [B or 1, 1, s]."""
    if array.shape[3] == 1:
        return array
    batch = max(len(array), len(at))
    array, at = (jnp.broadcast_to(x, (batch, *x.shape[1:])) for x in (array, at))
    return jax.vmap(lambda array, at: pick(array, jnp.maximum(at, 0)))(array, at[:, 0])
