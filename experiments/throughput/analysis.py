"""Rows to statements: what share of the device's ceilings each implementation reaches."""

from __future__ import annotations

from experiments.show import naming, tables, units
from experiments.show.units import Shown


def summaries(rows: list[dict]) -> list[tables.Table]:
    """All cells with their shares."""
    return [tables.Table("Useful work alone: visible pairs, each array moved once", *table(*split(rows)))]


def split(rows: list[dict]) -> tuple[list[dict], dict[str, dict]]:
    """Cells, and the ceilings that were measured."""
    ceilings = {row["ceiling"]: row for row in rows if "ceiling" in row and row["status"] == "measured"}
    return [row for row in rows if "ceiling" not in row], ceilings


def table(cells: list[dict], ceilings: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines, a line for each cell that was measured or not."""
    header = ["kernel", "pass", "H", "T", "implementation", "time", "TFLOP/s", "of matmul", "of copy", "temporaries"]
    order = lambda row: (row["kernel"], row["pass"], row["head_dim"], row["length"], row["implementation"])
    return header, [_line(row, ceilings) for row in sorted(cells, key=order)]


def _line(row: dict, ceilings: dict[str, dict]) -> list[str]:
    cell = [naming.short(row["kernel"]), row["pass"], units.count_text(row["head_dim"])]
    cell.append(units.count_text(row["length"]))
    cell.append(row["implementation"])
    if row["status"] != "measured":
        reason = row["reason"].replace("|", "/").replace("\n", " ")
        return [*cell, f"{row['status']}: {reason}", "", "", "", ""]
    shares = [
        _share(row["flops_per_second"], ceilings.get("matmul")),
        _share(row["bytes_per_second"], ceilings.get("copy")),
    ]
    temporaries = units.size_text(row["temporary_bytes"]) if "temporary_bytes" in row else ""
    rate = Shown(f"{row['flops_per_second'] / 1e12:.3g}", row["flops_per_second"])
    return [*cell, units.seconds_text(row["median"]), rate, *shares, temporaries]


def _share(rate: float, ceiling: dict | None) -> str:
    return "" if ceiling is None else Shown(f"{rate / ceiling['rate']:.1%}", rate / ceiling["rate"])
