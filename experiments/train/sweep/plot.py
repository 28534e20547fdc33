"""Rows to figures, one for each task: score against length, beside score by position, by width, or at other lengths."""

from __future__ import annotations

import itertools
import math
import pathlib
from collections.abc import Callable

from experiments.show import figures, naming, placing, scales, statistics
from experiments.train.sweep import convergence, dots, probes, trades
from experiments.train.sweep.analysis import BASELINE, at_chosen_rates, captioned, nearby, scored, tested, variant
from experiments.train.sweep.scale import Scale

HEIGHT = 5.0  # inches of a panel
BESIDE, LINE = 1.9, 0.34  # of what surrounds one, and of a kernel in it
ASIDE = 0.05  # of the way from one x to the next, between lines over the same
MORE = 0.08  # inches by which a panel is wider for each line


def draw(rows: list[dict], summary: list[dict], out: pathlib.Path) -> list[pathlib.Path]:
    """`score_<task>` for each task with something to show; the stems that were written."""
    styles = figures.styles([row | {"kernel": variant(row)} for row in rows])
    stems = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own, entries = (
            captioned([each for each in every if each["task"] == task]) for every in (at_chosen_rates(rows), summary)
        )
        if measured := [row for row in own if row["status"] == "measured"]:
            name, looks = _stem(own[0], rows), {row["label"]: styles[variant(row)] for row in own}
            scale = Scale.of(measured)
            entries = [entry for entry in entries if entry["score"]]
            stems.append(out / f"score_{name}")
            figures.save(_figure(own, entries, looks, scale), stems[-1])
            longest = max(entry["length"] for entry in entries)
            doubt = doubts([entry for entry in entries if entry["length"] == longest])
            stems += trades.draw(measured, looks, scale, doubt, out, name) + probes.draw(own, doubt, out, name)
    return stems


def _stem(row: dict, rows: list[dict]) -> str:
    """The task's name, numbered where several tasks share it."""
    same = list(dict.fromkeys(other["task"] for other in rows if other["task_name"] == row["task_name"]))
    return row["task_name"] + (f"_{same.index(row['task'])}" if len(same) > 1 else "")


def _figure(rows, entries, styles, scale):
    measured = [row for row in rows if row["status"] == "measured"]
    panels, height = _panels(measured, entries, scale)
    figure, axes = figures.axes(len(panels), width=5.6 + MORE * len(styles), height=height)
    figures.title(figure, rows[0]["subject"], doubts(entries))
    for axis, panel in zip(axes, panels, strict=True):
        placing.label_lines(axis, panel(axis, styles))
    is_seeded = min(entry["seeds"] for entry in entries) > 1
    read = ["Small points: seeds; bars: 95% intervals."] if is_seeded else []
    figures.footnote(figure, [*read, *_notes(rows, measured), *_learning(entries)])
    return figure


def doubts(entries) -> str:
    """What keeps a figure from supporting a claim, as its second line; what some entries leave to doubt, with where."""
    names = [name for name in ("width", "length") if len({entry[name] for entry in entries}) > 1]
    told = lambda entry: " and ".join(f"{name} {entry[name]:,}" for name in names)
    of_seeds = statistics.doubt(min(entry["seeds"] for entry in entries))
    every, found = set(map(told, entries)), [of_seeds] if of_seeds else []
    for doubt in dict.fromkeys(entry["doubt"] for entry in entries if entry["doubt"]):
        places = dict.fromkeys(told(entry) for entry in entries if entry["doubt"] == doubt)
        found.append(doubt if set(places) == every else f"at {', '.join(places)} {doubt}")
    return "; ".join(found)


def _learning(entries) -> list[str]:
    """Who had not come to an end, and could have learned more."""
    is_ceiling = lambda entry: entry["metric"] == "accuracy" and entry["score"].value >= convergence.CEILING
    falling = [entry["label"] for entry in entries if entry["has_flattened"] is False and not is_ceiling(entry)]
    return [f"Still learning at the end: {'; '.join(dict.fromkeys(falling))}."] if falling else []


def _panels(measured, entries, scale) -> tuple[list[Callable], float]:
    """What there is to see, one panel or two, and how high."""
    widths, lengths = sorted({entry["width"] for entry in entries}), sorted({entry["length"] for entry in entries})
    if len(widths) > 1:
        return [_by(entries, "width", {"length": length}, scale) for length in lengths], HEIGHT
    is_one = len(lengths) == 1
    panels = [_dots(entries, scale) if is_one else _by(entries, "length", {"width": widths[0]}, scale)]
    if any(row["by_length"] for row in measured):
        return [*panels * (not is_one), _elsewhere(measured, scale)], max(HEIGHT, LINE * len(entries))
    if all("bits_by_position" in row for row in measured) and scale.metric == "bits":
        return [*panels, _positions(measured)], HEIGHT
    return panels, min(HEIGHT, BESIDE + LINE * len(entries)) if is_one else HEIGHT


def _dots(entries, scale) -> Callable:
    """Scores where there is one length and one width."""

    def draw(axis, styles):
        worst = max(entry["score"].value for entry in entries)
        levels = {name: max(points.values()) for name, points in nearby(entries, worst).items()}
        dots.draw(axis, entries, styles, levels, is_best_high=scale.metric == "accuracy")
        axis.set_title(f"length {entries[0]['length']:,}, width {entries[0]['width']:,}", fontsize=10, loc="left")
        scale.axis(axis, "x", [score for entry in entries for score in entry["scores"]])
        return []

    return draw


def _by(entries, name, fixed, scale) -> Callable:
    """Scores against length or width, the other held fixed, with intervals over seeds and what needs no model."""

    def draw(axis, styles):
        own = [entry for entry in entries if all(entry[key] == value for key, value in fixed.items())]
        scales.lengths_axis(axis, sorted({entry[name] for entry in own}))
        axis.set_xlabel("sequence length" if name == "length" else "width of the model")
        axis.set_title(", ".join(f"{key} {value:,}" for key, value in fixed.items()), fontsize=10, loc="left")
        lines: dict[str, list[tuple]] = {}
        for entry in own:
            lines.setdefault(entry["label"], []).append((entry[name], entry["scores"], entry["score"]))
        return _lines(axis, own, lines, styles, name, scale)

    return draw


def _lines(axis, rows, lines: dict[str, list[tuple]], styles, along, scale) -> list[tuple]:
    """A line for each label through (x, scores of seeds, their mean), beside each other over each x, and guides at what
    needs no model; the ends of all."""
    xs = sorted({x for points in lines.values() for x, *_ in points})
    octaves = min((math.log2(after / before) for before, after in itertools.pairwise(xs)), default=1.0)
    aside = placing.sideways([1.0] * len(lines), octaves * min(ASIDE, 0.5 / len(lines)))
    ends, drawn = [], []
    for (which, points), factor in zip(lines.items(), aside, strict=True):
        over, scores, means = zip(*sorted(points, key=lambda point: point[0]), strict=True)
        places = [factor * x for x in over]
        figures.seeds(axis, places, scores, styles[which])
        figures.means(axis, places, means, styles[which])
        ends.append((which, places[-1], means[-1].value, styles[which]["color"]))
        drawn += [score for own in scores for score in own]
    guides = figures.levels(axis, nearby(rows, max(height for _, _, height, _ in ends), along))
    scale.axis(axis, "y", drawn)
    return ends + guides


def _elsewhere(measured, scale) -> Callable:
    """Scores of models that learned one length at others, the shortest and the longest that was learned."""

    def draw(axis, styles):
        trained = max(row["length"] for row in measured)
        lengths = sorted({int(length) for row in measured for length in row["by_length"]} | {trained})
        scales.lengths_axis(axis, lengths)
        axis.axvline(trained, color="#bbbbbb", linewidth=0.8, zorder=0.5)
        learned = "up to" if any(row.get("curriculum") for row in measured) else "at"
        axis.set_title(f"trained {learned} {trained:,} tokens, tested at others", fontsize=10, loc="left")
        lines = {}
        for which in dict.fromkeys(row["label"] for row in measured):
            found = tested([row for row in measured if row["label"] == which and row["length"] == trained])
            lines[which] = [(x, [row["score"] for row in own], scored(own)) for x, own in found.items()]
        return _lines(axis, measured, lines, styles, "length", scale)

    return draw


def _positions(measured) -> Callable:
    """Bits by position in the longest sequences: beside exact attention, seed by seed, where it is there."""

    def draw(axis, styles):
        longest = max(row["length"] for row in measured)
        own = [row for row in measured if row["length"] == longest]
        beside = {row["seed"]: row["bits_by_position"] for row in own if row["kernel"] == BASELINE}
        kernels = dict.fromkeys(row["label"] for row in own if not beside or row["kernel"] != BASELINE)
        is_paired = bool(beside and kernels)
        axis.set_title(f"{'minus softmax, ' * is_paired}by position, length {longest:,}", fontsize=10, loc="left")
        axis.set_xlabel("position in the sequence")
        ends = []
        for which in kernels or dict.fromkeys(row["label"] for row in own):
            runs = {row["seed"]: row["bits_by_position"] for row in own if row["label"] == which}
            found = {}
            for part in range(len(next(iter(runs.values())))):
                bits = {seed: run[part] for seed, run in runs.items() if run[part] is not None}
                others = {seed: run[part] for seed, run in beside.items() if run[part] is not None}
                mean = statistics.paired(bits, others) if is_paired else bits and statistics.mean(list(bits.values()))
                if mean:  # a short test may have masked nothing in some part
                    found[(part + 0.5) * longest / len(next(iter(runs.values())))] = mean
            if found:
                figures.means(axis, list(found), list(found.values()), styles[which])
                ends.append((which, max(found), found[max(found)].value, styles[which]["color"]))
        return ends + figures.levels(axis, {"softmax": {longest: 0.0}} if is_paired else {})

    return draw


def _notes(rows, measured) -> list[str]:
    notes = (
        [f"{name}: {value:.2f}." for name, value in measured[0]["baselines"].items()]
        if measured[0]["metric"] == "bits"
        else []
    )
    if any(row["label"] == variant(row) != naming.short(row["kernel"]) for row in rows):
        notes.append("Positions are learned where none are named.")
    refused = list(dict.fromkeys(row["label"] for row in rows if row["status"] == "refused"))
    notes += [f"Refused: {'; '.join(refused)}."] if refused else []
    bad = [row for row in rows if row["status"] in ("diverged", "failed")]
    notes += [f"{len(bad)} run(s) diverged or failed."] if bad else []
    return notes
