"""Whole numbers of a program, known beforehand, as arithmetic: a constant would make its text as long as its inputs.

Indices are mostly runs start, start + stride, start + 2 stride, ..., and so are the starts of these runs.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Numbers = np.ndarray | jax.Array  # known beforehand, or computed by the program

FEW = 512  # numbers that may stand in a program as they are: 4 kB of text


def as_arithmetic(numbers: Numbers) -> jax.Array:
    """The same int32 numbers, of any shape; those that the program computes already come back as they are."""
    if not isinstance(numbers, np.ndarray):
        return numbers
    if numbers.size <= FEW:
        return jnp.asarray(numbers, jnp.int32)
    rows = numbers.reshape(-1, numbers.shape[-1])
    along, across = _runs(rows.reshape(-1)), _runs(rows.T.reshape(-1))
    if len(along[0]) <= len(across[0]):
        return _joined(*along, numbers.size).reshape(numbers.shape)
    return _joined(*across, numbers.size).reshape(rows.shape[::-1]).T.reshape(numbers.shape)


def numpy_of(*numbers: Numbers) -> Any:
    """The module that computes with them: `numpy` where all are known beforehand."""
    return np if all(isinstance(x, np.ndarray) for x in numbers) else jnp


def few(numbers: Numbers) -> Numbers:
    """The same; a few that are known stay so, and what they pick is sliced."""
    return numbers if isinstance(numbers, np.ndarray) and numbers.size <= FEW else as_arithmetic(numbers)


def _runs(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each run begins, int [runs], and the numbers themselves."""
    steps = np.diff(numbers)
    turns = np.flatnonzero(steps[1:] != steps[:-1]) + 2
    # Two numbers are always a run: of several turns that follow each other, every other one ends none.
    index = np.arange(len(turns))
    chain = np.maximum.accumulate(np.where(np.diff(turns, prepend=-1) > 1, index, 0))
    return np.concatenate([[0], turns[(index - chain) % 2 == 0]]).astype(np.int64), numbers


def _joined(first: np.ndarray, numbers: np.ndarray, size: int) -> jax.Array:
    if 3 * len(first) > size:
        return jnp.asarray(numbers, jnp.int32)
    following = np.minimum(first + 1, size - 1)
    stride = np.where(np.append(first[1:], size) - first > 1, numbers[following] - numbers[first], 0)
    # Of a product that is too large, the lowest bits are right, here and in the program.
    intercept = (numbers[first] - stride * first).astype(np.int32)
    place = jnp.arange(size, dtype=jnp.int32)
    if len(first) == 1:
        return int(intercept[0]) + int(stride[0]) * place
    lengths = np.diff(first)
    if (lengths == lengths[0]).all() and size - first[-1] <= lengths[0]:
        run = place // int(lengths[0])
    else:
        run = jnp.searchsorted(as_arithmetic(first), place, side="right").astype(jnp.int32) - 1
    return as_arithmetic(intercept)[run] + as_arithmetic(stride.astype(np.int32))[run] * place
