"""Rows to figures: run time beside temporary memory, against length."""

from __future__ import annotations

import math
import pathlib

from experiments.scaling import analysis
from experiments.scaling.analysis import Exponent
from experiments.show import figures, naming, placing, scales

TITLES = {"forward": "Forward pass", "train": "Forward and backward pass"}
NARROW = 0.1  # of an exponent's interval, up to which its two digits are known without it
DRAWN = {"linewidth": 1.5, "markersize": 4.5, "markeredgewidth": 0.8}


def draw(rows: list[dict], summary: list[dict], out: pathlib.Path) -> list[pathlib.Path]:
    """One figure for each pass with something to show; the stems that were written."""
    styles = figures.styles(rows)
    stems = []
    for passed in dict.fromkeys(row["pass"] for row in rows):
        own = [row for row in rows if row["pass"] == passed]
        if any(row["status"] == "measured" for row in own):
            stems.append(out / f"time_{passed}")
            figures.save(_figure(own, [entry for entry in summary if entry["pass"] == passed], styles), stems[-1])
    return stems


def _figure(rows, summary, styles):
    lengths = sorted({row["length"] for row in rows})
    figure, [[time_panel], [memory_panel]] = figures.grid(2, 1, width=5.2, height=4.4)
    figures.title(figure, TITLES[rows[0]["pass"]], analysis.shared_text(rows))
    exponents = {entry["kernel"]: entry["exponent"] for entry in summary}
    ends, lines = {time_panel: [], memory_panel: []}, {time_panel: [], memory_panel: []}
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        own = sorted((row for row in rows if row["kernel"] == kernel), key=lambda row: row["length"])
        slope = exponents.get(kernel)
        label = analysis.label(own[0], rows)
        for panel, points, told in (
            (time_panel, _times(own), label + _growth(slope)),
            (memory_panel, _sizes(own), label),
        ):
            before = panel.get_children()
            ends[panel] += _line(panel, points, styles[kernel], told)
            drawn = [artist for artist in panel.get_children() if artist not in before]
            lines[panel] += [drawn] if drawn else []
    for panel, text in ((time_panel, "run time"), (memory_panel, "temporary memory that the compiler plans")):
        panel.set_title(text, fontsize=10, loc="left")
        scales.lengths_axis(panel, lengths)
    time_panel.set_xlabel("")
    for panel, points in ((time_panel, _times(rows)), (memory_panel, _sizes(rows))):
        panel.set_yscale("log")
        _guides(panel, points, lengths)
    scales.seconds_axis(time_panel)
    scales.bytes_axis(memory_panel)
    moved = [note for panel, own in lines.items() for note in placing.side_by_side(panel, own)]
    figures.footnote(figure, [*_notes(rows, summary), *dict.fromkeys(moved)])
    for panel, labels in ends.items():
        placing.label_lines(panel, labels)
    return figure


def _times(rows) -> list[tuple]:
    """Length, seconds, quartiles and whether it was measured, of each row that has a time."""
    timed = [(row["length"], row.get("median") or row.get("predicted_seconds"), row) for row in rows]
    return [
        (length, seconds, row.get("quartiles", (seconds, seconds)), row["status"] == "measured")
        for length, seconds, row in timed
        if seconds and row["status"] in ("measured", "skipped")
    ]


def _sizes(rows) -> list[tuple]:
    """Length, bytes, bytes twice and whether it was measured, of each row with a compiled program."""
    return [
        (row["length"], size, (size, size), row["status"] == "measured")
        for row in rows
        if row["status"] in ("measured", "skipped") and (size := row.get("temporary_bytes"))
    ]


def _line(panel, points, style, label) -> list[tuple]:
    """Draw measured points, joined, and predicted ones, hollow; what `label_lines` needs."""
    measured = [point for point in points if point[3]]
    hollow = [point for point in points if not point[3]]
    if measured:
        x, y = [point[0] for point in measured], [point[1] for point in measured]
        spread = [[point[1] - point[2][0] for point in measured], [point[2][1] - point[1] for point in measured]]
        panel.errorbar(x, y, spread, elinewidth=1, **style, **DRAWN)
    if hollow:
        joined = measured[-1:] + hollow
        panel.plot(
            [point[0] for point in joined],
            [point[1] for point in joined],
            **(style | {"linestyle": (0, (1, 2))}),
            **(DRAWN | {"linewidth": 1.0}),
            markerfacecolor="white",
            markevery=range(len(measured[-1:]), len(joined)),
        )
    return [(label, points[-1][0], points[-1][1], style["color"])] if points else []


def _growth(exponent: Exponent | None) -> str:
    """An exponent as a label has it: two digits where they are known, and else one, with its interval."""
    if exponent is None:
        return ""
    value, low, high = exponent
    if high - low <= NARROW:
        return f"  $T^{{{value:.2f}}}$"
    return f"  $T^{{{value:.1f}}}$ [{math.floor(10 * low) / 10:.1f}, {math.ceil(10 * high) / 10:.1f}]"


def _guides(panel, points, lengths):
    if len(lengths) > 1 and points:
        figures.slope_guides(panel, [point[:2] for point in points])


def _notes(rows, summary) -> list[str]:
    notes = ["Bars: quartiles of repetitions." if any(row["status"] == "measured" for row in rows) else ""]
    if any(entry["exponent"] for entry in summary):
        notes.append(f"Exponents: of run time, with their 95% interval where it is wider than {NARROW}.")
    if any(row["status"] == "skipped" for row in rows):
        notes.append(
            "Hollow: not run, for want of time or memory; times are predicted, memory is planned as elsewhere."
        )
    for status in ("refused", "failed"):
        named = dict.fromkeys(naming.short(row["kernel"]) for row in rows if row["status"] == status)
        notes += [f"{status.capitalize()}: {', '.join(named)}."] if named else []
    return notes
