"""Entries to a figure: published ratios to softmax against ours, and the band in which they count as reproduced."""

from __future__ import annotations

import pathlib

from experiments.reproduce.ledger import Entry, Measured
from experiments.reproduce.page import FIGURE
from experiments.reproduce.published import MEMORY, REFERENCE, SPEED, ratio
from experiments.reproduce.verdict import FACTOR
from experiments.show import figures, placing

TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
LABELS = {SPEED: "steps in a second / those of softmax", MEMORY: "memory / that of softmax"}


def draw(entries: list[Entry], out: pathlib.Path) -> None:
    """`ratios.png` and `ratios.svg`, with a panel for each table of which something is measured."""
    known = [entry for entry in entries if entry.result.is_ratio and (entry.faithful.value or entry.corrected.value)]
    tables = [table for table in LABELS if any(entry.result.table == table for entry in known)]
    if not tables:
        return
    figure, panels = figures.axes(len(tables))
    figures.title(figure, "Ratios to softmax that keeps its scores: published, and here", _held_fixed(known))
    models = dict.fromkeys(entry.result.model for entry in known)
    styles = figures.styles([{"kernel": model, "name": NAMES.get(model, model)} for model in models])
    for panel, table in zip(panels, tables, strict=True):
        _panel(panel, table, [entry for entry in known if entry.result.table == table], styles)
    notes = ["Filled: as the public code ran; hollow: as the paper means it.", "Band: within 25%, which is reproduced."]
    figures.footnote(figure, notes)
    figures.save(figure, out / FIGURE)


NAMES = {"longformer": "sliding_window"}  # models that go by another name in the catalogue


def _held_fixed(entries: list[Entry]) -> str:
    lengths = sorted({entry.result.length for entry in entries})
    return f"LRA's text classifier, {lengths[0]:,} to {lengths[-1]:,} bytes; larger markers are longer"


def _panel(panel, table: str, entries: list[Entry], styles: dict) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    ends = []
    for entry in entries:
        style = styles[entry.result.model] | {"linestyle": "none", "markersize": 3 + entry.result.length / 800}
        x = ratio(entry.result)
        _point(panel, x, entry.corrected, style | {"markerfacecolor": "none"})
        if entry.result.model != REFERENCE:
            _point(panel, x, entry.faithful, style)
        ends.append((entry, x))
    low, high = panel.get_xlim()
    edges = [min(low, panel.get_ylim()[0]), max(high, panel.get_ylim()[1])]
    panel.plot(edges, edges, color="#888888", linewidth=0.8, zorder=0.5)
    panel.fill_between(
        edges, [edge / FACTOR for edge in edges], [edge * FACTOR for edge in edges], color="#dddddd", zorder=0.4
    )
    panel.set_xlim(low, high)
    for axis, limits in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
        ticks = [tick for tick in TICKS if limits[0] <= tick <= limits[1]]
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    panel.set_xlabel(f"published: {LABELS[table]}")
    panel.set_ylabel(f"here: {LABELS[table]}")
    _label(panel, ends, styles)


def _point(panel, x: float, measured: Measured, style: dict) -> None:
    if measured.value is None:
        return
    value, low, high = measured.value
    error = None if low is None else [[value - low], [high - value]]
    panel.errorbar(x, value, yerr=error, elinewidth=0.8, **style)


def _label(panel, points, styles) -> None:
    """Each model's name beside the last of its points."""
    last = {}
    for entry, x in points:
        found = entry.corrected.value if entry.result.model == REFERENCE else entry.faithful.value
        found = found or entry.corrected.value
        if found is None:
            continue
        last[entry.result.model] = (entry.result.model, x, found.value, styles[entry.result.model]["color"])
    placing.label_lines(panel, list(last.values()))
