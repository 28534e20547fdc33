"""Rows to statements: how many laws each kernel obeys, and which it does not."""

from __future__ import annotations

from experiments.bench import records
from experiments.show import naming, units
from experiments.show.tables import Table

STATUSES = ("obeyed", "broken", "not run")


def summaries(rows: list[dict]) -> list[Table]:
    """A line for each kernel; what a later commit was found to do counts."""
    rows = list(records.latest(rows, ("kernel", "law", "platform", "device")).values())
    kernels = dict.fromkeys(row["kernel"] for row in rows)
    lines = [_line(kernel, [row for row in rows if row["kernel"] == kernel]) for kernel in kernels]
    return [Table("Laws", ["kernel", *STATUSES, "which are broken"], lines)]


def _line(kernel: str, own: list[dict]) -> list[str]:
    counts = [units.count_text(sum(row["status"] == status for row in own)) for status in STATUSES]
    broken = [row["law"].replace("_", " ") for row in own if row["status"] == "broken"]
    return [naming.short(kernel), *counts, ", ".join(broken)]
