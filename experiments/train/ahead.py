"""Examples of the next step, made in a thread while a device is at the step before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures

from experiments.tasks.task import Examples


@contextlib.contextmanager
def made(batch: Callable[[int], Examples], end: int) -> Iterator[Callable[[int], Examples]]:
    """`batch`, which is asked for one step more than it has to be, and never for step `end` or one behind it."""
    with futures.ThreadPoolExecutor(1) as pool:
        waiting: dict[int, futures.Future] = {}

        def next_one(step: int) -> Examples:
            found = waiting.pop(step, None) or pool.submit(batch, step)
            if step + 1 < end:
                waiting[step + 1] = pool.submit(batch, step + 1)
            return found.result()

        yield next_one
