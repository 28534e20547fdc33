"""Verdicts to statements."""

from __future__ import annotations

from experiments.show import units
from experiments.show.tables import Table

HEADER = ["dispute", "claim", "verdict", "by", "seeds", "sources", "what it is of"]


def summaries(rows: list[dict]) -> list[Table]:
    """A line for each dispute, and the rules that were fixed."""
    lines = [_line(row) for row in rows]
    rules = [[row["dispute"], row["rule"], row["flags"]] for row in rows]
    return [Table("Verdicts", HEADER, lines), Table("Rules", ["dispute", "rule", "models"], rules)]


def _line(row: dict) -> list[str]:
    measured = row["status"] == "measured"
    verdict, detail = (row["verdict"], row["detail"]) if measured else (row["status"], row["reason"])
    return [row["dispute"], row["claim"], verdict, detail, units.count_text(row["seeds"]), row["sources"], row["scale"]]
