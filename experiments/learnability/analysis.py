"""Rows to statements: how wide the band of rates is at which a kernel learns a task, and what learning takes there."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from experiments.show import naming, units
from experiments.show.tables import Table
from experiments.show.units import Shown
from experiments.train.sweep import convergence
from experiments.train.sweep.analysis import variant

HALF = 0.5  # of the seeds, from which a rate is in the band
HEADER = ["kernel", "length", "width", "band", "best rate", "seeds there", "steps", "operations", "parameters", "state"]


class Rate(NamedTuple):
    """What seeds did at one learning rate.

    Attributes:
      rate: of learning.
      share: of the seeds that solved the task.
      steps: their median, infinite where fewer than half did.
      operations: of training until then.
      seeds: how many there are.
    """

    rate: float
    share: float
    steps: float
    operations: float
    seeds: int


class Band(NamedTuple):
    """Decades of learning rate in which at least half of the seeds solve the task.

    Attributes:
      decades: 0 where no rate is in it, or one rate alone.
      is_open: whether a rate at the end of those that were tried is in it, so that it may be wider.
    """

    decades: float
    is_open: bool


def solved_at(row: dict) -> int | None:
    """The step at which validation first reached what counts as solved."""
    return convergence.solved_at(row.get("validations") or [], row["solved"])


def groups(rows: list[dict]) -> dict[tuple, list[dict]]:
    """Rows of one task, kernel, length and width, in the order of rates."""
    found: dict[tuple, list[dict]] = {}
    for row in sorted(rows, key=lambda row: row["learning_rate"]):
        found.setdefault((row["task"], variant(row), row["length"], row["width"]), []).append(row)
    return found


def by_rate(rows: list[dict]) -> list[Rate]:
    """What seeds did at each rate; one that diverged did not solve the task."""
    found = []
    for rate in dict.fromkeys(row["learning_rate"] for row in rows):
        own = [row for row in rows if row["learning_rate"] == rate and row["status"] in ("measured", "diverged")]
        if own:
            steps = [math.inf if row.get("solved_at") is None else row["solved_at"] for row in own]
            middle = float(np.median(steps)) if sum(map(math.isfinite, steps)) * 2 > len(steps) else math.inf
            each = next((row["step_flops"] for row in own if row.get("step_flops")), math.nan)
            found.append(Rate(rate, sum(map(math.isfinite, steps)) / len(steps), middle, middle * each, len(own)))
    return found


def band(rates: list[Rate]) -> Band:
    """The widest run of neighbouring rates; it ends where the share of seeds crosses `HALF`, by straight lines between
    rates."""
    inside = [each.share >= HALF for each in rates]
    widest = Band(0.0, False)
    start = 0
    while start < len(rates):
        if not inside[start]:
            start += 1
            continue
        end = start
        while end + 1 < len(rates) and inside[end + 1]:
            end += 1
        low = _crossing(rates[start], rates[start - 1]) if start else math.log10(rates[start].rate)
        high = _crossing(rates[end], rates[end + 1]) if end + 1 < len(rates) else math.log10(rates[end].rate)
        found = Band(high - low, start == 0 or end + 1 == len(rates))
        widest, start = max(widest, found, key=lambda band: band.decades), end + 1
    return widest


def _crossing(inside: Rate, outside: Rate) -> float:
    part = (inside.share - HALF) / (inside.share - outside.share)
    first, last = math.log10(inside.rate), math.log10(outside.rate)
    return first + part * (last - first)


def summaries(rows: list[dict]) -> list[Table]:
    """A table for each task, a line for each kernel."""
    tables: dict[str, list[list[str]]] = {}
    for (task, name, length, width), own in groups(rows).items():
        tables.setdefault(task, []).append(_line(name, length, width, own))
    title = f"Learnability: rates at which at least {HALF:.0%} of seeds solve"
    return [Table(f"{title} {naming.short(task)}", HEADER, lines) for task, lines in tables.items()]


def _line(name: str, length: int, width: int, own: list[dict]) -> list[str]:
    head, rates = [name, units.count_text(length), units.count_text(width)], by_rate(own)
    if not rates:
        return [*head, own[0].get("reason", own[0]["status"]), *[""] * 6]
    found, measured = band(rates), [row for row in own if row["status"] == "measured"]
    best = min(rates, key=lambda each: (-each.share, each.steps))
    decades = Shown(f"{'at least ' if found.is_open else ''}{found.decades:.1f} decades", found.decades)
    steps = Shown(f"{best.steps:,.0f}", best.steps) if math.isfinite(best.steps) else "never"
    operations = Shown(f"{best.operations:.2g}", best.operations) if math.isfinite(best.operations) else ""
    of_model = [_first(measured, "parameters", units.count_text), _first(measured, "state_bytes", units.size_text)]
    share = Shown(f"{best.share:.0%} of {best.seeds}", best.share)
    return [*head, decades, Shown(f"{best.rate:g}", best.rate), share, steps, operations, *of_model]


def _first(rows: list[dict], name: str, text) -> str:
    value = next((row[name] for row in rows if row.get(name) is not None), None)
    return "" if value is None else Shown(str(text(value)), value)
