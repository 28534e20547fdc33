"""Rows to a figure: what each kernel adds to the loss of models that were trained with another."""

from __future__ import annotations

import pathlib

from experiments import figures, statistics, wording
from experiments.swap.analysis import grouped


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`swap.png` and `swap.svg`, a bar for each kernel, with an interval over models."""
    measured = [own for own in grouped([row for row in rows if row["status"] == "measured"]) if _are_known(own)]
    if not measured:
        return
    changes = [statistics.mean([row["change"] for row in own]) for own in measured]
    ordered = sorted(zip(changes, (own[0] for own in measured), strict=True), key=lambda each: -each[0].value)
    figure, [panel] = figures.axes(1, width=6.0, height=1.6 + 0.32 * len(ordered))
    figures.title(figure, f"{_models(measured[0])} with its attention exchanged", _held_fixed(measured))
    styles = figures.styles([first for _, first in ordered])
    for place, (change, first) in enumerate(ordered):
        error = None if change.low is None else change.value - change.low
        panel.barh(place, change.value, xerr=error, color=styles[first["kernel"]]["color"], error_kw={"linewidth": 1})
        end = (change.value if change.high is None else max(change.high, change.value), place)
        panel.annotate(f" {change.value:+.3f}", end, va="center", fontsize=figures.LABEL)
    panel.set_yticks(range(len(ordered)), [wording.short(first["kernel"]) for _, first in ordered])
    panel.set_xlabel("change in bits of each byte")
    panel.margins(x=0.15)
    refused = dict.fromkeys(wording.short(row["kernel"]) for row in rows if row["status"] == "refused")
    figures.footnote(figure, ["Nothing is learned anew.", *([f"Refused: {'; '.join(refused)}."] if refused else [])])
    figures.save(figure, out / "swap")


def _are_known(own: list[dict]) -> bool:
    return all(row["change"] is not None for row in own)


def _models(own: list[dict]) -> str:
    return f"A model of {wording.short(own[0]['trained'])}, {wording.short(own[0]['positions'])}"


def _held_fixed(measured: list[list[dict]]) -> str:
    """What the bits of the models are as they were trained, and how many models there are."""
    [trained] = [own for own in measured if own[0]["kernel"] == own[0]["trained"]]
    bits, count = statistics.mean([row["bits"] for row in trained]).value, len(trained)
    told = f"{bits:.3f} bits of each byte as it was trained, length {trained[0]['length']:,}"
    return f"{told}; {statistics.doubt(count) or f'{count} seeds'}"
