"""Rows to figures: time and state against context, and quality against state."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments.show import figures, naming, placing, scales, statistics
from experiments.train.sweep import convergence
from experiments.train.sweep.analysis import BASELINE

LINE = {"linewidth": 1.4, "markersize": 4.5}


def draw(rows: list[dict], models: list[dict], out: pathlib.Path) -> None:
    """`decoding` and `quality`, each as PNG and SVG, where there is something to show."""
    measured = [row for row in rows if row["status"] == "measured"]
    if measured:
        figures.save(_decoding(measured, rows), out / "decoding")
    if models:
        figures.save(_quality(models), out / "quality")


def _decoding(measured: list[dict], rows: list[dict]):
    contexts = sorted({row["context"] for row in rows})
    figure, [[times], [sizes]] = figures.grid(2, 1, width=5.4, height=3.8)
    first, styles = measured[0], figures.styles(measured)
    where = f"{first['device']}, {first['cores']} cores; batch {first['batch']}, {first['heads']} heads of "
    figures.title(figure, "One more token, after a context", f"{where}{first['head_dim']}, {first['dtype']}")
    ends, lines = {times: [], sizes: []}, {times: [], sizes: []}
    for kernel, style in styles.items():
        own = sorted((row for row in measured if row["kernel"] == kernel), key=lambda row: row["context"])
        xs, seconds = [row["context"] for row in own], np.array([row["token_seconds"] for row in own])
        spread = [
            np.abs(np.array([row["quartiles"][side] for row in own]) / own[0]["tokens"] - seconds) for side in (0, 1)
        ]
        lines[times].append(times.errorbar(xs, seconds, yerr=spread, **style, **LINE).get_children())
        lines[sizes].append(sizes.plot(xs, [row["state_bytes"] for row in own], **style, **LINE))
        label = naming.short(kernel)
        ends[times].append((label, xs[-1], seconds[-1], style["color"]))
        ends[sizes].append((label, xs[-1], own[-1]["state_bytes"], style["color"]))
    for panel, heading in ((times, "time of a token"), (sizes, "state")):
        panel.set_title(heading, fontsize=10, loc="left")
        scales.lengths_axis(panel, contexts)
        panel.set_xlabel("tokens before it" if panel is sizes else "")
    scales.seconds_axis(times)
    scales.bytes_axis(sizes)
    moved = [note for panel, own in lines.items() for note in placing.side_by_side(panel, own)]
    figures.footnote(figure, [*_notes(rows), *dict.fromkeys(moved)])
    for panel, labels in ends.items():
        placing.label_lines(panel, labels)
    return figure


def _notes(rows: list[dict]) -> list[str]:
    notes = ["Medians and quartiles of decoding some tokens in one program, divided by their number."]
    for kernel in dict.fromkeys(row["kernel"] for row in rows if row["status"] != "measured"):
        own = [row for row in rows if row["kernel"] == kernel and row["status"] != "measured"]
        contexts = ", ".join(f"{row['context']:,}" for row in own)
        notes.append(f"{naming.short(kernel)} at {contexts}: {own[0]['status']}, {own[0]['reason'].split('. ')[0]}.")
    return notes


def _quality(models: list[dict]):
    """Bits per byte against state, a point for each kernel and its interval over seeds."""
    figure, [panel] = figures.axes(1, width=6.4, height=4.8)
    first, styles = models[0], figures.styles(models)
    below = f"{first['layers']} layers of {first['heads']} heads, width {first['width']}; {first['steps']} steps"
    lengths = sorted({row["length"] for row in models})
    figures.title(figure, "What keeping less loses", f"{below}; sequences of {', '.join(map(str, lengths))} bytes")
    baseline = [row for row in models if row["kernel"] == BASELINE]
    few = statistics.doubt(len({row["seed"] for row in models}))
    doubt = "; ".join(filter(None, (few, convergence.doubt("bits", baseline))))
    notes = ["Bits per byte of unseen source files; state of one example, all layers.", doubt and f"{doubt}."]
    figures.footnote(figure, notes)
    ends = []
    for length in lengths:
        for kernel, style in styles.items():
            own = [row for row in models if (row["kernel"], row["length"]) == (kernel, length)]
            if own:
                found = statistics.mean([row["bits"] for row in own])
                error = None if found.low is None else [[found.value - found.low], [found.high - found.value]]
                panel.errorbar(own[0]["state_bytes"], found.value, yerr=error, **style | {"linestyle": "none"}, **LINE)
                ends.append((naming.short(kernel), own[0]["state_bytes"], found.value, style["color"]))
    scales.sizes_axis(panel)
    panel.set_xlabel("state after the whole sequence")
    panel.set_ylabel("bits per byte")
    placing.label_lines(panel, ends)
    return figure
