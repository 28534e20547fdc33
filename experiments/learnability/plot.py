"""Rows to figures: the share of seeds that solve a task at each learning rate, and what that takes."""

from __future__ import annotations

import itertools
import math
import pathlib

from experiments.learnability import analysis
from experiments.show import figures, placing, scales, statistics

DRAWN = {"linewidth": 1.5, "markersize": 4.5}
UNITS = {1.0: "", 1e6: "millions of ", 1e9: "billions of ", 1e12: "trillions of "}


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`learnability_<task>` for each task, numbered where there are several."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for place, task in enumerate(tasks):
        own = [row for row in rows if row["task"] == task]
        if any(row["status"] in ("measured", "diverged") for row in own):
            number = f"_{place}" if len(tasks) > 1 else ""
            figures.save(_figure(own), out / f"learnability_{own[0]['task_name']}{number}")


def _figure(rows: list[dict]):
    figure, [[shares], [operations]] = figures.grid(2, 1, width=5.4, height=3.8)
    lines = _named(analysis.groups(rows))
    subject = next(iter(lines.values()))[0]["subject"]
    looks = figures.styles([own[0] | {"kernel": name} for name, own in lines.items()])
    rates = {name: analysis.by_rate(own) for name, own in lines.items()}
    doubt = statistics.doubt(min(each.seeds for own in rates.values() for each in own if each.seeds))
    heading = f"{subject}: who learns it, at which rate"
    figures.title(figure, heading, "; ".join(filter(None, (analysis.held(rows), doubt))))
    unit, word = _unit([each.operations for own in rates.values() for each in own])
    found = {
        shares: {name: [(each.rate, each.share) for each in own] for name, own in rates.items()},
        operations: {name: [(each.rate, each.operations / unit) for each in own] for name, own in rates.items()},
    }
    shares.set_ylim(-0.05, 1.05)
    for panel, heading in (
        (shares, "share of seeds that solve it"),
        (operations, f"{word}operations until half of the seeds have"),
    ):
        panel.set_xscale("log")
        panel.set_xlabel("highest learning rate" if panel is operations else "")
        panel.set_title(heading, fontsize=10, loc="left")
    ends, drawn = {shares: [], operations: []}, {shares: [], operations: []}
    labels = dict(zip(found, zip(*itertools.starmap(analysis.labels, lines.items()), strict=True), strict=True))
    for panel, values in found.items():
        for (name, points), label in zip(values.items(), labels[panel], strict=True):
            shown = [point for point in points if math.isfinite(point[1])]
            if shown:
                parted = [(rate, value if math.isfinite(value) else math.nan) for rate, value in points]
                drawn[panel].append(panel.plot(*zip(*parted, strict=True), **looks[name], **DRAWN))
                ends[panel].append((label, *shown[-1], looks[name]["color"]))
    operations.set_xlim(shares.get_xlim())
    if ends[operations]:
        operations.set_yscale("log")
        for budget in set(analysis.budgets(rows).values()):
            level = {"all were given as many": dict.fromkeys(operations.get_xlim(), budget / unit)}
            ends[operations] += figures.levels(operations, level)
        scales.plain_ticks(operations.yaxis)
    for panel in found:
        scales.plain_ticks(panel.xaxis)
    moved = [note for panel, own in drawn.items() for note in placing.side_by_side(panel, own)]
    figures.footnote(figure, list(dict.fromkeys(moved)))
    for panel, labels in ends.items():
        placing.label_lines(panel, labels)
    return figure


def _unit(counts: list[float]) -> tuple[float, str]:
    """The largest of `UNITS` that leaves all counts at least 1, and its word."""
    least = min(filter(math.isfinite, counts), default=1.0)
    return max((unit, word) for unit, word in UNITS.items() if unit <= max(least, 1.0))


def _named(groups: dict[tuple, list[dict]]) -> dict[str, list[dict]]:
    """By kernel, and by length and width where there are several."""
    several = [len({key[axis] for key in groups}) > 1 for axis in (2, 3)]
    parts = lambda key: [
        f"{text} {size:,}" for text, size, is_told in zip(("T =", "width"), key[2:], several, strict=True) if is_told
    ]
    return {", ".join([key[1], *parts(key)]): own for key, own in groups.items()}
