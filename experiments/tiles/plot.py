"""Rows to a figure: time against pairs in a step, a line for each size of tile."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments.show import figures, placing, scales

COLORS = ("#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7")


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`tiles.png` and `tiles.svg`: a panel for each work."""
    rows = [row for row in rows if row["status"] == "measured"]
    if not rows:
        return
    works = list(dict.fromkeys(row["work"] for row in rows))
    sizes = sorted({row["tile"] for row in rows})
    figure, panels = figures.axes(len(works), width=4.4)
    first = rows[-1]
    below = (
        f"{first['device']}, {first['cores']} cores; {first['heads']} heads of {first['head_dim']}, {first['dtype']}"
    )
    figures.title(figure, "Run time by tile and by pairs in a step", below)
    figures.footnote(figure, ["Medians and quartiles; the ring is the library's rule."])
    for panel, work in zip(panels, works, strict=True):
        _panel(panel, [row for row in rows if row["work"] == work], sizes)
    figures.save(figure, out / "tiles")


def _panel(panel, rows: list[dict], sizes: list[int]) -> None:
    ends = []
    for size, color in zip(sizes, COLORS, strict=False):
        line = sorted((row for row in rows if row["tile"] == size), key=lambda row: row["pairs"])
        xs, ys = [row["pairs"] for row in line], [row["median"] for row in line]
        low, high = (np.abs([row["quartiles"][side] - row["median"] for row in line]) for side in (0, 1))
        panel.errorbar(xs, ys, yerr=[low, high], color=color, marker="o", markersize=3.5, linewidth=1.2)
        ends += [(f"tile {size}", xs[-1], ys[-1], color)] if line else []
    for row in rows:
        if row["is_rule"]:
            panel.plot(row["pairs"], row["median"], "o", markersize=12, fillstyle="none", color="#000000")
    pairs = sorted({row["pairs"] for row in rows})
    panel.set_xscale("log", base=2)
    panel.set_xticks(pairs, [f"{count:,}" for count in pairs], rotation=40, ha="right")
    panel.minorticks_off()
    panel.set_xlabel("pairs of queries and keys in a step")
    panel.set_title(f"{rows[0]['work']}, {rows[0]['length']:,} tokens", fontsize=10)
    scales.seconds_axis(panel)
    placing.label_lines(panel, ends)
