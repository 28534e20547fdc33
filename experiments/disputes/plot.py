"""Verdicts to a figure: the seeds of each contender."""

from __future__ import annotations

import pathlib

from experiments.disputes import rules
from experiments.disputes.cases import DISPUTES
from experiments.show import figures, naming, statistics


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`verdicts.png` and `.svg`: a panel for each dispute that has its verdict, a line in it for each contender."""
    rows = [row for row in rows if row["status"] == "measured"]
    if not rows:
        return
    most = max(len(row["scores"]) for row in rows)
    figure, panels = figures.grid(len(rows), 1, width=7.2, height=1.1 + 0.3 * most)
    figures.title(figure, "Disputes", "each seed, and the mean with its 95% interval")
    for [panel], row in zip(panels, rows, strict=True):
        _panel(panel, row)
    figures.footnote(figure, [f"{row['dispute']}: {row['detail']}." for row in rows])
    figures.save(figure, out / "verdicts")


def _panel(panel, row: dict) -> None:
    """What the rule is about: answers that are right, at another length where it is about that, or steps."""
    if isinstance(DISPUTES[row["dispute"]].rule, rules.Delays):
        shown = {text: [steps for steps in found if steps is not None] for text, found in row["solved"].items()}
        told, mean = f"steps to {rules.SOLVED:.0%} of validation", statistics.mean
    else:
        elsewhere = {text: next(iter(found.items())) for text, found in row["elsewhere"].items() if found}
        shown = {text: list(found.values()) for text, (_, found) in elsewhere.items()} or row["scores"]
        length = next((f" over {length} tokens" for length, _ in elsewhere.values()), "")
        told, mean = f"share of answers that are right{length}", statistics.share
        panel.set_xlim(-0.03, 1.03)
    for place, own in enumerate(shown.values()):
        style = {"color": figures.STYLES[place][0], "marker": figures.STYLES[place][1]}
        figures.seeds(panel, own, [[place]] * len(own), style)
        if own:
            found = mean(own)
            low, high = (found.value if end is None else end for end in (found.low, found.high))
            panel.errorbar([found.value], [place + 0.25], xerr=[[found.value - low], [high - found.value]], **style)
    panel.set_yticks(range(len(shown)), [naming.short(text) for text in shown], fontsize=8.5)
    panel.set_ylim(len(shown) - 0.4, -0.6)
    panel.set_xlabel(told, fontsize=8.5)
    panel.set_title(f"{row['dispute']}: {row['verdict']}", fontsize=10, loc="left")
