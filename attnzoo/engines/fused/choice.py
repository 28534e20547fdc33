"""Which device a program is lowered for, and so whose kernel it has, or why none takes the call.

`platform_dependent` traces the branch of each platform everywhere, so that what a device declines is found first: its
branch, where it is lowered, raises.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from attnzoo.contract import varying
from attnzoo.engines import alone
from attnzoo.engines.fused.device import Device
from attnzoo.engines.fused.way import Asked, Tiles


def devices() -> tuple[Device, ...]:
    """Those that have kernels of ours."""
    from attnzoo.engines.fused.hopper import softmax as hopper
    from attnzoo.engines.fused.tpu import softmax as tpu  # what they import takes a while, and few ask for it

    return (tpu.DEVICE, hopper.DEVICE)


def reasons_everywhere(declined: Callable[[Device], list[str]]) -> list[str]:
    """Why no device takes the call; empty where one does."""
    given = {device.name: declined(device) for device in devices()}
    return [f"{reason}, on {name}" for name, each in given.items() for reason in each] if all(given.values()) else []


def by_platform(
    asked: Asked, declined: Callable[[Device], list[str]], function: Callable, like: Any, *operands: Any
) -> Any:
    """`function(device, *operands)`, which gives arrays `like` these, of the device that the program is lowered for."""
    there = {device.platform: device for device in devices()}
    if (way := asked.way).interpreted is not None:
        there["cpu"] = interpreting(way.interpreted, way.platform)
    branches: dict[str, Callable] = {}
    for platform, device in there.items():
        branch, reasons = functools.partial(function, device), declined(device)
        branches[platform] = _refusing(asked, like, reasons) if reasons else _looking(asked, branch)
    names = " and ".join(device.name for device in devices())
    elsewhere = _refusing(asked, like, [f"it is a kernel of {names}"])
    chosen = jax.custom_jvp(functools.partial(jax.lax.platform_dependent, **branches, default=elsewhere))

    @chosen.defjvp
    def differentiated(primals, tangents):
        raise asked.declined(["it has no forward mode, and no gradients of gradients"])

    return chosen(*operands)


def interpreting(tiles: Tiles, platform: str) -> Device:
    """A CPU, which interprets the kernels of a device."""
    from attnzoo.engines.fused.hopper import softmax as hopper
    from attnzoo.engines.fused.tpu import softmax as tpu

    if platform == "cuda":
        return hopper.device((tiles, tiles), hopper.interpreter())
    return tpu.device((tiles, tiles), interpret=True)


def _looking(asked: Asked, branch: Callable) -> Callable:
    """A branch that looks at what it is lowered for."""

    def looking(*operands):
        first, *others = jax.tree.leaves(operands)
        leaves = [_lowered.bind(first, asked=asked, reasons=()), *others]
        return branch(*jax.tree.unflatten(jax.tree.structure(operands), leaves))

    return looking


def _refusing(asked: Asked, like: Any, reasons: list[str]) -> Callable:
    """A branch that gives arrays `like` these, and raises where it is lowered."""

    def refusing(*operands):
        first = jax.tree.leaves(operands)[0]
        nothing = _lowered.bind(first, asked=asked, reasons=tuple(reasons)).ravel()[0] * 0
        zero = lambda x: jnp.zeros(x.shape, x.dtype) + nothing.astype(x.dtype)
        return varying.as_of(jax.tree.map(zero, like), operands)

    return refusing


_lowered = Primitive("lowered")  # the identity
_lowered.def_abstract_eval(lambda x, **params: x)
batching.primitive_batchers[_lowered] = lambda args, axes, **params: (_lowered.bind(*args, **params), axes[0])


def _lower(context, x, *, asked: Asked, reasons: tuple[str, ...]):
    module = context.module_context
    if len(module.platforms) > 1:
        reasons = ("a program with kernels of devices is lowered, and exported, for one platform",)
    elif alone.devices(module.axis_context) > 1:
        reasons = (
            "axes of the mesh are left to the compiler, which cannot split a kernel: split operands over all Explicit "
            "axes, or attend in a shard_map over all axes",
        )
    if reasons:
        raise asked.declined([*reasons], f" on {' and '.join(module.platforms)}")
    return [x]


mlir.register_lowering(_lowered, _lower)
