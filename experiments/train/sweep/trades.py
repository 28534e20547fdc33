"""What a score costs: against the state that decoding keeps, and against speed and memory of training."""

from __future__ import annotations

import math
import pathlib

from experiments.show import figures, placing, scales, statistics, units
from experiments.train.sweep import convergence, curriculum
from experiments.train.sweep.analysis import by_width, nearby, scored
from experiments.train.sweep.scale import Scale

LARGEST = 900  # points squared, of the bubble that needs most memory
GAP = 0.015  # of the range of states, between those that would lie on each other


def draw(rows: list[dict], styles: dict, scale: Scale, doubt: str, out: pathlib.Path, name: str) -> list[pathlib.Path]:
    """`state_<name>` where variants keep different amounts to decode, `bubbles_<name>` where two tell memory.

    Args:
      rows: captioned ones that are measured.
      doubt: what keeps them from supporting a claim.
    """
    longest = max(row["length"] for row in rows)
    rows = [row for row in rows if row["length"] == longest]
    kept = [row for row in rows if row["state_bytes"]]
    weighed = [row for row in rows if row.get("needed_bytes") and speed(row)]
    are_different = len({(row["state_bytes"], row["width"]) for row in kept}) > len({row["width"] for row in kept})
    drawn = []
    for stem, own, panel in (("state", kept * are_different, _states), ("bubbles", weighed, _bubbles)):
        if len({row["label"] for row in own}) > 1:
            figures.save(_figure(own, styles, scale, doubt, panel), out / f"{stem}_{name}")
            drawn.append(out / f"{stem}_{name}")
    return drawn


def _figure(rows, styles, scale, doubt, panel):
    """Scores against what `panel` says they cost, names from the best to the worst at the right."""
    figure, [axis] = figures.axes(1, width=6.4, height=4.8)
    figures.title(figure, f"{rows[0]['subject']}, length {rows[0]['length']:,}", doubt)
    shown = panel(axis, rows, styles)
    guides = figures.levels(axis, nearby(rows, max(row["score"] for row in rows)))
    scale.axis(axis, "y", [row["score"] for row in rows])
    placing.label_lines(axis, guides)
    best_first = sorted(shown, key=lambda name: shown[name][0], reverse=scale.metric == "accuracy")
    figures.legend(figure, {name: shown[name][1] for name in best_first})
    return figure


def _states(axis, rows, styles) -> dict[str, tuple[float, dict]]:
    """Scores against bytes, a line over the widths of each variant: the best of each, and its style."""
    points: dict[tuple, list[dict]] = {}
    for row in rows:
        points.setdefault((row["label"], row["state_bytes"]), []).append(row)
    sizes = [size for _, size in points]
    places = placing.sideways(sizes, GAP * max(1.0, math.log2(max(sizes) / min(sizes))))
    is_joined = len({row["width"] for row in rows}) > 1
    shown: dict[str, tuple[float, dict]] = {}
    for which in dict.fromkeys(row["label"] for row in rows):
        style = styles[which] if is_joined else styles[which] | {"linestyle": "none"}
        line = sorted(
            (place, own) for place, ((label, _), own) in zip(places, points.items(), strict=True) if label == which
        )
        xs, each = zip(*line, strict=True)
        scores = list(map(scored, each))
        figures.seeds(axis, xs, [[row["score"] for row in own] for own in each], style)
        figures.means(axis, xs, scores, style)
        shown[which] = scores[-1].value, style
    scales.sizes_axis(axis)
    axis.set_xlabel("state of one example, all layers" + "; a point for each width" * is_joined)
    return shown


def speed(row: dict) -> float | None:
    """Tokens that were trained in a second; None where nothing tells.

    `train_seconds` are those of all steps but the first of each length, which compiles, and so are tokens.
    """
    lengths = curriculum.of(row)
    if lengths is None or not row["train_seconds"]:
        return None
    each = [curriculum.at(step, row["steps"], lengths) for step in range(convergence.trained(row))]
    examples = row["tokens"] // row["length"] if row["tokens"] else row["batch"]
    return examples * (sum(each) - sum(set(each))) / row["train_seconds"]


def _bubbles(axis, rows, styles) -> dict[str, tuple[float, dict]]:
    """Scores against speed, seed by seed and on average, the area of a bubble being the memory of a step."""
    widths, most = sorted({row["width"] for row in rows}), max(row["needed_bytes"] for row in rows)
    shown: dict[str, tuple[float, dict]] = {}
    for which, own in by_width(rows).items():
        style = styles[own[0]["label"]] | {"linestyle": "none"}
        style |= figures.fill(widths.index(own[0]["width"])) if len(widths) > 1 else {}
        speeds, score = list(map(speed, own)), scored(own)
        middle, size = statistics.mean(speeds).value, LARGEST * own[0]["needed_bytes"] / most
        axis.scatter(
            middle, score.value, s=size, color=style["color"], alpha=0.25, linewidth=0, zorder=1, clip_on=False
        )
        figures.seeds(axis, speeds, [[row["score"]] for row in own], style)
        figures.means(axis, [middle], [score], style)
        shown[which] = score.value, style
    if any(row.get("curriculum") for row in rows):
        figures.footnote(
            axis.figure, ["Speed at the lengths that were learned: who ended early has met the short ones."]
        )
    axis.margins(0.15)
    scales.rates_axis(axis)
    axis.set_xlabel(f"training tokens in a second\n(area: memory of a step, at most {units.size_text(most)})")
    return shown
