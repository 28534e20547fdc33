"""Heat maps of a task's parts over lengths, such as a needle's depth in haystacks of several sizes."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments.show import figures, statistics
from experiments.train.sweep.analysis import by_width

# What the parts of a task are, by a word of its name.
PARTS = {"needle": "depth: 0 at the beginning", "flip": "share of instructions to be ignored"}


def draw(rows: list[dict], doubt: str, out: pathlib.Path, name: str) -> list[pathlib.Path]:
    """`probes_<name>`: a panel for each variant that has been tested by parts, for models of the longest length; and
    what keeps it from supporting a claim.
    """
    rows = [row for row in rows if row["status"] == "measured" and row["probes"]]
    if not rows:
        return []
    longest = max(row["length"] for row in rows)
    variants = by_width([row for row in rows if row["length"] == longest])
    figure, panels = figures.axes(len(variants), width=max(3.4, 7.0 / len(variants)), height=4.0)
    title = f"{rows[0]['subject']}: examples right in all, trained at {longest:,} tokens"
    figures.title(figure, title, doubt)
    label = next((text for name, text in PARTS.items() if name in rows[0]["task"].lower()), "part of the task")
    for panel, (which, own) in zip(panels, variants.items(), strict=True):
        _panel(panel, which, [row["probes"] for row in own], label)
    figures.footnote(figure, [f"{name}: {value:.0%} of each token." for name, value in rows[0]["baselines"].items()])
    figures.save(figure, out / f"probes_{name}")
    return [out / f"probes_{name}"]


def _panel(panel, which: str, grids: list[dict], label: str) -> None:
    """Means over seeds, written into their fields."""
    parts, lengths = list(grids[0]), sorted(next(iter(grids[0].values())), key=int)
    values = [[statistics.mean([grid[part][length] for grid in grids]).value for length in lengths] for part in parts]
    panel.imshow(np.array(values), cmap="viridis", vmin=0, vmax=1, aspect="auto")
    panel.grid(False)
    panel.set_title(which, fontsize=9, loc="left")
    panel.set_xticks(range(len(lengths)), [f"{int(length):,}" for length in lengths])
    panel.set_yticks(range(len(parts)), parts)
    panel.set_xlabel("tokens")
    panel.set_ylabel(label)
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            color = "white" if value < 0.6 else "black"
            panel.annotate(f"{value:.0%}", (column, row), ha="center", va="center", fontsize=7, color=color)
