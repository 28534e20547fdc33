"""Rows to statements: the time of each size of tile and number of pairs in a step."""

from __future__ import annotations

from experiments.show import tables, units
from experiments.show.tables import Table
from experiments.show.units import Shown


def summaries(rows: list[dict]) -> list[Table]:
    """A table for each work: tiles against pairs in a step, the library's rule marked."""
    measured = [row for row in rows if row["status"] == "measured"]
    works = dict.fromkeys((row["work"], row["length"]) for row in measured)
    return [
        tables.pivot(
            f"{work}, {length:,} tokens: median time by tile and pairs in a step",
            [row for row in measured if (row["work"], row["length"]) == (work, length)],
            "tile",
            "pairs",
            _time,
        )
        for work, length in works
    ]


def _time(group: list[dict]) -> Shown:
    row = group[-1]
    return Shown(units.seconds_text(row["median"]) + " (the rule)" * row["is_rule"], row["median"])
