"""Any number of batch axes: one where a kernel is called, and as many as there were in what it gives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract.bias import PositionBias
from attnzoo.contract.fields import is_integer
from attnzoo.door import meshes, validation, visibility
from attnzoo.door.arguments import Function

BATCHED = ("query_offset", *visibility.AXES)
BROADCAST = ("mask", "bias")


def over_batch_axes(attend: Function) -> Function:
    """A decorator of `attend` for at most one batch axis: takes any number of them."""
    over_one: Callable = attend

    @functools.wraps(over_one)
    def called(query, key, value, bias=None, mask=None, **asked):
        query, key, value = (jnp.asarray(x) for x in (query, key, value))
        if query.ndim <= 4:
            return over_one(query, key, value, bias, mask, **asked)
        validation.operands(query, key, value)
        batch = query.shape[:-3]
        given = flattened({"bias": bias, "mask": mask, **asked}, batch)
        out = over_one(*(one_axis(x, batch) for x in (query, key, value)), **given)
        return jax.tree.map(lambda x: x.reshape(batch + x.shape[1:], out_sharding=meshes.unmerged(x, query)), out)

    wrapped: Any = called
    return wrapped


def one_axis(x: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """[*batch, ...] -> [B, ...]; without batch axes as it is.

    Examples are numbered as they stand, which dropout counts: where devices share another axis than the first one, they
    exchange some for it.
    """
    return x.reshape(_flat(batch) + x.shape[len(batch) :], out_sharding=meshes.merged(x, len(batch)))


def flattened(asked: Mapping[str, Any], batch: tuple[int, ...]) -> dict[str, Any]:
    """The same arguments with all batch axes as one."""
    given = dict(asked)
    if len(batch) < 2:
        return given
    for name in BATCHED:
        array = given.get(name)
        if array is not None and not is_integer(array):
            given[name] = _broadcast(name, array, batch, jnp.shape(array)[len(batch) :])
    for name in BROADCAST:
        array = given.get(name)
        if array is not None and not isinstance(array, PositionBias) and jnp.ndim(array) > 3:
            given[name] = _broadcast(name, array, batch, jnp.shape(array)[-3:])
    if given.get("tokens"):
        given["tokens"] = {
            name: _broadcast(f"tokens[{name!r}]", x, batch, jnp.shape(x)[len(batch) :])
            for name, x in given["tokens"].items()
        }
    return given


def _broadcast(name: str, array: Any, batch: tuple[int, ...], trailing: tuple[int, ...]) -> jax.Array:
    shape = batch + trailing
    try:
        return one_axis(jnp.broadcast_to(array, shape), batch)
    except ValueError:
        raise ValueError(
            f"{name} has shape {jnp.shape(array)}: expected one that broadcasts to {list(shape)}, with the batch axes "
            "of query"
        ) from None


def _flat(batch: tuple[int, ...]) -> tuple[int, ...]:
    return (math.prod(batch),) if batch else ()
