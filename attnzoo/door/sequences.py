"""A sequence that is split over devices: met by a kernel that knows how, and brought together for one that does not.

What does not (`Kernel.meets`) is given whole sequences of some heads, in two exchanges of all with all, where there are
as many heads as devices (Ulysses: Jacobs et al. 2023, arXiv:2309.14509); else its own queries and all keys; and where
its queries must be beside their keys, all of both.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract import varying
from attnzoo.contract.call import Call
from attnzoo.contract.mask import START, Mask, Origin
from attnzoo.contract.shards import Shards
from attnzoo.contract.sizes import Tree
from attnzoo.engines import dense, everywhere
from attnzoo.kernel import Kernel

Run = Callable[..., Any]  # (params, draws, q, k, v, call, with_residual=False) -> (out, residual or None)

OUR_OWN = (None, "xla", "forward")  # implementations that know of parts


def filled(
    shards: Shards, query: jax.Array, key: jax.Array, value: jax.Array, call: Call
) -> tuple[jax.Array, jax.Array, jax.Array, Call]:
    """Sequences that devices have equal parts of, and the same of a call; what fills them up is hidden."""
    mask = call.mask
    lengths = shards.query_length, shards.key_length
    if shards.of_keys:  # as a type told, and so equal
        mask = dataclasses.replace(mask, key_length=lengths[1] // shards.count, hides_ends=False)
        return query, key, value, dataclasses.replace(call, mask=mask)
    query, key, value, tokens = jax.tree.map(lambda x: shards.filled(x, 1), (query, key, value, call.tokens))
    there = [None if n % shards.count == 0 else jnp.arange(n)[None, None] < n for n in lengths]
    both = lambda given, there: there if given is None else given
    mask = dataclasses.replace(
        mask, queries=both(mask.queries, there[0]), keys=both(mask.keys, there[1]), hides_ends=False
    )
    few = lengths[0] == shards.count  # an axis of one row in a part must not pass for one that all rows share

    def rows(x):
        if x.shape[2] == 1 and few:
            x = jnp.broadcast_to(x, (*x.shape[:2], lengths[0], *x.shape[3:]))
        return x if x.shape[2] == 1 else shards.filled(x, 2)

    call = dataclasses.replace(call, mask=mask).by_axis(rows, lambda x: shards.filled(x, 2), lambda x: x)
    mask = dataclasses.replace(
        call.mask, query_length=query.shape[1] // shards.count, key_length=key.shape[1] // shards.count
    )
    return query, key, value, dataclasses.replace(call, mask=mask, tokens=tokens)


def run(
    shards: Shards,
    route: Run,
    kernel: Kernel,
    implementation: str | None,
    params: Tree,
    draws: Tree,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    call: Call,
) -> tuple[jax.Array, jax.Array | None]:
    """What a device's own queries get from all keys; or all queries from its own keys, where these alone are split."""
    operands = params, draws, q, k, v, call
    met = lambda *operands: route(*operands[:-1], dataclasses.replace(operands[-1], shards=shards))
    spared = functools.partial(_spared, shards, route, kernel)
    if shards.of_keys:
        return met(*operands) if kernel.sums_keys(call.mask) else _joined(shards, route, operands)
    meets = implementation in OUR_OWN and kernel.meets(shards, call.mask)
    if isinstance(meets, bool):
        return (met if meets else spared)(*operands)
    # What one way would keep for gradients has a place in both: only operands, of the one that is seldom taken.
    return jax.lax.cond(meets, met, jax.checkpoint(spared), *operands)


def meets_keys(kernel: Kernel, implementation: str | None, mask: Mask) -> bool:
    """Whether devices meet the keys that they have, beside queries that all of them have."""
    joins = kernel.supports.cross and kernel.supports.decode and kernel.meets_cache()
    return implementation in OUR_OWN and (joins or kernel.sums_keys(mask))


def _joined(shards: Shards, route: Run, operands: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    """What all queries get from the keys of each device, joined."""
    *operands, call = varying.alike(operands)
    out, lse = route(*operands, _beside_own_keys(shards, call), with_residual=True)
    return everywhere.of_each(shards, dense.Part(out, lse, jnp.zeros_like(lse)))


def _spared(shards: Shards, route: Run, kernel: Kernel, params, draws, q, k, v, call: Call):
    """The same of a kernel that does not meet parts."""
    if q.shape[2] % shards.count == 0:
        return _by_heads(shards, route, params, draws, q, k, v, call)
    k, v, tokens = (_whole(shards, x, 1, shards.key_length) for x in (k, v, call.tokens))
    columns = lambda x: _whole(shards, x, 2, shards.key_length)
    if kernel.supports.cross:
        call = call.by_axis(lambda x: x, columns, lambda x: x)
        return route(
            params, draws, q, k, v, dataclasses.replace(call, mask=_beside_all(shards, call.mask), tokens=tokens)
        )
    rows = lambda x: _whole(shards, x, 2, shards.query_length) if _is_part(x, q) else x
    call = call.by_axis(rows, columns, lambda x: x)
    call = dataclasses.replace(call, mask=_of_whole(shards, call.mask), tokens=tokens)
    out = route(params, draws, _whole(shards, q, 1, shards.query_length), k, v, call)
    return jax.tree.map(lambda x: shards.part(shards.filled(x, 1), 1), out)


def _by_heads(shards: Shards, route: Run, params, draws, q, k, v, call: Call):
    """Whole sequences of some heads."""
    num_heads, lengths = q.shape[2], (shards.query_length, shards.key_length)
    times = shards.count // math.gcd(shards.count, k.shape[2])

    def of_heads(x, axis, length, size):
        repeated = jnp.repeat(x, times, axis=2) if x.shape[axis] % shards.count else x
        return jax.lax.slice_in_dim(shards.swapped(repeated, axis, length), 0, size, axis=length)

    def own(x, axis):
        return shards.part(x, axis) if x.ndim > axis and x.shape[axis] == num_heads > 1 else x

    def along(x, size):
        if x.shape[1] == num_heads > 1:
            return of_heads(x, 1, 2, size)
        return _whole(shards, x, 2, size)

    rows = lambda x: along(x, lengths[0]) if _is_part(x, q) else own(x, 1)
    call = call.by_axis(rows, lambda x: along(x, lengths[1]), lambda x: own(x, 1))
    tokens = jax.tree.map(lambda x: of_heads(x, 2, 1, lengths[1]), call.tokens)
    call = dataclasses.replace(call, mask=_of_whole(shards, call.mask), tokens=tokens)
    params, draws = jax.tree.map(lambda x: own(x, 0), (params, draws))
    q, k, v = (of_heads(x, 2, 1, size) for x, size in zip((q, k, v), (*lengths, lengths[1]), strict=True))
    out = route(params, draws, q, k, v, call)
    return jax.tree.map(lambda x: shards.swapped(shards.filled(x, 1), 1, 2), out)


def _is_part(x: jax.Array, q: jax.Array) -> bool:
    """Whether [.., .., T or 1, ...] has rows of its own for the queries [B, T, ...] of a part."""
    return x.shape[2] == q.shape[1]


def _whole(shards: Shards, tree: Any, axis: int, length: int) -> Any:
    """The sequence of all devices, without what has filled it up."""
    return jax.tree.map(lambda x: jax.lax.slice_in_dim(x, 0, length, axis=axis), shards.gathered(tree, axis))


def _of_whole(shards: Shards, mask: Mask) -> Mask:
    """The mask of a part whose arrays are those of the whole."""
    return dataclasses.replace(mask, query_length=shards.query_length, key_length=shards.key_length)


def _beside_own_keys(shards: Shards, call: Call) -> Call:
    """The call of all queries beside the keys of a part."""
    mask, bias = call.mask, call.bias
    first = (shards.index * mask.key_length)[None, None]
    own = lambda x: shards.part(x, 3) if isinstance(x, jax.Array) and x.shape[3] > 1 else x
    origin = Origin(START, first, mask.query_offset)
    mask = dataclasses.replace(mask, query_offset=mask.query_offset - first, dense=own(mask.dense), origin=origin)
    return dataclasses.replace(
        call, mask=mask, bias=None if bias is None else dataclasses.replace(bias, given=own(bias.given))
    )


def _beside_all(shards: Shards, mask: Mask) -> Mask:
    """The mask of a part whose arrays of keys are those of the whole."""
    first = (shards.index * mask.query_length)[None, None]
    origin = Origin(first, START, mask.query_offset)
    return dataclasses.replace(
        mask, key_length=shards.key_length, query_offset=mask.query_offset + first, origin=origin
    )
