"""Rows to statements: how many dates are written right, and what became of the others."""

from __future__ import annotations

from experiments.show import tables, units
from experiments.show.tables import Table


def summaries(rows: list[dict]) -> list[Table]:
    """Exact match of each score over seeds, and pairs that were not matched."""
    header = ["score", "seeds", "exact match, %", "training", "parameters"]
    measured = [row for row in rows if row["status"] == "measured"]
    scores = dict.fromkeys(row["score"] for row in measured)
    lines = [_line(score, [row for row in measured if row["score"] == score]) for score in scores]
    wrong = [[row["score"], *map(str, each)] for row in measured for each in row["wrong"]]
    found = [Table("Unseen dates that are right to the last character", header, lines)]
    return found + [Table("Some that are not", ["score", "read", "right", "written"], wrong)] * bool(wrong)


def _line(score: str, own: list[dict]) -> list[str]:
    return [
        score,
        units.count_text(len(own)),
        tables.shares_text([100 * row["exact_match"] for row in own], ".2f"),
        units.seconds_text(sum(row["train_seconds"] for row in own) / len(own)),
        units.count_text(own[0]["parameters"]),
    ]
