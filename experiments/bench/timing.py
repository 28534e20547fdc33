"""Calls timed in turns, within a budget: median and quartiles of repetitions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import outcome

if TYPE_CHECKING:
    from experiments.bench.experiment import Cell

Call = Callable[[], object]

ALONE = 10.0  # seconds of repetitions, from which a program is timed alone: it averages the noise itself


def in_turns(cells: Iterable[Cell], prepare: Callable[[Cell], Call | None], repeats: int) -> Iterator[dict]:
    """Rows of cells that take turns, those that are not timed first.

    Args:
      prepare: what is to be timed of a cell; None where its row is final. What it finds goes into the row at once, so
        that a cell which raises later keeps it.
    """
    ready = []
    for cell in cells:
        try:
            call = prepare(cell)
        except Exception as error:  # one cell that fails must not take the others with it
            call = cell.row.update(outcome.of(error))
        if call is None:
            yield cell.row
        else:
            ready.append((cell.row, call))
    yield from take_turns(ready, repeats)


def take_turns(ready: list[tuple[dict, Call]], repeats: int) -> Iterator[dict]:
    """Rows with the times of each call, after a warm-up: in turns, but for those that take long."""
    waiting = []
    for row, call in ready:
        warm_up = _timed(row, call, is_asked=True)
        skip = warm_up is not None and over_budget(row, warm_up)
        if warm_up is None or skip:
            yield row | (skip or {})
        elif warm_up * repeats > ALONE:
            yield _finished(row, [_timed(row, call) for _ in range(repeats)])
        else:
            waiting.append((row, call, []))
    for _ in range(repeats):
        for row, call, seconds in waiting:
            seconds.append(_timed(row, call))
    for row, _, seconds in waiting:
        yield _finished(row, seconds)


def _timed(row: dict, call: Call, *, is_asked: bool = False) -> float | None:
    """Seconds of one repetition; None where it failed, which the row then says.

    Args:
      is_asked: whether it fails where what it gives is not finite: that may have left out the work.
    """
    try:
        seconds, found = _called(call)
        if is_asked and not all(map(_is_finite, jax.tree.leaves(found))):
            raise FloatingPointError("what it gives is not finite")
        return seconds
    except Exception as error:
        row |= outcome.failure(error)
        return None


def _is_finite(x: object) -> bool:
    is_number = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)
    return not is_number or bool(jnp.isfinite(x).all())


def seconds_of(call: Call) -> float:
    """Of one call, until its result is there."""
    return _called(call)[0]


def _called(call: Call) -> tuple[float, object]:
    start = time.perf_counter()
    found = jax.block_until_ready(call())
    return time.perf_counter() - start, found


def _finished(row: dict, seconds: list[float | None]) -> dict:
    if None in seconds:
        return row
    low, middle, high = map(float, np.quantile(seconds, [0.25, 0.5, 0.75]))
    return row | {"status": "measured", "seconds": seconds, "median": middle, "quartiles": [low, high]}


def over_budget(row: dict, seconds: float | None) -> dict | None:
    """What a row says where repetitions of `seconds` each exceed its budget."""
    if seconds is None or seconds * (row["repeats"] + 1) <= row["cell_budget"]:
        return None
    total = seconds * (row["repeats"] + 1)
    reason = f"would take {total:.3g} s, the budget is {row['cell_budget']:g} s"
    return {"status": "skipped", "limit": "budget", "reason": reason, "predicted_seconds": seconds}
