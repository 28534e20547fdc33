"""A function of one library as something to time: its inputs made beforehand, its results read as NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

BTNH, BNTH = (0, 1, 2, 3), (0, 2, 1, 3)  # orders of the axes batch, length, heads, width


class Function(NamedTuple):
    """Attention by some library.

    Attributes:
      call: of queries, keys and values, or of x and the weights of projections; gives the output.
      layout: in which order it takes and gives the axes of [B, T, N, H]; other arrays are left as they are.
    """

    call: Callable
    layout: tuple[int, ...] = BTNH


class Call(NamedTuple):
    """`run()` waits for the result; `read(result)` is it as arrays [B, T, ...]: output, then gradients."""

    run: Callable[[], Any]
    read: Callable[[Any], list[np.ndarray]]


def _placed(array: np.ndarray, layout) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(layout)) if array.ndim == 4 else array


def _read(arrays, layout) -> list[np.ndarray]:
    # Both layouts are their own inverse.
    return [x.transpose(layout) if x.ndim == 4 else x for x in arrays]


def of_jax(function: Function, inputs: list[np.ndarray], direction: np.ndarray, dtype: str, is_train: bool) -> Call:
    """A compiled program; in training with the gradients of all inputs along `direction`."""
    import jax
    import jax.numpy as jnp

    *arrays, direction = (jnp.asarray(_placed(x, function.layout), dtype) for x in (*inputs, direction))

    @jax.jit
    def program(direction, *arrays):
        if not is_train:
            return (function.call(*arrays),)
        out, pull = jax.vjp(function.call, *arrays)
        return out, *pull(direction.reshape(out.shape))

    def read(result):
        return _read([np.asarray(x.astype(jnp.float32)) for x in result], function.layout)

    return Call(lambda: jax.block_until_ready(program(direction, *arrays)), read)


def of_torch(function: Function, inputs: list[np.ndarray], direction: np.ndarray, dtype: str, is_train: bool) -> Call:
    """An eager call without autograd; in training with it."""
    import torch

    made = [torch.tensor(_placed(x, function.layout), dtype=getattr(torch, dtype)) for x in (*inputs, direction)]
    *arrays, direction = made

    def run():
        if not is_train:
            with torch.inference_mode():
                return (function.call(*arrays),)
        leaves = [x.detach().requires_grad_() for x in arrays]
        out = function.call(*leaves)
        return out, *torch.autograd.grad(out, leaves, direction.reshape(out.shape))

    return Call(run, lambda result: _read([x.detach().float().numpy() for x in result], function.layout))
