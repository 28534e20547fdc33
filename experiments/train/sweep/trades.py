"""What a score costs: against the state that decoding keeps, and against speed and memory of training."""

from __future__ import annotations

import pathlib

from experiments.show import figures, statistics, units
from experiments.train.sweep.analysis import LABELS, by_width, nearby, scored

LARGEST = 900  # points squared, of the bubble that needs most memory


def draw(rows: list[dict], styles: dict, out: pathlib.Path, name: str) -> list[pathlib.Path]:
    """`state_<name>` where variants keep different amounts to decode, `bubbles_<name>` where two tell memory."""
    longest = max(row["length"] for row in rows)
    rows = [row for row in rows if row["status"] == "measured" and row["length"] == longest]
    kept = [row for row in rows if row["state_bytes"] is not None]
    weighed = [row for row in rows if row.get("needed_bytes") is not None]
    are_different = len({(row["state_bytes"], row["width"]) for row in kept}) > len({row["width"] for row in kept})
    drawn = []
    for stem, own, panel in (("state", kept * are_different, _states), ("bubbles", weighed, _bubbles)):
        if len({row["label"] for row in own}) > 1:
            figure, [axis] = figures.axes(1, width=6.4, height=4.8)
            fewest = min(len({row["seed"] for row in each}) for each in by_width(own).values())
            figures.title(figure, f"{own[0]['subject']}, length {longest:,}", statistics.doubt(fewest))
            axis.set_ylabel(LABELS[own[0]["metric"]])
            ends = panel(axis, own, styles)
            figures.levels(axis, nearby(own, max(row["score"] for row in own)))
            if own[0]["metric"] == "accuracy" and panel is _states:  # bubbles may reach beyond
                figures.shares(axis)
            figures.label_lines(axis, ends)
            figures.save(figure, out / f"{stem}_{name}")
            drawn.append(out / f"{stem}_{name}")
    return drawn


def _states(axis, rows, styles) -> list[tuple]:
    """Scores against bytes, a line over the widths of each variant."""
    ends = []
    for which in dict.fromkeys(row["label"] for row in rows):
        points = _points([row for row in rows if row["label"] == which])
        sizes, each = zip(*sorted(points.items()), strict=True)
        scores = list(map(scored, each))
        figures.seeds(axis, sizes, [[row["score"] for row in own] for own in each], styles[which])
        figures.means(axis, sizes, scores, styles[which])
        ends.append((which, sizes[-1], scores[-1].value, styles[which]["color"]))
    figures.sizes_axis(axis)
    axis.set_xlabel("state of one example, all layers; a point for each width")
    return ends


def _tokens(row: dict) -> int:
    """Of a training batch."""
    return row["tokens"] or row["batch"] * row["length"]


def _points(rows) -> dict[float, list[dict]]:
    """The rows of all seeds at each size of the state."""
    found: dict[float, list[dict]] = {}
    for row in rows:
        found.setdefault(row["state_bytes"], []).append(row)
    return found


def _bubbles(axis, rows, styles) -> list[tuple]:
    """Scores against training tokens in a second, the area of a bubble being the memory of a step."""
    ends, most = [], max(row["needed_bytes"] for row in rows)
    for which, own in by_width(rows).items():
        speed = statistics.mean([row["steps"] * _tokens(row) / row["train_seconds"] for row in own]).value
        score = statistics.mean([row["score"] for row in own]).value
        size, color = LARGEST * own[0]["needed_bytes"] / most, styles[own[0]["label"]]["color"]
        axis.scatter(speed, score, s=size, color=color, alpha=0.5, linewidth=0)
        ends.append((which, speed, score, color))
    axis.set_xlabel(f"training tokens in a second (area: memory of a step, at most {units.size_text(most)})")
    axis.margins(0.15)
    axis.set_xlim(0, 1.15 * max(speed for _, speed, *_ in ends))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    return ends
