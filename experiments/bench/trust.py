"""Whether a kernel may be trained or timed: what it cannot do its errors tell, what it does wrong is found here.

A kernel that sees the tokens which it is to predict wins every comparison. So each one is held, before anything is
made of it, to the laws of the places that it is to stand in, once for each process: about a second for one of the
catalogue on a CPU, and some seconds for any other, at the length that it is used at. A kernel may know the probe, so
of any other what is timed or trained is asked itself, too: programs by `asked`, and models by that of `train`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp

from attnzoo import Kernel
from attnzoo.kernels import KERNELS
from attnzoo.testing import LawBroken, probe_kernel

ROUNDING = 64, 0.02  # of what one program gives: times the precision of its numbers, and the most
TESTED = 256  # tokens of a kernel of the catalogue, four of the usual blocks: the suite holds it to all laws


def breach(kernel: Kernel, length: int, is_trained: bool = True, **place: bool) -> dict | None:
    """What a row says of a kernel that breaks a law in a place, or None.

    Args:
      length: of the longest sequences there.
      is_trained: whether gradients are taken.
      place: what else `probe_kernel` asks of it: `is_causal`, `is_padded`, `is_cross`.

    Raises:
      NotImplementedError: the kernel does not support the place.
    """
    if is_ours(kernel):
        return _breach(kernel, min(length, TESTED), is_tested=True, **place)
    return _breach(kernel, length, is_trained=is_trained, **place)


@functools.lru_cache(maxsize=1024)
def _breach(kernel: Kernel, length: int, **place: bool) -> dict | None:
    return broken(lambda: probe_kernel(kernel, length, **place))


def rounding(dtype: str) -> float:
    """How far what one program gives of the same operands may lie apart."""
    return min(ROUNDING[0] * float(jnp.finfo(dtype).eps), ROUNDING[1])


def is_ours(kernel: Kernel) -> bool:
    """Whether it is of the catalogue."""
    return type(kernel) in KERNELS.values()


def broken(held: Callable[[], None]) -> dict | None:
    """What a row says of the law that is broken where a kernel is held to some, or None."""
    try:
        held()
    except LawBroken as broken:
        return {"status": "refused", "law": broken.law, "reason": str(broken)}
    return None


def require(kernel: Kernel, length: int, **place: bool) -> None:
    """Refuse a kernel that breaks a law in a place.

    Raises:
      ValueError: it does.
    """
    if found := breach(kernel, length, **place):
        raise ValueError(found["reason"])
