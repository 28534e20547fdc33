"""Rows of meshes to figures: time, memory and bytes sent against the number of devices."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from experiments.scaling import analysis, devices
from experiments.scaling.plot import DRAWN, TITLES
from experiments.show import figures, naming, scales


class Shown(NamedTuple):
    """A column of rows, and whether it should fall as devices share a call, and stay where each has as much."""

    title: str
    column: str
    has_ideal: bool = True


TIME, MEMORY = Shown("run time", "median"), Shown("memory that the compiler plans", "temporary_bytes")
SENT = Shown("sent by a device", "sent_bytes", has_ideal=False)
IDEAL = {"strong": -1, "weak": 0}  # the power of devices that is ideal


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
    drawn = [row for series in found.values() for row in series.rows]
    shown = [each for each in (TIME, MEMORY, SENT) if any(_has(row, each) for row in drawn)]
    figure, grid = figures.grid(len(shown), len(found), width=4.0, height=3.1)
    figures.title(figure, f"{TITLES[rows[0]['pass']]} on several devices", analysis.shared_text(rows))
    figures.footnote(figure, _notes(rows, drawn, shown))
    figures.legend(figure, {analysis.label(row, drawn): styles[row["kernel"]] for row in drawn})
    for panels, each in zip(grid, shown, strict=True):
        for panel, (kind, series) in zip(panels, found.items(), strict=True):
            _draw_panel(panel, each, series.rows, styles, IDEAL[kind])
            panel.set_title(each.title, fontsize=10, loc="left")
            panel.set_xlabel("devices" if each is shown[-1] else "")
    for panel, (kind, series) in zip(grid[0], found.items(), strict=True):
        panel.set_title(f"{kind} scaling:\n{series.name}\n\n{shown[0].title}", fontsize=10, loc="left")
    return figure


def _has(row, shown) -> bool:
    """Whether a row has something for a panel: a number above 0, which is more than a loss where it is sent."""
    return devices.is_talking(row) if shown is SENT else bool(row.get(shown.column))


def _draw_panel(panel, shown, rows, styles, power) -> None:
    own = [row for row in rows if _has(row, shown)]
    for kernel in dict.fromkeys(row["kernel"] for row in own):
        _line(panel, shown, [row for row in own if row["kernel"] == kernel], styles[kernel])
    scales.devices_axis(panel, sorted({row["devices"] for row in rows}))
    panel.set_yscale("log")
    if shown.has_ideal and own:
        _guide(panel, own, shown.column, power)
    scales.seconds_axis(panel) if shown is TIME else scales.bytes_ticks(panel)


def _line(panel, shown, rows, style) -> None:
    x, y = [row["devices"] for row in rows], [row[shown.column] for row in rows]
    spread = None
    if shown is TIME:
        spread = [[abs(row["quartiles"][side] - row["median"]) for row in rows] for side in (0, 1)]
    panel.errorbar(x, y, spread, elinewidth=1, **style, **DRAWN)


def _guide(panel, rows, column, power) -> None:
    """A thin line of devices to a power, below all points: what is ideal goes along it."""
    counts = sorted({row["devices"] for row in rows})
    shares = [(count / counts[0]) ** power for count in counts]
    start = min(row[column] / shares[counts.index(row["devices"])] for row in rows) / 1.4
    _, high = panel.get_ylim()
    ys = [start * share for share in shares]
    panel.plot(counts, ys, color="#aaaaaa", linewidth=0.8, linestyle=(0, (4, 4)), zorder=0.5)
    place = {"xytext": (-2, -3), "textcoords": "offset points", "ha": "right", "va": "top"}
    middle = len(counts) // 2
    panel.annotate("ideal", (counts[middle], ys[middle]), color="#777777", fontsize=figures.LABEL, zorder=0.6, **place)
    panel.set_ylim(min(ys) * (min(ys) / high) ** 0.12, high)  # room for its name


def _notes(rows, drawn, shown) -> list[str]:
    named = lambda rows: ", ".join(dict.fromkeys(naming.short(row["kernel"]) for row in rows))
    notes = ["Memory: temporary, of one device. Dashed: how ideal scaling would go."]
    if TIME in shown:
        notes.append("Bars: quartiles of repetitions.")
        late = {(row["kernel"], row["devices"]): row for row in drawn if not _has(row, TIME)}
        notes += [
            f"{naming.short(kernel)} on {count} device{'s' * (count > 1)}: {row['status']}, {row['reason']}."
            for (kernel, count), row in late.items()
        ]
    if silent := named(row for row in drawn if row["devices"] > 1 and not devices.is_talking(row)):
        notes.append(f"Nothing{' but a loss' * (rows[0]['pass'] == 'train')} is sent by {silent}.")
    if refused := named(row for row in rows if row["status"] == "refused"):
        notes.append(f"Refused: {refused}.")
    if said := devices.virtual(drawn):
        notes.append(f"{said}.")
    return notes
