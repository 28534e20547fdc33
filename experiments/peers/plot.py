"""Rows to a figure of ratios, and to a table in Markdown."""

from __future__ import annotations

import pathlib

from experiments.peers import analysis
from experiments.show import figures, tables

TABLE = "table.md"


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`ratios.png`, `ratios.svg` and `table.md`."""
    (out / TABLE).write_text(tables.markdown(*analysis.table(rows)))
    measured = [row for row in rows if row["status"] == "measured"]
    if measured:
        figures.save(_figure(measured), out / "ratios")


def _figure(rows):
    height = 1.2 + 0.3 * len(rows)
    figure, (panel,) = figures.axes(1, width=7.5, height=height)
    first = rows[0]
    figures.title(figure, "Their time / ours: right of 1 we are faster", f"{first['device']}, {first['cores']} cores")
    figures.footnote(figure, ["Dots: median ratio of neighbours in time; bars: quartiles; ticks: what we aim at."])
    places = range(len(rows), 0, -1)
    for place, row in zip(places, rows, strict=True):
        low, high = row["quartiles"]
        reached = row["goal"] is None or row["ratio"] >= row["goal"]
        color = "#0072B2" if reached else "#D55E00"
        panel.plot([low, high], [place, place], color=color, linewidth=2)
        panel.plot(row["ratio"], place, "o", color=color, markersize=5)
        if row["goal"] is not None:
            panel.plot(row["goal"], place, "|", color="#555555", markersize=12)
    panel.axvline(1, color="#888888", linewidth=0.8)
    panel.set_xscale("log")
    ticks = [tick for tick in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100) if tick <= 2 * max(row["ratio"] for row in rows)]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    panel.set_yticks(places, [f"{row['work']}  /  {row['peer']}" for row in rows])
    return figure
