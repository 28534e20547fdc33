"""Rows to a figure: what each kernel adds to the loss of models that were trained with another."""

from __future__ import annotations

import pathlib

from experiments.show import figures, naming, statistics
from experiments.show.statistics import Mean
from experiments.swap.analysis import grouped


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`swap.png` and `swap.svg`: a panel for each length, a bar for each kernel, with an interval over models."""
    known = [
        own for own in grouped([row for row in rows if row["status"] == "measured"]) if own[0]["change"] is not None
    ]
    if not known:
        return
    lengths = sorted({own[0]["length"] for own in known})
    kernels = {own[0]["kernel"] for own in known}
    figure, panels = figures.grid(len(lengths), 1, width=6.0, height=1.2 + 0.3 * len(kernels))
    first, seeds = known[0][0], min(map(len, known))
    heading = f"{naming.short(first['trained'])}, {naming.short(first['positions'])}, with its attention exchanged"
    figures.title(figure, heading, statistics.doubt(seeds) or f"{seeds} seeds")
    for [panel], length in zip(panels, lengths, strict=True):
        _panel(panel, [own for own in known if own[0]["length"] == length])
    refused = dict.fromkeys(naming.short(row["kernel"]) for row in rows if row["status"] == "refused")
    figures.footnote(figure, ["Nothing is learned anew.", *([f"Refused: {'; '.join(refused)}."] if refused else [])])
    figures.save(figure, out / "swap")


def _panel(panel, known: list[list[dict]]) -> None:
    styles = figures.styles([own[0] for own in known])
    ordered = sorted(((statistics.mean([row["change"] for row in own]), own[0]) for own in known), key=_worst_first)
    for place, (change, first) in enumerate(ordered):
        error = None if change.low is None else change.value - change.low
        panel.barh(place, change.value, xerr=error, color=styles[first["kernel"]]["color"], error_kw={"linewidth": 1})
        end = (max(change.value if change.high is None else change.high, 0), place)
        panel.annotate(f" {change.value:+.3f}", end, va="center", fontsize=figures.LABEL)
    [trained] = [own for own in known if own[0]["kernel"] == own[0]["trained"]]
    bits = statistics.mean([row["bits"] for row in trained]).value
    told = f"{trained[0]['length']:,} tokens: {bits:.3f} bits of each byte as it was trained"
    panel.set_title(told, fontsize=10, loc="left")
    panel.set_yticks(range(len(ordered)), [naming.short(first["kernel"]) for _, first in ordered])
    panel.set_xlabel("change in bits of each byte")
    panel.margins(x=0.15)


def _worst_first(each: tuple[Mean, dict]) -> float:
    return -each[0].value
