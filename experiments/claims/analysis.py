"""Rows to statements: the numbers that each claim is about."""

from __future__ import annotations

from experiments.show import tables, units
from experiments.show.tables import Table
from experiments.show.units import Shown


def summaries(rows: list[dict]) -> list[Table]:
    """A table for each claim that was tested."""
    measured = [row for row in rows if row["status"] == "measured"]
    own = {claim: [row for row in measured if row["claim"] == claim] for claim in ("speed", "recall", "regression")}
    found = []
    if own["speed"]:
        found.append(tables.pivot("Speed: training tokens per second", own["speed"], "kernel", "length", _rate))
    if own["recall"]:
        each = by_distance(own["recall"])
        found.append(tables.pivot("Recall: share of the first tokens, %", each, "kernel", "distance", _recalled))
    if own["regression"]:
        found.append(_regression(own["regression"]))
    return found


def by_distance(rows: list[dict]) -> list[dict]:
    """A row for each model and distance, where a model's row has all its distances."""
    return [
        row | {"distance": distance, "accuracy": accuracy}
        for row in rows
        for distance, accuracy in zip(row["distances"], row["accuracies"], strict=True)
    ]


def _rate(group: list[dict]) -> Shown:
    rate = group[-1]["tokens_per_second"]
    return Shown(f"{rate:,.0f}", rate)


def _recalled(group: list[dict]) -> Shown:
    return tables.shares_text([100 * row["accuracy"] for row in group], ".1f")


def _regression(rows: list[dict]) -> Table:
    lines = []
    for bandwidth in sorted({row["bandwidth"] for row in rows}):
        own = [row for row in rows if row["bandwidth"] == bandwidth]
        errors = [tables.mean_text([row[name] for row in own], ".3f") for name in ("error", "left_out_error")]
        lines.append([Shown(f"{bandwidth:g}", bandwidth), *errors, units.count_text(len(own))])
    header = ["bandwidth", "error", "error, each point left out in turn", "samples"]
    return Table("Regression: root mean square", header, lines)
