"""Rows to figures: how much more than is needed is moved, and the least time, against length."""

from __future__ import annotations

import itertools
import pathlib

from experiments.compiled import analysis
from experiments.show import figures

TITLES = {"forward": "forward", "train": "forward and backward"}
DRAWN = {"linewidth": 1.4, "markersize": 4}


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """A figure for each target and setting."""
    styles = figures.styles([row | {"kernel": analysis.line_name(row)} for row in rows])
    names: dict[str, int] = {}
    for own in analysis.settings_of(rows).values():
        counted = [row for row in own if analysis.is_counted(row)]
        if counted:
            stem = f"{own[0]['target']}{'_causal' * own[0]['is_causal']}"
            names[stem] = names.get(stem, 0) + 1
            number = f"_{names[stem]}" if names[stem] > 1 else ""
            figures.save(_figure(counted, own, styles), out / f"{stem}{number}")


def _figure(counted: list[dict], own: list[dict], styles: dict):
    passes = list(dict.fromkeys(row["pass"] for row in counted))
    figure, panels = figures.grid(len(passes), 2, width=3.7, height=2.9)
    figures.title(figure, "Compiled, and not run", analysis.setting_text(own[0]))
    figures.footnote(figure, _notes(own))
    names = dict.fromkeys(map(analysis.line_name, counted))
    figures.legend(figure, {name: styles[name] for name in names})
    lengths = sorted({row["length"] for row in counted})
    for passed, (ratios, times) in zip(passes, panels, strict=True):
        for name in names:
            line = [row for row in counted if row["pass"] == passed and analysis.line_name(row) == name]
            line.sort(key=lambda row: row["length"])
            xs = [row["length"] for row in line]
            ratios.plot(xs, list(map(analysis.ratio, line)), **styles[name], **DRAWN)
            timed = [row for row in line if analysis.is_timed(row)]
            times.plot(*([row[of] for row in timed] for of in ("length", "roofline_seconds")), **styles[name], **DRAWN)
        ratios.set_ylabel(TITLES[passed], fontsize=9)
        figures.ratios_axis(ratios)
        figures.seconds_axis(times)
        for panel in (ratios, times):
            figures.lengths_axis(panel, lengths)
    for panel, text in zip(panels[0], ("bytes moved / needed", "takes at least"), strict=True):
        panel.set_title(text, fontsize=10, loc="left")
    for panel in itertools.chain(*panels[:-1]):
        panel.set_xlabel("")
        panel.tick_params(labelbottom=False)
    return figure


def _notes(rows: list[dict]) -> list[str]:
    notes = ["At least: the longest of what bytes, operations and launches take by public figures of the device."]
    for status in ("refused", "failed", "skipped"):
        named = dict.fromkeys(analysis.line_name(row) for row in rows if row["status"] == status)
        notes += [f"{status.capitalize()}: {', '.join(named)}."] if named else []
    return notes
