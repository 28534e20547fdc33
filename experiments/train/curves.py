"""Curves of a training run, told to programs that draw them while it trains.

What is told is what the run's progress says, which a checkpoint holds from the first step on. So a run that goes on
from a checkpoint tells its curves anew: no point is lost, and none of a step that was done twice is there twice.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from experiments.train.loop import Progress

EVERY = 1.0  # seconds between writes, which wait for the disk
TRAIN, VALIDATION = "train/bits", "validation"


class Point(NamedTuple):
    """One of a curve."""

    curve: str
    step: int
    value: float


@contextlib.contextmanager
def following(metric: str, write: Callable[[list[Point]], None]) -> Iterator[Callable[[Progress], None]]:
    """What to tell of each step; `write` is given what is new, at last however the run ends.

    Args:
      metric: what is validated, "bits", or another of which more is better.
    """
    last, told, written = [0.0], [], {}

    def tell(progress: Progress) -> None:
        told[:] = [progress]
        if time.monotonic() - last[0] > EVERY:
            last[0] = time.monotonic()
            write(_new(progress, metric, written))

    try:
        yield tell
    finally:
        for progress in told:
            write(_new(progress, metric, written))


def _new(progress: Progress, metric: str, written: dict[str, int]) -> list[Point]:
    """Points that are not written yet. Validation is kept as lower is better, and shown as it is meant."""
    sign = 1 if metric == "bits" else -1
    validations = [(step, sign * score) for step, score in progress.validations]
    found = []
    for name, points in ((TRAIN, progress.curve), (f"{VALIDATION}/{metric}", validations)):
        found += [Point(name, step, value) for step, value in points[written.get(name, 0) :]]
        written[name] = len(points)
    return found
