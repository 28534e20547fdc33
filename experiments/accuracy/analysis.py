"""Rows to statements: what each variant reaches, and what it has learned from."""

from __future__ import annotations

from experiments.show.tables import Table
from experiments.train.sweep.analysis import summarise, table


def summaries(rows: list[dict]) -> list[Table]:
    """What each variant reaches, and the data that it was learned from."""
    data = dict.fromkeys((row["task"], row["digest"]) for row in rows)
    files = [[task, digest or "none: made up from seeds"] for task, digest in data]
    return [
        Table("Scores on what was not seen", *table(summarise(rows))),
        Table("Data", ["task", "SHA-256 of files"], files),
    ]
