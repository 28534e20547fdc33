"""Rows to a figure: what each kernel adds to the loss of a model that was trained with another."""

from __future__ import annotations

import pathlib

from experiments import figures, wording


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`swap.png` and `swap.svg`, a bar for each kernel."""
    measured = [row for row in rows if row["status"] == "measured"]
    base = next((row["bits"] for row in measured if row["kernel"] == row["trained"]), None)
    if base is None:
        return
    figure, [panel] = figures.axes(1, width=6.0, height=0.8 + 0.32 * len(measured) + 0.8)
    first = measured[0]
    below = f"{first['checkpoint']}: {base:.3f} bits of each byte as it was trained, length {first['length']:,}"
    figures.title(figure, f"A model of {wording.short(first['trained'])} with its attention exchanged", below)
    styles = figures.styles(measured)
    ordered = sorted(measured, key=lambda row: -row["bits"])
    panel.barh(
        range(len(ordered)),
        [row["bits"] - base for row in ordered],
        color=[styles[row["kernel"]]["color"] for row in ordered],
    )
    panel.set_yticks(range(len(ordered)), [wording.short(row["kernel"]) for row in ordered])
    panel.set_xlabel("change in bits of each byte")
    for place, row in enumerate(ordered):
        panel.annotate(f" {row['bits'] - base:+.3f}", (row["bits"] - base, place), va="center", fontsize=figures.LABEL)
    panel.margins(x=0.15)
    refused = [wording.short(row["kernel"]) for row in rows if row["status"] == "refused"]
    figures.footnote(figure, ["Nothing is learned anew.", *([f"Refused: {'; '.join(refused)}."] if refused else [])])
    figures.save(figure, out / "swap")
