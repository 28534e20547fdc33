"""Rows to figures, one for each task: score against length, beside score by position, by width, or at other lengths."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from experiments.show import figures, naming, statistics
from experiments.train.sweep import probes, trades
from experiments.train.sweep.analysis import (
    BASELINE,
    LABELS,
    at_chosen_rates,
    captioned,
    nearby,
    scored,
    tested,
    variant,
)


def draw(rows: list[dict], summary: list[dict], out: pathlib.Path) -> list[pathlib.Path]:
    """`score_<task>` for each task with something to show; the stems that were written."""
    styles = figures.styles([row | {"kernel": variant(row)} for row in rows])
    stems = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own, entries = (
            captioned([each for each in every if each["task"] == task]) for every in (at_chosen_rates(rows), summary)
        )
        if any(row["status"] == "measured" for row in own):
            name, looks = _stem(own[0], rows), {row["label"]: styles[variant(row)] for row in own}
            stems.append(out / f"score_{name}")
            figures.save(_figure(own, [entry for entry in entries if entry["score"]], looks), stems[-1])
            stems += trades.draw(own, looks, out, name) + probes.draw(own, out, name)
    return stems


def _stem(row: dict, rows: list[dict]) -> str:
    """The task's name, numbered where several tasks share it."""
    same = list(dict.fromkeys(other["task"] for other in rows if other["task_name"] == row["task_name"]))
    return row["task_name"] + (f"_{same.index(row['task'])}" if len(same) > 1 else "")


def _figure(rows, entries, styles):
    measured = [row for row in rows if row["status"] == "measured"]
    panels = _panels(measured, entries)
    figure, axes = figures.axes(len(panels), width=5.6, height=5.0)
    seeds = min(entry["seeds"] for entry in entries)
    figures.title(
        figure, f"{rows[0]['subject']}: {LABELS[rows[0]['metric']]}", doubts(statistics.doubt(seeds), entries)
    )
    for axis, panel in zip(axes, panels, strict=True):
        figures.label_lines(axis, panel(axis, styles))
    falling = dict.fromkeys(entry["label"] for entry in entries if entry["has_flattened"] is False)
    notes = [f"Still learning at the end: {'; '.join(falling)}."] if falling else []
    figures.footnote(figure, [*_notes(rows, measured), *notes])
    return figure


def doubts(of_seeds: str, entries) -> str:
    """What keeps a figure from supporting a claim, as its second line; a doubt that some entries have, once."""
    found = dict.fromkeys((of_seeds, *(entry["doubt"] for entry in entries)))
    return "; ".join(filter(None, found))


def _panels(measured, entries) -> list[Callable]:
    """What there is to see: one panel or two."""
    widths, lengths = sorted({entry["width"] for entry in entries}), sorted({entry["length"] for entry in entries})
    if len(widths) > 1:
        return [_by(entries, "width", {"length": length}) for length in lengths]
    panels = [_by(entries, "length", {"width": widths[0]})]
    if any(row["by_length"] for row in measured):
        panels = [*panels * (len(lengths) > 1), _elsewhere(measured)]
    elif all("bits_by_position" in row for row in measured) and measured[0]["metric"] == "bits":
        panels.append(_positions(measured))
    return panels


def _by(entries, name, fixed) -> Callable:
    """Scores against length or width, the other held fixed, with intervals over seeds and what needs no model."""

    def draw(axis, styles):
        own = [entry for entry in entries if all(entry[key] == value for key, value in fixed.items())]
        figures.lengths_axis(axis, sorted({entry[name] for entry in own}))
        axis.set_xlabel("sequence length" if name == "length" else "width of the model")
        axis.set_title(", ".join(f"{key} {value:,}" for key, value in fixed.items()), fontsize=10, loc="left")
        ends = [_line(axis, own, which, name, styles) for which in dict.fromkeys(entry["label"] for entry in own)]
        _levels(axis, own, max(entry["score"].value for entry in own), name)
        return ends

    return draw


def _line(axis, entries, which, name, styles) -> tuple:
    own = sorted((entry for entry in entries if entry["label"] == which), key=lambda entry: entry[name])
    xs, scores = [entry[name] for entry in own], [entry["score"] for entry in own]
    figures.seeds(axis, xs, [entry["scores"] for entry in own], styles[which])
    figures.means(axis, xs, scores, styles[which])
    return which, xs[-1], scores[-1].value, styles[which]["color"]


def _levels(axis, rows, worst, along="length") -> None:
    figures.levels(axis, nearby(rows, worst, along))
    if rows[0]["metric"] == "accuracy":
        figures.shares(axis)


def _elsewhere(measured) -> Callable:
    """Scores of models that learned one length at others, the shortest and the longest that was learned."""

    def draw(axis, styles):
        trained = max(row["length"] for row in measured)
        lengths = sorted({int(length) for row in measured for length in row["by_length"]} | {trained})
        figures.lengths_axis(axis, lengths)
        axis.axvline(trained, color="#bbbbbb", linewidth=0.8)
        learned = "up to" if any(row.get("curriculum") for row in measured) else "at"
        axis.set_title(f"trained {learned} {trained:,} tokens, tested at others", fontsize=10, loc="left")
        ends = []
        for which in dict.fromkeys(row["label"] for row in measured):
            own = [row for row in measured if row["label"] == which and row["length"] == trained]
            found = tested(own)
            xs = sorted(found)
            scores = [scored(found[x]) for x in xs]
            figures.seeds(axis, xs, [[one["score"] for one in found[x]] for x in xs], styles[which])
            figures.means(axis, xs, scores, styles[which])
            ends.append((which, xs[-1], scores[-1].value, styles[which]["color"]))
        _levels(axis, measured, max(y for _, _, y, _ in ends))
        return ends

    return draw


def _positions(measured) -> Callable:
    """Bits by position in the longest sequences: beside exact attention, seed by seed, where it is there."""

    def draw(axis, styles):
        longest = max(row["length"] for row in measured)
        own = [row for row in measured if row["length"] == longest]
        beside = {row["seed"]: row["bits_by_position"] for row in own if row["kernel"] == BASELINE}
        kernels = dict.fromkeys(row["label"] for row in own if not beside or row["kernel"] != BASELINE)
        is_paired = bool(beside and kernels)
        if is_paired:
            figures.levels(axis, {"softmax": {longest: 0.0}})
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
        return ends

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
