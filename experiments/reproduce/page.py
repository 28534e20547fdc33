"""The ledger as a page and as Markdown: the rule, the figure, and every published result."""

from __future__ import annotations

import pathlib
from collections import Counter

from experiments.bench import provenance
from experiments.reproduce import verdict
from experiments.reproduce.ledger import Entry, Measured, Rows
from experiments.reproduce.published import TABLES, Published, ratio
from experiments.reproduce.verdict import Reason
from experiments.show import webpage
from experiments.show.tables import markdown
from experiments.show.units import Shown

TITLE = "Published results, measured again"
INTRODUCTION = (
    "What papers report of efficient attention, the command that measures each number, and a verdict by a rule that "
    "was fixed before anything was measured."
)
FIGURE = "ratios"
HEADER = ["task", "model", "published", "as the public code ran", "as the paper means it", "verdict", "why", "command"]
ENVIRONMENT = (*provenance.ENVIRONMENT, "batch")


def write(entries: list[Entry], rows: Rows, out: pathlib.Path) -> None:
    """`ledger.html` and `ledger.md`."""
    tables = {name: [entry for entry in entries if entry.result.table == name] for name in TABLES}
    picture = out / f"{FIGURE}.png"
    told = {
        "title": TITLE,
        "introduction": INTRODUCTION,
        "rule": verdict.__doc__.strip().split("\n\n"),
        "reasons": [reason.value for reason in Reason],
        "counts": _counts(entries),
        "figures": [picture] if picture.exists() else [],
        "results": [(_heading(own), *table(own)) for own in tables.values()],
        "environments": _environments(rows),
    }
    (out / "ledger.html").write_text(webpage.render("reproduce/page.html", **told))
    (out / "ledger.md").write_text(
        "\n".join(f"## {_heading(own)}\n\n{markdown(*table(own))}" for own in tables.values())
    )


def table(entries: list[Entry]) -> tuple[list[str], list[list[str]]]:
    """Header and lines, a line for each entry."""
    return HEADER, [_line(entry) for entry in entries]


def _line(entry: Entry) -> list[str]:
    result, judgement = entry.result, entry.judgement
    why = judgement.reason.value.partition(":")[0] if judgement.reason else result.note
    return [
        Shown(f"{result.task} {result.length:,}", result.length),
        result.model,
        _published(result),
        _number(entry.faithful, entry.preset.faithful),
        _number(entry.corrected, entry.preset.corrected),
        judgement.verdict.value,
        why + (f": {judgement.detail}" if judgement.detail else ""),
        entry.command,
    ]


def _published(result: Published) -> Shown:
    """A value with its unit; where only ratios carry over, it is sorted by its own."""
    told = f"{result.value:g} {result.unit}"
    if not result.is_ratio:
        return Shown(told, result.value)
    return Shown(f"{told}, ratio {ratio(result):.2f}", ratio(result))


def _number(measured: Measured, kernel: str | None) -> str:
    """A number with its interval, and the kernel that gave it."""
    name = "" if kernel is None else kernel.rpartition(".")[2] if kernel.startswith("experiments.") else kernel
    if measured.value is None:
        return name
    value, low, high = measured.value
    interval = "" if low is None else f" [{low:.3g}, {high:.3g}]"
    return Shown(f"{value:.3g}{interval} {name}", value)


def _heading(entries: list[Entry]) -> str:
    first = entries[0].result
    return f"{first.source}, {first.table}: {first.metric} (arXiv:{first.arxiv})"


def _counts(entries: list[Entry]) -> tuple[list[str], list[list[str]]]:
    judged = Counter((entry.result.table, *_words(entry)) for entry in entries)
    return ["table", "verdict", "why", "results"], [[*key, str(count)] for key, count in judged.items()]


def _words(entry: Entry) -> tuple[str, str]:
    reason = entry.judgement.reason
    return entry.judgement.verdict.value, reason.value if reason else ""


def _environments(rows: Rows) -> tuple[list[str], list[list[str]]]:
    kinds = dict.fromkeys(tuple(str(row.get(name, "")) for name in ENVIRONMENT) for own in rows.values() for row in own)
    return list(ENVIRONMENT), [list(kind) for kind in kinds]
