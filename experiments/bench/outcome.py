"""What became of a cell, and of a run: statuses, which of them a rerun tries again, and the exit code."""

from __future__ import annotations

from collections.abc import Iterable

from experiments.bench import memory

STOPPED = 75  # exit code of a run that was asked to end, has saved its state, and can be continued
DECIDED = ("measured", "compiled", "obeyed", "diverged", "refused")  # a rerun would find the same
BAD = {"failed", "diverged", "broken"}


class Stopped(Exception):
    """The run was asked to end; its state is saved."""


def of(error: Exception) -> dict:
    """What a row says of an error: refused where something is not to be had, else failed."""
    if isinstance(error, NotImplementedError):
        return {"status": "refused", "reason": str(error)}
    return failure(error)


def failure(error: Exception) -> dict:
    """What a row says of an error: its first line."""
    lines = str(error).splitlines() or [""]
    return {"status": "failed", "reason": f"{type(error).__name__}: {lines[0][:300]}"}


def is_to_repeat(row: dict, budget: float | None = None) -> bool:
    """Whether a rerun measures a cell again whose last row is this one.

    What is decided stays, but for a refusal because of a broken law, which may have been mended. What was skipped is
    tried where there is memory for it now, or its budget was another one; all else, such as what failed, always.
    """
    status = row["status"]
    if status == "skipped":
        return _fits_now(row) if row.get("limit") == "memory" else row.get("cell_budget") != budget
    return status not in DECIDED or (status == "refused" and "law" in row)


def _fits_now(row: dict) -> bool:
    return "needed_bytes" in row and memory.fits(row["needed_bytes"], row.get("devices", 1))


def code(rows: Iterable[dict]) -> int:
    """The exit code of a run with these rows: 1 where one failed, diverged or broke a law, or all were refused."""
    statuses = {row["status"] for row in rows}
    return int(bool(statuses & BAD) or statuses == {"refused"})
