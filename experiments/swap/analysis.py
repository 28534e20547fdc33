"""Rows to statements: what each kernel adds to the loss of a model that was trained with another."""

from __future__ import annotations

from experiments import tables, wording
from experiments.tables import Table
from experiments.wording import Shown


def summaries(rows: list[dict]) -> list[Table]:
    """A line for each model and kernel."""
    trained = {row["checkpoint"]: row["bits"] for row in rows if row["kernel"] == row["trained"] and "bits" in row}
    header = ["model", "trained with", "kernel in it", "bits of each byte", "change", "note"]
    return [Table("Nothing is learned anew", header, [_line(row, trained.get(row["checkpoint"])) for row in rows])]


def _line(row: dict, before: float | None) -> list[str]:
    names = [row["checkpoint"], wording.short(row["trained"]), wording.short(row["kernel"])]
    if row["status"] != "measured":
        return [*names, "", "", tables.status_text(row)]
    change = "" if before is None else Shown(f"{row['bits'] - before:+.3f}", row["bits"] - before)
    return [*names, Shown(f"{row['bits']:.3f}", row["bits"]), change, ""]
