"""Verdicts to a figure: the seeds of each contender."""

from __future__ import annotations

import pathlib

from experiments.show import figures, naming, statistics


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`verdicts.png` and `.svg`: a panel for each dispute that has its verdict."""
    rows = [row for row in rows if row["status"] == "measured"]
    if not rows:
        return
    figure, panels = figures.axes(len(rows), width=3.6, height=4.4)
    figures.title(figure, "Disputes", "each seed, and the mean with its 95% interval")
    for panel, row in zip(panels, rows, strict=True):
        _panel(panel, row)
    figures.footnote(figure, [f"{row['dispute']}: {row['detail']}." for row in rows])
    figures.save(figure, out / "verdicts")


def _panel(panel, row: dict) -> None:
    """Scores; those at another length where a rule is about that."""
    elsewhere = {text: next(iter(found.values())) for text, found in row["elsewhere"].items() if found}
    scores = {text: list(found.values()) for text, found in elsewhere.items()} or row["scores"]
    for place, own in enumerate(scores.values()):
        style = {"color": figures.STYLES[place][0], "marker": figures.STYLES[place][1]}
        figures.seeds(panel, [place], [own], style)
        figures.means(panel, [place + 0.15], [statistics.share(own)], style)
    panel.set_xticks(range(len(scores)), [naming.short(text) for text in scores], rotation=20, ha="right", fontsize=8)
    panel.set_xlim(-0.5, len(scores) - 0.5)
    panel.set_ylim(-0.03, 1.03)
    panel.set_title(f"{row['dispute']}: {row['verdict']}", fontsize=10, loc="left")
