"""Scores of one place: a line for each variant, the best at the top, with its seeds and their mean."""

from __future__ import annotations

from experiments.show import figures
from experiments.show.statistics import Mean

BELOW = 0.22  # lines, of seeds below their mean


def draw(axis, entries: list[dict], styles: dict, levels: dict[str, float], is_best_high: bool) -> None:
    """Each entry of a summary, and what is reached without a model, in the order of scores."""
    scores = {entry["label"]: entry["score"].value for entry in entries} | levels
    names = sorted(scores, key=scores.get, reverse=not is_best_high)
    for entry in entries:
        place, score = names.index(entry["label"]), entry["score"]
        style = styles[entry["label"]] | {"linestyle": "none"}
        low, high = (score.value if end is None else end for end in (score.low, score.high))
        figures.seeds(axis, entry["scores"], [[place - BELOW]] * len(entry["scores"]), style)
        middle, across = Mean(place, None, None), [[score.value - low], [high - score.value]]
        figures.means(axis, [score.value], [middle], style, across)
    for value in levels.values():
        axis.axvline(value, **figures.GUIDE)
    axis.set_yticks(range(len(names)), list(map(figures.folded, names)), fontsize=figures.LABEL)
    axis.set_ylim(-0.7, len(names) - 0.4)
    for name, text in zip(names, axis.get_yticklabels(), strict=True):
        text.set_color(figures.GUIDED if name in levels else figures.readable(styles[name]["color"]))
