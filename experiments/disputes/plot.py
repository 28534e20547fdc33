"""Verdicts to a figure: the seeds of each contender."""

from __future__ import annotations

import pathlib
import re
import textwrap

import attnzoo
from experiments.disputes import rules
from experiments.disputes.cases import DISPUTES
from experiments.show import figures, naming, statistics

CLAIM = 54  # letters in a line of a title


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`verdicts.png` and `.svg`: a panel for each dispute that has its verdict, a line in it for each contender."""
    rows = [row for row in rows if row["status"] == "measured"]
    if not rows:
        return
    most = max(len(row["scores"]) for row in rows)
    figure, panels = figures.grid(len(rows), 1, width=5.8, height=1.5 + 0.3 * max(2, most))
    figures.title(figure, "Disputes", "each seed, and the mean with its 95% interval")
    for [panel], row in zip(panels, rows, strict=True):
        _panel(panel, row)
    figures.footnote(figure, [f"{row['dispute']}: {row['detail']}. {row['scale']}" for row in rows])
    figures.save(figure, out / "verdicts")


def _panel(panel, row: dict) -> None:
    """A line for each contender, which tells how many of its seeds have a number where some have none."""
    shown, told = _shown(row)
    styles = contender_styles(list(shown))
    is_share = not isinstance(_rule(row), rules.Delays | rules.Scores)
    for place, (text, own) in enumerate(shown.items()):
        style = styles[text]
        figures.seeds(panel, own, [[place]] * len(own), style)
        if own:
            found = _mean(own, row["answers"][text] if is_share else None)
            low, high = (found.value if end is None else end for end in (found.low, found.high))
            panel.errorbar([found.value], [place + 0.25], xerr=[[found.value - low], [high - found.value]], **style)
    seeds = {text: len(found) for text, found in row["scores"].items()}
    some = {text: f" ({len(own)} of {seeds[text]})" if len(own) < seeds[text] else "" for text, own in shown.items()}
    panel.set_yticks(range(len(shown)), [_name(text) + some[text] for text in shown], fontsize=8.5)
    panel.set_ylim(len(shown) - 0.4, -0.6)
    if is_share:
        panel.set_xlim(-0.03, 1.03)
    panel.set_xlabel(told, fontsize=8.5)
    claim = textwrap.fill(row["claim"], CLAIM)
    panel.set_title(f"{row['dispute']}, {row['verdict']}: {claim}", fontsize=figures.LABEL, loc="left")


def contender_styles(contenders: list[str]) -> dict[str, dict]:
    """The colour and marker of each one's kernel, of a mix those of its first; where several share them, filled
    otherwise, the plain kernel whole."""
    found: dict[str, dict] = {}
    for text in sorted(contenders, key=lambda text: len(_kernels(text))):
        color, marker = figures.look(next(iter(_kernels(text)), text), contenders)
        alike = sum(style["color"] == color for style in found.values())
        found[text] = {"color": color, "marker": marker} | figures.fill(alike)
    return found


def _kernels(text: str) -> list[str]:
    """The kernels of the catalogue that a contender names, in their order."""
    return [word for word in re.findall(r"\w+", text) if word in attnzoo.KERNELS]


def _name(text: str) -> str:
    """A contender in few words; a mix as its kernels in turns, a line each where they have arguments."""
    mix = re.fullmatch(r"turns\(kernels='(.*)'\)", text)
    if mix is None:
        return naming.short(text)
    return mix[1].replace("), ", "),\n") + ", in turns"


def _shown(row: dict) -> tuple[dict[str, list[float]], str]:
    """What the rule is about, by contender, and in words: answers that are right, steps, or a score."""
    rule = _rule(row)
    if isinstance(rule, rules.Delays):
        solved = {text: [steps for steps in found if steps is not None] for text, found in row["solved"].items()}
        return solved, f"steps to {rules.SOLVED:.0%} of validation"
    if isinstance(rule, rules.OnlyOne):
        longer = {text: list(found[str(rule.length)].values()) for text, found in row["elsewhere"].items()}
        return longer, f"share of answers that are right over {rule.length} tokens"
    return row["scores"], "score" if isinstance(rule, rules.Scores) else "share of answers that are right"


def _mean(values: list[float], answers: int | None) -> statistics.Mean:
    return statistics.mean(values) if answers is None else statistics.answered(values, answers)


def _rule(row: dict) -> rules.Rule | None:
    return DISPUTES[row["dispute"]].rule if row["dispute"] in DISPUTES else None
