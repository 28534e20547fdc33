"""Rows to figures: how much more than is needed each kernel moves, and where they are few, all of it against length."""

from __future__ import annotations

import itertools
import pathlib

from matplotlib.lines import Line2D

from experiments.compiled import analysis
from experiments.show import figures, naming, scales

TITLES = {"forward": "forward", "train": "forward and backward"}
DRAWN = {"linewidth": 1.4, "markersize": 4}
ROUTES = {
    "xla": ("XLA", "#0072B2", "s"),
    "cudnn": ("cuDNN", "#009E73", "P"),
    "pallas": ("our kernel (pallas)", "#D55E00", "D"),
    "forward": ("XLA, for forward mode", "#CC79A7", "^"),
    "reference": ("reference", "#7F7F7F", "o"),
}
DOT = {"linestyle": "none", "markersize": 6}
AIM = 1.5  # times what is needed
FEW = 8  # lines that can be told apart


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """For each target and setting what is moved at the longest length, and lines against length where they are few."""
    styles = figures.styles([row | {"kernel": analysis.line_name(row)} for row in rows])
    names: dict[str, int] = {}
    for own in analysis.settings_of(rows).values():
        counted = [row for row in own if analysis.is_counted(row)]
        if counted:
            stem = f"{own[0]['target']}{'_causal' * own[0]['is_causal']}"
            names[stem] = names.get(stem, 0) + 1
            stem += f"_{names[stem]}" if names[stem] > 1 else ""
            figures.save(_moved(counted, own), out / stem)
            if len({row["length"] for row in counted}) > 1 and len(set(map(analysis.line_name, counted))) <= FEW:
                figures.save(_lengths(counted, own, styles), out / f"{stem}_lengths")


def _moved(counted: list[dict], own: list[dict]):
    """A line for each kernel, the most wasteful above, and a dot in it for each implementation."""
    longest = {}
    for row in sorted(counted, key=lambda row: row["length"]):
        longest[row["kernel"], analysis.route(row), row["pass"]] = row
    passes = list(dict.fromkeys(row["pass"] for row in counted))
    most: dict[str, float] = {}
    for row in longest.values():
        most[row["kernel"]] = max(most.get(row["kernel"], 0), analysis.ratio(row))
    kernels = sorted(most, key=lambda kernel: -most[kernel])
    figure, [panels] = figures.grid(1, len(passes), width=3.2, height=1.9 + 0.27 * len(kernels))
    figures.title(figure, "Bytes moved / bytes needed, as compiled and not run", f"{analysis.setting_text(own[0])}\n")
    lengths = sorted({row["length"] for row in longest.values()})
    for panel, passed in zip(panels, passes, strict=True):
        rows = [row for row in longest.values() if row["pass"] == passed]
        _dots(panel, rows, kernels)
        panel.set_title(TITLES[passed], fontsize=10, loc="left")
        panel.set_xlabel("moved / needed")
        panel.tick_params(labelleft=panel is panels[0])
    panels[0].set_yticks(range(len(kernels)), [naming.short(kernel) for kernel in kernels], fontsize=figures.LABEL)
    _legend(panels[0], {analysis.route(row) for row in longest.values()})
    at = "At" if len(lengths) == 1 else "Each at its longest of"
    told = f"{at} {', '.join(f'{length:,}' for length in lengths)} tokens."
    lines = (
        f"Lines: 1, what a fused kernel needs to move, and dashed {AIM}, which is aimed at. Without a dot: no count."
    )
    figures.footnote(figure, [told, lines, *_without(own)])
    return figure


def _legend(panel, taken: set[str]) -> None:
    """The implementations that were taken, above the heading of a panel."""
    handles = [
        Line2D([], [], color=color, marker=marker, label=name, **DOT)
        for route, (name, color, marker) in ROUTES.items()
        if route in taken
    ]
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 2.4}
    look = {"ncols": len(handles), "frameon": False, "fontsize": figures.LABEL}
    panel.legend(handles=handles, **above, **look).set_in_layout(False)  # it may reach over the next panel


def _dots(panel, rows: list[dict], kernels: list[str]) -> None:
    panel.set_xscale("log")
    for line, style in ((1, "-"), (AIM, (0, (4, 3)))):
        panel.axvline(line, color="#777777", linewidth=0.9, linestyle=style, zorder=0.6)
    for place, kernel in enumerate(kernels):
        ratios = [analysis.ratio(row) for row in rows if row["kernel"] == kernel]
        panel.plot(ratios, [place] * len(ratios), color="#bbbbbb", linewidth=1, zorder=0.8)
    for row in rows:
        _, color, marker = ROUTES[analysis.route(row)]
        beside = {"cudnn": -0.17, "pallas": 0.17}.get(analysis.route(row), 0)  # they may move as much
        place = kernels.index(row["kernel"]) + beside
        panel.plot(analysis.ratio(row), place, color=color, marker=marker, **DOT)
    panel.set_yticks(range(len(kernels)))
    panel.set_ylim(len(kernels) - 0.4, -0.6)
    low, high = panel.get_xlim()
    panel.set_xlim(min(low, 0.8), max(high, 2.0))
    scales.plain_ticks(panel.xaxis)


def _lengths(counted: list[dict], own: list[dict], styles: dict):
    """What is moved, and the least time, against length."""
    passes = list(dict.fromkeys(row["pass"] for row in counted))
    figure, panels = figures.grid(len(passes), 2, width=3.7, height=2.9)
    figures.title(figure, "Compiled, and not run", analysis.setting_text(own[0]))
    least = "At least: the longest of what bytes, operations and launches take by public figures of the device."
    figures.footnote(figure, [least, *_without(own)])
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
        ratios.set_yscale("log")
        scales.plain_ticks(ratios.yaxis)
        scales.seconds_axis(times)
        for panel in (ratios, times):
            scales.lengths_axis(panel, lengths)
            panel.set_xlim(lengths[0] / 1.15, 1.15 * lengths[-1])
    for panel, text in zip(panels[0], ("bytes moved / needed", "takes at least"), strict=True):
        panel.set_title(text, fontsize=10, loc="left")
    for panel in itertools.chain(*panels[:-1]):
        panel.set_xlabel("")
        panel.tick_params(labelbottom=False)
    return figure


def _without(rows: list[dict]) -> list[str]:
    """Which have no program, by what became of them."""
    notes = []
    for status in ("refused", "failed", "skipped"):
        named = dict.fromkeys(analysis.line_name(row) for row in rows if row["status"] == status)
        notes += [f"{status.capitalize()}: {', '.join(named)}."] if named else []
    return notes
