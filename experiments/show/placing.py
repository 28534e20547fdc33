"""Where labels and lines of a figure go, so that none hides another."""

from __future__ import annotations

import itertools
import math

import matplotlib
import numpy as np

from experiments.show.figures import LABEL, readable


def label_lines(panel, ends: list[tuple[str, float, float, str]]) -> None:
    """Write each label beside the right end of its line, moved apart where they would meet.

    Args:
      ends: label, x, y and colour of each line.
    """
    if not ends:
        return
    panel.figure.draw_without_rendering()
    to_axes = (panel.transData - panel.transAxes).transform
    heights = [to_axes((x, y))[1] for _, x, y, _ in ends]
    gap = 1.3 * LABEL / 72 * panel.figure.dpi / panel.get_window_extent().height
    for (label, x, y, color), place in zip(ends, apart(heights, gap), strict=True):
        # The height is a share of the panel's: making room for the labels moves its sides, not its top and bottom.
        panel.annotate(
            label,
            (x, y),
            xytext=(1.03, place),
            textcoords="axes fraction",
            fontsize=LABEL,
            color=readable(color),
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.5,
                "alpha": 0.6,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def label_points(panel, texts: list[tuple[str, float, float, str]], size: float = LABEL - 1) -> None:
    """Write each text beside its point, where it covers least of lines and of other texts, once all else is drawn.

    Args:
      texts: text, x, y and colour of each point.
    """
    for _ in range(2):  # after once the layout does not stand yet
        panel.figure.draw_without_rendering()
    inside, unit = panel.get_window_extent(), panel.figure.dpi / 72
    taken = _drawn_places(panel)
    sides = np.array([(1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)])
    for text, x, y, color in texts:
        look = {"fontsize": size, "color": readable(color), "ha": "center", "va": "center"}
        label = panel.annotate(text, (x, y), (0, 0), textcoords="offset points", annotation_clip=True, **look)
        box, point = label.get_window_extent(), panel.transData.transform((x, y))
        reach = np.array([box.width, box.height]) / 2
        middles = [point + side * (reach + away * unit) for away in (5, 10, 16) for side in sides]
        middle = min(middles, key=lambda middle: _covered(taken, middle, reach + 1.5 * unit, inside))
        label.xyann = tuple((middle - point) / unit)
        taken = np.concatenate([taken, middle + reach * (np.indices((7, 7)).reshape(2, -1).T / 3 - 1)])


def side_by_side(panel, lines: list[list]) -> list[str]:
    """Move lines that cover each other between two of their points apart, by their width; a note where there are any.

    Those that cover most others stay where they are, and each of the others is moved as little as leaves all in sight.

    Args:
      lines: the artists of each line, among them those that join its points; limits stand already.
    """
    is_joined = lambda artist: isinstance(artist, matplotlib.lines.Line2D) and artist.get_linestyle() != "None"
    joined = [list(filter(is_joined, own)) for own in lines]
    stretches = [np.concatenate([_stretches(panel, part) for part in parts]) for parts in joined]
    every = range(len(lines))
    met = [
        {other for other in every if other != own and _is_covered(stretches[own], stretches[other])} for own in every
    ]
    steps: dict[int, int] = {}
    for own in sorted(filter(met.__getitem__, every), key=lambda own: -len(met[own])):
        taken = {steps.get(other) for other in met[own]}
        steps[own] = next(step for step in sorted(range(-len(lines), len(lines) + 1), key=abs) if step not in taken)
    for alike in {frozenset(met[own] | {own}) for own in steps}:  # in the order in which labels stand beside them
        height = lambda own: (stretches[own][-1, 3], own)
        twins = [own for own in sorted(alike, key=height) if met[own] | {own} == alike]
        steps |= zip(twins, sorted(steps[own] for own in twins), strict=True)
    for own, step in steps.items():
        up = 1.1 * step * joined[own][0].get_linewidth() / 72
        moved = matplotlib.transforms.ScaledTranslation(0, up, panel.figure.dpi_scale_trans)
        for artist in lines[own]:
            artist.set_transform(artist.get_transform() + moved)
    return ["Lines that would cover each other are drawn side by side."] if steps else []


def sideways(xs: list[float], gap: float) -> list[float]:
    """Places on a logarithmic axis of what would lie on each other: `gap` octaves apart, and as near as that allows."""
    return [2.0**place for place in apart([math.log2(x) for x in xs], gap, -math.inf, math.inf)]


def apart(heights: list[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Places in the order of `heights`, at least `gap` from each other and as near to them as that allows.

    Neighbours that are too close become one group around their mean, until no groups meet; groups stay within
    `low` and `high` where they fit.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _start(groups[-1], heights, gap, low, high) < (
            _start(groups[-2], heights, gap, low, high) + gap * len(groups[-2])
        ):
            last = groups.pop()
            groups[-1] += last
    places = [0.0] * len(heights)
    for group in groups:
        start = _start(group, heights, gap, low, high)
        for position, index in enumerate(group):
            places[index] = start + gap * position
    return places


def _start(group, heights, gap, low, high):
    reach = gap * (len(group) - 1)
    centred = sum(heights[index] for index in group) / len(group) - reach / 2
    return max(min(centred, high - reach), low)


def _stretches(panel, line) -> np.ndarray:
    """From where to where a line goes between neighbouring points, [points - 1, 4], in points of 1/72 of an inch."""
    places = panel.transData.transform(line.get_xydata()) * 72 / panel.figure.dpi
    return np.concatenate([places[:-1], places[1:]], axis=1)


def _is_covered(stretches: np.ndarray, others: np.ndarray) -> bool:
    """Whether some stretch begins and ends where another one does, by a line's width."""
    return bool((np.abs(stretches[:, None] - others[None]).max(axis=2, initial=0) < 1.4).any())


def _covered(taken: np.ndarray, middle: np.ndarray, reach: np.ndarray, inside) -> float:
    """How many of the places are within reach of a middle; more than any where that goes beyond the panel."""
    is_beyond = (middle - reach < inside.min).any() or (middle + reach > inside.max).any()
    return len(taken) + 1 if is_beyond else int((np.abs(taken - middle) < reach).all(axis=1).sum())


def _drawn_places(panel) -> np.ndarray:
    """Places on the lines, bars and leaders of labels of a panel, a few dots from one to the next."""
    paths = [line.get_transform().transform(line.get_xydata()) for line in panel.lines]
    for bars in panel.collections:
        paths += [bars.get_transform().transform(segment) for segment in bars.get_segments()]
    for label in panel.texts:
        box = matplotlib.text.Text.get_window_extent(label)
        paths.append(np.array([panel.transData.transform(label.xy), (box.x0, (box.y0 + box.y1) / 2)]))
    found = []
    for path in paths:
        path = np.clip(path, -5000, 5000)
        for start, end in itertools.pairwise(path):
            share = np.linspace(0, 1, 2 + int(np.abs(end - start).max() / 3))[:, None]
            found.append(start + share * (end - start))
    return np.concatenate(found) if found else np.empty((0, 2))
