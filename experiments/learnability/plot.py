"""Rows to figures: the share of seeds that solve a task at each learning rate, and what that takes."""

from __future__ import annotations

import math
import pathlib

from experiments.learnability import analysis
from experiments.show import figures, naming, statistics


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`learnability_<task>` for each task, numbered where there are several."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for place, task in enumerate(tasks):
        own = [row for row in rows if row["task"] == task]
        if any(row["status"] in ("measured", "diverged") for row in own):
            number = f"_{place}" if len(tasks) > 1 else ""
            figures.save(_figure(own), out / f"learnability_{own[0]['task_name']}{number}")


def _figure(rows: list[dict]):
    figure, (shares, operations) = figures.axes(2, width=5.2, height=4.6)
    first, groups = rows[0], analysis.groups(rows)
    lines = {name: [name, own] for name, own in _named(groups).items()}
    looks = figures.styles([own[0] | {"kernel": name} for name, own in lines.values()])
    held = f"{first['steps']:,} steps; solved from {first['solved']:.0%} of validation"
    doubt = statistics.doubt(min(each.seeds for _, own in lines.values() for each in analysis.by_rate(own)))
    figures.title(
        figure, f"{naming.short(first['task'])}: who learns it, at which rate", "; ".join(filter(None, (held, doubt)))
    )
    ends: dict = {shares: [], operations: []}
    for name, own in lines.values():
        rates = analysis.by_rate(own)
        for panel, values in ((shares, [x.share for x in rates]), (operations, [x.operations for x in rates])):
            shown = [(rate.rate, value) for rate, value in zip(rates, values, strict=True) if math.isfinite(value)]
            if shown:
                panel.plot(*zip(*shown, strict=True), **looks[name], linewidth=1.5, markersize=4.5)
                ends[panel].append((name, *shown[-1], looks[name]["color"]))
    for panel, text in (
        (shares, "share of seeds that solve it"),
        (operations, "operations until half of the seeds have"),
    ):
        panel.set_xscale("log")
        panel.set_xlabel("highest learning rate")
        panel.set_title(text, fontsize=10, loc="left")
    shares.set_ylim(-0.03, 1.03)
    operations.set_xlim(shares.get_xlim())
    if ends[operations]:
        figures.ratios_axis(operations)
    for panel, labels in ends.items():
        figures.label_lines(panel, labels)
    return figure


def _named(groups: dict[tuple, list[dict]]) -> dict[str, list[dict]]:
    """By kernel, and by length and width where there are several."""
    several = [len({key[axis] for key in groups}) > 1 for axis in (2, 3)]
    parts = lambda key: [
        f"{text} {size:,}" for text, size, is_told in zip(("T =", "width"), key[2:], several, strict=True) if is_told
    ]
    return {", ".join([key[1], *parts(key)]): own for key, own in groups.items()}
