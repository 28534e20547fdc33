"""Rows to statements: how long others take for the same work, as a ratio to ours."""

from __future__ import annotations

import numpy as np

from experiments.show import tables, units
from experiments.show.units import Shown


def summaries(rows: list[dict]) -> list[tables.Table]:
    """All comparisons."""
    return [tables.Table("Their time / ours, median and quartiles", *table(rows))]


def table(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines, a line for each comparison."""
    header = ["work", "peer", "their time / ours", "goal", "ours", "theirs", "deviation", "note"]
    return header, [_line(row) for row in rows]


def _line(row: dict) -> list[str]:
    goal = "" if row["goal"] is None else Shown(f"{row['goal']:g}", row["goal"])
    peer = f"{row['peer']} {row['version'] or ''}".strip()
    if row["status"] != "measured":
        return [row["work"], peer, row["status"], goal, "", "", "", row["reason"].replace("|", "/").replace("\n", " ")]
    ours, theirs = (units.seconds_text(float(np.median(row[name]))) for name in ("seconds", "their_seconds"))
    ratio = tables.range_text(row["ratio"], *row["quartiles"])
    deviation = Shown(f"{row['deviation']:.0e}", row["deviation"])
    return [row["work"], peer, ratio, goal, ours, theirs, deviation, row["note"]]
