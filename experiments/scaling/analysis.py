"""Rows to statements: how fast each kernel grows, and from which length it is faster than exact attention."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from experiments import statistics

REFERENCE = "softmax"
FITTED = 4  # the longest lengths that an exponent is fitted on: overhead flatters the short ones
RESAMPLES = 1000


class Exponent(NamedTuple):
    """Seconds grow as length ** value, with the 95% interval of a straight line through the logarithms."""

    value: float
    low: float
    high: float


class Crossing(NamedTuple):
    """The length from which a kernel stays faster; 0 is before the first length, infinity beyond the last."""

    value: float
    low: float
    high: float


def exponent(lengths: list[int], seconds: list[float]) -> Exponent | None:
    """Least squares on the last lengths; None for fewer than three."""
    x, y = np.log(lengths[-FITTED:]), np.log(seconds[-FITTED:])
    if len(x) < 3:
        return None
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    residual = y - y.mean() - slope * x
    spread = statistics.student(len(x) - 2) * math.sqrt(residual @ residual / (len(x) - 2) / (x @ x))
    return Exponent(slope, slope - spread, slope + spread)


def crossing(lengths: list[int], seconds: list[list[float]], reference: list[list[float]], seed: int = 0) -> Crossing:
    """Where medians cross, with a 95% bootstrap interval over repetitions.

    Args:
      lengths: lengths at which both were timed.
      seconds: repetitions at each length.
      reference: those of the reference.
    """
    rng = np.random.default_rng(seed)

    def medians(samples, resample):
        return [np.median(rng.choice(sample, len(sample)) if resample else sample) for sample in samples]

    values = [_crossing(lengths, medians(seconds, i), medians(reference, i)) for i in [False] + [True] * RESAMPLES]
    low, high = np.quantile(values[1:], [0.025, 0.975], method="nearest")
    return Crossing(values[0], float(low), float(high))


def _crossing(lengths, seconds, reference) -> float:
    ahead = np.log(reference) - np.log(seconds)
    behind = np.flatnonzero(ahead <= 0)
    if not len(behind):
        return 0.0
    last = behind[-1]
    if last == len(lengths) - 1:
        return math.inf
    share = -ahead[last] / (ahead[last + 1] - ahead[last])
    return float(lengths[last] * (lengths[last + 1] / lengths[last]) ** share)


def summarise(rows: list[dict]) -> list[dict]:
    """One entry for each kernel and pass: exponents of time and memory, crossing, refusals and skips."""
    entries = []
    for passed in dict.fromkeys(row["pass"] for row in rows):
        for kernel in dict.fromkeys(row["kernel"] for row in rows):
            own = [row for row in rows if row["kernel"] == kernel and row["pass"] == passed]
            if own:
                entries.append(_entry(own, [row for row in rows if row["pass"] == passed]))
    return entries


def _entry(own: list[dict], beside: list[dict]) -> dict:
    measured = sorted((row for row in own if row["status"] == "measured"), key=lambda row: row["length"])
    lengths = [row["length"] for row in measured]
    memory = [max(row["temporary_bytes"], 1) for row in measured]
    return {
        "kernel": own[0]["kernel"],
        "name": own[0]["name"],
        "pass": own[0]["pass"],
        "lengths": lengths,
        "exponent": exponent(lengths, [row["median"] for row in measured]),
        "memory_exponent": exponent(lengths, memory),
        "crossing": _entry_crossing(measured, beside),
        "longest": measured[-1]["median"] if measured else None,
        "longest_bytes": measured[-1]["temporary_bytes"] if measured else None,
        "notes": [f"{row['length']:,}: {row['status']}: {row['reason']}" for row in own if row["status"] != "measured"],
    }


def _entry_crossing(measured: list[dict], beside: list[dict]) -> Crossing | None:
    reference = {row["length"]: row for row in beside if row["name"] == REFERENCE and row["status"] == "measured"}
    common = [row for row in measured if row["length"] in reference]
    if not common or common[0]["name"] == REFERENCE:
        return None
    lengths = [row["length"] for row in common]
    return crossing(lengths, [row["seconds"] for row in common], [reference[n]["seconds"] for n in lengths])


def crossing_text(found: Crossing | None, lengths: list[int]) -> str:
    """A crossing in words, such as `1,200 [1,100, 1,350]`, `before 256` or `beyond 8,192`."""
    if found is None:
        return ""

    def one(value):
        if value == 0:
            return f"before {lengths[0]:,}"
        return f"beyond {lengths[-1]:,}" if math.isinf(value) else f"{value:,.0f}"

    return one(found.value) if found.low == found.high else f"{one(found.value)} [{one(found.low)}, {one(found.high)}]"


def exponent_text(found: Exponent | None) -> str:
    """An exponent in words, such as `1.02 [0.98, 1.06]`."""
    return "" if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def table(summary: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the summary."""
    header = ["kernel", "pass", "time exponent", "memory exponent", "faster than softmax from", "longest", "its time"]
    lines = []
    for entry in summary:
        longest = f"{entry['lengths'][-1]:,}" if entry["lengths"] else entry["notes"][0].partition(": ")[2]
        lines.append(
            [
                entry["kernel"],
                entry["pass"],
                exponent_text(entry["exponent"]),
                exponent_text(entry["memory_exponent"]),
                crossing_text(entry["crossing"], entry["lengths"]),
                longest,
                "" if entry["longest"] is None else f"{entry['longest'] * 1e3:,.1f} ms",
            ]
        )
    return header, lines
