"""Whether a kernel may be trained or timed: what it cannot do its errors tell, what it does wrong is found here.

A kernel that sees the tokens which it is to predict wins every comparison. So each one is held, before anything is
made of it, to the laws of the places that it is to stand in, once for each process: about a second for one of the
catalogue on a CPU, and some seconds for any other, at the length that it is used at. Of any other, forward programs
that scaling times and models of language are called with another future, too, at each length that they are for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from attnzoo import Kernel
from attnzoo.kernels import KERNELS
from attnzoo.testing import LawBroken, Subject, probe_kernel

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
    return _broken(lambda: probe_kernel(kernel, length, **place))


def leak(kernel: Kernel, length: int, dtype: str, past: Callable[[int, bool], np.ndarray]) -> dict | None:
    """What a row says of a kernel of one's own by which a program sees the future, or None.

    Args:
      length: of the sequences of the program.
      dtype: of what it computes.
      past: what it gives before a token, where what comes from there on is as it is, or is changed.
    """
    if is_ours(kernel) or length < 2:
        return None
    cut = max(1, length // 2 - 1)  # inside of blocks of whichever size
    subject = Subject("the_future_cannot_touch_the_past", kernel)
    what = f"what is given before token {cut} of {length}, after a change of all from there on,"
    before, after = past(cut, False), past(cut, True)
    rounding = min(ROUNDING[0] * float(jnp.finfo(dtype).eps), ROUNDING[1])
    return _broken(lambda: subject.same(after, before, what, rounding))


def is_ours(kernel: Kernel) -> bool:
    """Whether it is of the catalogue."""
    return type(kernel) in KERNELS.values()


def _broken(held: Callable[[], None]) -> dict | None:
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
