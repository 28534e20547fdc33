"""Rows of meshes to figures: time, memory and bytes sent against the number of devices."""

from __future__ import annotations

import pathlib

from experiments.scaling import analysis, devices
from experiments.scaling.plot import DRAWN, TITLES
from experiments.show import figures, naming

# What each panel shows, and the column of it.
TIME, MEMORY = ("run time", "median"), ("temporary memory of a device", "temporary_bytes")
SENT = ("sent by a device", "sent_bytes")
IDEAL = {"strong": -1, "weak": 0}  # the power of devices that time and memory should grow with


def draw(rows: list[dict], out: pathlib.Path) -> list[pathlib.Path]:
    """One figure for each pass with something to show; the stems that were written."""
    styles = figures.styles(rows)
    stems = []
    for passed in dict.fromkeys(row["pass"] for row in rows):
        own = [row for row in rows if row["pass"] == passed]
        found = {"strong": devices.strong(own), "weak": devices.weak(own)}
        found = {kind: series for kind, series in found.items() if series is not None}
        if found:
            stems.append(out / f"devices_{passed}")
            figures.save(_figure(own, found, styles), stems[-1])
    return stems


def _figure(rows, found, styles):
    figure, grid = figures.grid(len(found), 3, width=4.1, height=3.7)
    figures.title(figure, f"{TITLES[rows[0]['pass']]} on several devices", analysis.setting_text(rows[0]))
    figures.footnote(figure, _notes(rows))
    drawn = dict.fromkeys(row["kernel"] for series in found.values() for row in series.rows)
    figures.legend(figure, {naming.short(kernel): styles[kernel] for kernel in drawn})
    for panels, (kind, series) in zip(grid, found.items(), strict=True):
        for panel, (text, column) in zip(panels, (TIME, MEMORY, SENT), strict=True):
            panel.set_title(text, fontsize=10, loc="left")
            _lines(panel, [row for row in series.rows if column != SENT[1] or devices.is_talking(row)], column, styles)
            figures.devices_axis(panel, sorted({row["devices"] for row in series.rows}))
            figures.seconds_axis(panel) if column == "median" else figures.bytes_axis(panel)
        panels[0].set_ylabel(f"{kind} scaling\n{series.name}", fontsize=9)
        for panel, (_, column) in zip(panels, (TIME, MEMORY), strict=False):
            _guide(panel, series.rows, column, IDEAL[kind])
    return figure


def _lines(panel, rows, column, styles) -> None:
    """A line for each kernel."""
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        own = [row for row in rows if row["kernel"] == kernel]
        x, y = [row["devices"] for row in own], [row[column] for row in own]
        spread = None
        if column == "median":
            low, high = zip(*(row["quartiles"] for row in own), strict=True)
            spread = [[b - a for a, b in zip(low, y, strict=True)], [a - b for a, b in zip(high, y, strict=True)]]
        panel.errorbar(x, y, spread, elinewidth=1, **styles[kernel], **DRAWN)


def _guide(panel, rows, column, power) -> None:
    """A thin line of the ideal, devices to a power, from the least at the fewest devices; limits stay."""
    counts = sorted({row["devices"] for row in rows})
    first = min(row[column] for row in rows if row["devices"] == counts[0])
    low, high = panel.get_ylim()
    ys = [first * (count / counts[0]) ** power for count in counts]
    panel.plot(counts, ys, color="#aaaaaa", linewidth=0.8, linestyle=(0, (4, 4)), zorder=0.5)
    panel.set_ylim(min(low, 0.8 * ys[-1]), high)


def _notes(rows) -> list[str]:
    notes = ["Bars: quartiles of repetitions.", "Dashed: ideal."]
    shared = [row for row in rows if row["status"] == "measured" and row["devices"] > 1]
    silent = dict.fromkeys(naming.short(row["kernel"]) for row in shared if not devices.is_talking(row))
    loss = " but a loss" if rows[0]["pass"] == "train" else ""
    notes += [f"Nothing{loss} is sent by {', '.join(silent)}."] if silent else []
    refused = dict.fromkeys(naming.short(row["kernel"]) for row in rows if row["status"] == "refused")
    notes += [f"Refused: {', '.join(refused)}."] if refused else []
    return [*notes, devices.virtual(rows).removeprefix(". ") + "." if rows[0]["platform"] == "cpu" else ""]
