"""What a score costs: against the state that decoding keeps, and against speed and memory of training."""

from __future__ import annotations

import pathlib

from experiments import figures, statistics, wording
from experiments.accuracy.analysis import LABELS

LARGEST = 900  # points squared, of the bubble that needs most memory


def draw(rows: list[dict], styles: dict, out: pathlib.Path, name: str) -> list[pathlib.Path]:
    """`state_<name>` where two kernels or more decode, and `bubbles_<name>` where the memory of two is known."""
    longest = max(row["length"] for row in rows)
    rows = [row for row in rows if row["status"] == "measured" and row["length"] == longest]
    kept = [row for row in rows if row["state_bytes"] is not None]
    weighed = [row for row in rows if row["peak_bytes"] is not None]
    drawn = []
    for stem, own, panel in (("state", kept, _states), ("bubbles", weighed, _bubbles)):
        if len({row["label"] for row in own}) > 1:
            figure, [axis] = figures.axes(1, width=6.4, height=4.8)
            figures.title(
                figure,
                f"{own[0]['subject']}, length {longest:,}",
                statistics.doubt(len({row["seed"] for row in own})),
            )
            axis.set_ylabel(LABELS[own[0]["metric"]])
            figures.label_lines(axis, panel(axis, own, styles))
            figures.save(figure, out / f"{stem}_{name}")
            drawn.append(out / f"{stem}_{name}")
    return drawn


def _states(axis, rows, styles) -> list[tuple]:
    """Scores against bytes, a point for each kernel and width."""
    ends = []
    for which, width in dict.fromkeys((row["label"], row["width"]) for row in rows):
        own = [row for row in rows if (row["label"], row["width"]) == (which, width)]
        found = statistics.mean([row["score"] for row in own])
        error = None if found.low is None else [[found.value - found.low], [found.high - found.value]]
        style = styles[which] | {"linestyle": "none"}
        axis.errorbar(own[0]["state_bytes"], found.value, yerr=error, markersize=5, **style)
        ends.append((which, own[0]["state_bytes"], found.value, style["color"]))
    figures.sizes_axis(axis)
    axis.set_xlabel("state of one example, all layers")
    return ends


def _bubbles(axis, rows, styles) -> list[tuple]:
    """Scores against training tokens in a second, the area of a bubble being memory at its peak."""
    ends, most = [], max(row["peak_bytes"] for row in rows)
    for which in dict.fromkeys(row["label"] for row in rows):
        own = [row for row in rows if row["label"] == which]
        speed = statistics.mean([row["best_step"] * row["tokens"] / row["train_seconds"] for row in own]).value
        score = statistics.mean([row["score"] for row in own]).value
        size = LARGEST * max(row["peak_bytes"] for row in own) / most
        axis.scatter(speed, score, s=size, color=styles[which]["color"], alpha=0.5, linewidth=0)
        ends.append((which, speed, score, styles[which]["color"]))
    axis.set_xlabel(f"training tokens in a second (area: memory at its peak, at most {wording.size_text(most)})")
    axis.margins(0.15)
    return ends
