"""Rows to statements: what a token costs and keeps, after each context."""

from __future__ import annotations

from experiments.show import tables, units
from experiments.show.tables import Table


def summaries(rows: list[dict]) -> list[Table]:
    """Time and state, kernels against contexts; what was refused or did not fit says so in its place."""
    time = lambda group: _or_status(group[-1], units.seconds_text, "token_seconds")
    state = lambda group: _or_status(group[-1], units.size_text, "state_bytes")
    return [
        tables.pivot("Time of a token after so many", rows, "kernel", "context", time),
        tables.pivot("State", rows, "kernel", "context", state),
    ]


def _or_status(row: dict, words, name: str) -> str:
    return words(row[name]) if row["status"] == "measured" else row["status"]
