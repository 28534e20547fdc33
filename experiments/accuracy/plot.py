"""Rows to figures: bits per byte against length, beside loss by position in the longest sequences."""

from __future__ import annotations

import pathlib

from experiments import figures, statistics
from experiments.accuracy.analysis import variant

TITLES = {
    "causal": "Causal: bits for each next byte of unseen files",
    "masked": "Masked: bits for each hidden byte (15%) of unseen files",
}


def draw(rows: list[dict], summary: list[dict], out: pathlib.Path) -> list[pathlib.Path]:
    """One figure for each objective; the stems that were written."""
    styles = figures.styles([row | {"kernel": variant(row)} for row in rows])
    stems = []
    for objective in dict.fromkeys(row["objective"] for row in rows):
        own = [row for row in rows if row["objective"] == objective]
        if any(row["status"] == "measured" for row in own):
            stems.append(out / f"bits_{objective}")
            entries = [entry for entry in summary if entry["objective"] == objective]
            figures.save(_figure(own, entries, styles), stems[-1])
    return stems


def _figure(rows, entries, styles):
    measured = [row for row in rows if row["status"] == "measured"]
    figure, (length_panel, position_panel) = figures.axes(2, width=5.6, height=5.0)
    seeds = min(entry["seeds"] for entry in entries if entry["seeds"])
    claim = "" if seeds >= statistics.CLAIM else f": {seeds} seed{'s' * (seeds > 1)}, which supports no claim"
    figures.title(figure, TITLES[rows[0]["objective"]] + claim)
    _against_length(length_panel, entries, styles)
    _against_position(position_panel, measured, styles)
    unigram = measured[0]["unigram_bits"]
    notes = [f"Frequency of bytes alone: {unigram:.2f} bits; chance: 8 bits."]
    notes += (
        ["Positions are learned where none are named."]
        if {row["positions"] for row in rows} != {"LearnedPositions()"}
        else []
    )
    refused = list(dict.fromkeys(variant(row) for row in rows if row["status"] == "refused"))
    notes += [f"Refused: {'; '.join(refused)}."] if refused else []
    bad = [row for row in rows if row["status"] in ("diverged", "failed")]
    notes += [f"{len(bad)} run(s) diverged or failed."] if bad else []
    figures.footnote(figure, notes)
    return figure


def _against_length(panel, entries, styles):
    figures.lengths_axis(panel, sorted({entry["length"] for entry in entries}))
    panel.set_title("bits per byte", fontsize=10, loc="left")
    ends = []
    for name in dict.fromkeys(entry["variant"] for entry in entries if entry["bits"]):
        own = sorted((e for e in entries if e["variant"] == name and e["bits"]), key=lambda entry: entry["length"])
        lengths, values = [entry["length"] for entry in own], [entry["bits"].value for entry in own]
        spread = [entry["bits"].value - (entry["bits"].low or entry["bits"].value) for entry in own]
        panel.errorbar(lengths, values, spread, markersize=4.5, linewidth=1.4, elinewidth=1, **styles[name])
        ends.append((name, lengths[-1], values[-1], styles[name]["color"]))
    figures.label_lines(panel, ends)


def _against_position(panel, measured, styles):
    longest = max(row["length"] for row in measured)
    panel.set_title(f"bits per byte by position, length {longest:,}", fontsize=10, loc="left")
    panel.set_xlabel("position in the sequence")
    ends = []
    for name in dict.fromkeys(map(variant, measured)):
        own = [row["bits_by_position"] for row in measured if variant(row) == name and row["length"] == longest]
        if not own:
            continue
        bins = [[run[i] for run in own if run[i] is not None] for i in range(len(own[0]))]
        seen = [i for i, found in enumerate(bins) if found]  # a short test may have masked no byte of some part
        values = [statistics.mean(bins[i]).value for i in seen]
        middles = [(i + 0.5) * longest / len(bins) for i in seen]
        panel.plot(middles, values, linewidth=1.4, markersize=3, **styles[name])
        ends.append((name, middles[-1], values[-1], styles[name]["color"]))
    figures.label_lines(panel, ends)
