"""Rows to statements: errors of each kernel over its draws, and its time as a ratio to exact softmax."""

from __future__ import annotations

from experiments.show import naming, tables, units
from experiments.show.tables import Table

HEADER = ["kernel", "dial", "output", "matrix", "worst row", "time / softmax", "time", "note"]


def summaries(rows: list[dict]) -> list[Table]:
    """A table for each set of operands."""
    operands = dict.fromkeys((row["operands"], row["length"], row["model"]) for row in rows)
    return [_of([row for row in rows if (row["operands"], row["length"], row["model"]) == each]) for each in operands]


def _of(rows: list[dict]) -> Table:
    first = rows[0]
    model = f" of {first['model']}" if first["model"] else ""
    title = (
        f"Relative errors on {first['operands']} operands{model}, {first['length']:,} tokens, {first['draws']} draws"
    )
    return Table(title, HEADER, list(map(_line, rows)))


def _line(row: dict) -> list[str]:
    errors = [tables.mean_text(row[name], ".3g") if name in row else "" for name in ("output", "weights", "row")]
    ratio = tables.range_text(row["ratio"], *row["ratio_quartiles"]) if "ratio" in row else ""
    time = units.seconds_text(row["median"]) if "median" in row else ""
    note = "" if row["status"] == "measured" else tables.status_text(row)
    return [naming.short(row["kernel"]), tables.text("value", row["value"]), *errors, ratio, time, note]
