"""What is computed once, for whoever asks next: on the host, and out of reach of the caller's trace, mesh and modes."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable

import jax


def remembered(function: Callable) -> Callable:
    """`function` of hashable values, computed once for each of them; arrays that it returns are NumPy's.

    A trace, a mesh and a mode that was set by a context manager belong to a thread, so that one of its own has none.
    """

    @functools.lru_cache(maxsize=256)
    def once(*args):
        with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(lambda: jax.device_get(function(*args))).result()

    return functools.wraps(function)(once)
