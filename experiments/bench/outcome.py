"""What became of a cell: what its row says of an error, whether it is tried again, and what a run ends with."""

from __future__ import annotations

from collections.abc import Iterable

from experiments.bench import memory


def failure(error: Exception) -> dict:
    """What a row says of an error: its first line."""
    lines = str(error).splitlines() or [""]
    return {"status": "failed", "reason": f"{type(error).__name__}: {lines[0][:300]}"}


def is_to_repeat(row: dict) -> bool:
    """Whether a rerun tries again: what failed or broke a law, and what did not fit and might now."""
    is_large = row["status"] == "skipped" and row["limit"] == "memory"
    return row["status"] == "failed" or "law" in row or (is_large and memory.fits(row["needed_bytes"]))


def code(rows: Iterable[dict]) -> int:
    """The exit code of a run with these rows: 1 where one failed or diverged, or all were refused; else 0."""
    statuses = {row["status"] for row in rows}
    return int(bool(statuses & {"failed", "diverged"}) or statuses == {"refused"})
