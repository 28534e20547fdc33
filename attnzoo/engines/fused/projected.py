"""Projections along a sequence, of each head its own, by the device that a program is lowered for: a kernel, or XLA."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract import varying
from attnzoo.engines.fused import choice
from attnzoo.engines.fused.device import Device
from attnzoo.engines.fused.way import Asked


def projected(asked: Asked, usual: Callable, projection: jax.Array, x: jax.Array) -> jax.Array:
    """`usual(projection, x)` of [N, r, S] and [B, S, K, H], or what a device has in its place."""

    def found(device: Device, projection, x):
        made = None if device.projected is None else device.projected(projection, x)
        return usual(projection, x) if made is None else made

    def pulled(device: Device, projection, x, d_out):
        return jax.vjp(functools.partial(found, device), projection, x)[1](d_out)

    @jax.custom_vjp
    def of_device(*operands):
        return choice.by_platform(asked, _takes_all, found, jax.eval_shape(usual, *operands), *operands)

    def backward(operands, d_out):
        return choice.by_platform(asked, _takes_all, pulled, operands, *operands, d_out)

    of_device.defvjp(lambda *operands: (of_device(*operands), operands), backward)
    return of_device(*varying.alike((projection, x)))


def picked(asked: Asked, x: jax.Array, numbers: np.ndarray) -> jax.Array:
    """x[:, numbers] of x [B, r, N, H] and numbers [S], or where a device does not gather readily a product."""

    def found(device: Device, x):
        if device.gathers:
            return x[:, numbers]
        projection = jax.nn.one_hot(numbers, x.shape[1], dtype=x.dtype)
        return jnp.einsum("sr,brnh->bsnh", projection, x, precision=jax.lax.Precision.HIGHEST)

    like = jax.eval_shape(lambda x: x[:, numbers], x)
    return choice.by_platform(asked, _takes_all, found, like, x)


def _takes_all(device: Device) -> list[str]:
    """No reason to decline: what its kernel does not take is left to XLA."""
    return []
