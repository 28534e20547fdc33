"""Rows to statements: how many laws each kernel obeys, and which it does not."""

from __future__ import annotations

from experiments.bench import records
from experiments.show import naming, units
from experiments.show.tables import Table

TITLES = {"Implementations in 16 bits": True, "Laws": False}
STATUSES = ("obeyed", "broken", "refused", "not run")


def summaries(rows: list[dict]) -> list[Table]:
    """A line for each kernel; what a later commit was found to do counts."""
    rows = list(records.latest(rows, ("kernel", "route", "law", "platform", "device")).values())
    parts = [(title, [row for row in rows if ("route" in row) is of_routes]) for title, of_routes in TITLES.items()]
    return [_table(title, some) for title, some in parts if some]


def subject(row: dict) -> str:
    """A kernel in few words, and which implementation of it."""
    route = row.get("route")
    return naming.short(row["kernel"]) + (f" by {route}" if route else "")


def _table(title: str, rows: list[dict]) -> Table:
    subjects = dict.fromkeys(map(subject, rows))
    lines = [_line(name, [row for row in rows if subject(row) == name]) for name in subjects]
    return Table(title, ["kernel", *STATUSES, "which are broken"], lines)


def _line(name: str, own: list[dict]) -> list[str]:
    counts = [units.count_text(sum(row["status"] == status for row in own)) for status in STATUSES]
    broken = [row["law"].replace("_", " ") for row in own if row["status"] == "broken"]
    return [name, *counts, ", ".join(broken)]
