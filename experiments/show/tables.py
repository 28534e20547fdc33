"""Rows to tables of text, whose cells know the numbers that they show."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from experiments.bench import provenance, records
from experiments.show import naming, statistics, units
from experiments.show.units import Shown

REPRS = ("kernel", "positions", "task", "trained")  # shown without fields at their defaults
APART = 20  # points between the least and the greatest seed
SECONDS, BYTES = ("seconds", "median"), ("bytes",)  # how names of such fields end


class Table(NamedTuple):
    """A title, which may be empty, a header, and a line for each entry."""

    title: str
    header: list[str]
    lines: list[list[str]]


def cells(rows: list[dict]) -> tuple[dict[str, str], Table]:
    """What is the same in all rows, and a table of the scalars in which they differ; the environment is left out."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if _is_told(name, rows)]
    names.sort(key=lambda name: (_place(name), name))
    same = [name for name in names if len(rows) > 1 and len({repr(row.get(name)) for row in rows}) == 1]
    differing = [name for name in names if name not in same]
    lines = [[text(name, row.get(name)) for name in differing] for row in rows]
    told = {_spoken(name): text(name, rows[0].get(name)) for name in same}
    return {name: said for name, said in told.items() if said}, Table("", list(map(_spoken, differing)), lines)


def _is_told(name: str, rows: list[dict]) -> bool:
    is_scalar = not any(isinstance(row.get(name), (list, dict)) for row in rows)
    return (
        is_scalar
        and name not in (*records.OWNER, *provenance.ENVIRONMENT)
        and any(row.get(name) is not None for row in rows)
    )


def _place(name: str) -> int:
    """What a row is about comes first, and reasons last."""
    first = ("task", "work", "claim", "kernel", "positions", "pass", "length", "context", "seed", "status")
    return first.index(name) if name in first else len(first) + (name in ("reason", "note"))


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def text(name: str, value) -> str:
    """A field of a row in words, by its name and type."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _quantity(name, value)
    return naming.short(value) if name in REPRS else str(value)


def _quantity(name: str, value: float) -> Shown:
    if name.endswith(SECONDS):
        return units.seconds_text(value)
    if name.endswith(BYTES):
        return units.size_text(value)
    return units.count_text(value) if isinstance(value, int) else Shown(f"{value:,.4g}", value)


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A table as Markdown, where a bar would end a cell."""
    cells = [header, ["---"] * len(header), *lines]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in cells)


def pivot(title: str, rows: list[dict], down: str, across: str, cell: Callable[[list[dict]], str]) -> Table:
    """A line for each value of `down` and a column for each of `across`; `cell` tells of the rows where they meet."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row[down], row[across]), []).append(row)
    columns = sorted({row[across] for row in rows})
    names = dict.fromkeys(row[down] for row in rows)
    told = lambda name, column: cell(groups[name, column]) if (name, column) in groups else ""
    lines = [[text(down, name), *(told(name, column) for column in columns)] for name in names]
    return Table(title, [_spoken(down), *(text(across, column) for column in columns)], lines)


def mean_text(values: list[float], form: str) -> Shown:
    """The mean of values, with its interval where there are several, such as `0.25 [0.24, 0.26]`."""
    found = statistics.mean(values)
    interval = "" if found.low is None else f" [{found.low:{form}}, {found.high:{form}}]"
    return Shown(f"{found.value:{form}}{interval}", found.value)


def shares_text(values: list[float], form: str) -> Shown:
    """The same of percentages, which end at 0 and 100; where seeds are far apart, with each of them."""
    found = statistics.share(values)
    interval = "" if found.low is None else f" [{found.low:{form}}, {found.high:{form}}]"
    return Shown(f"{found.value:{form}}{interval}{seeds_text(values, form)}", found.value)


def seeds_text(values: list[float], form: str) -> str:
    """Percentages of seeds so far apart that their mean may be none of them, from least to greatest, such as
    `, each 24, 48, 100`; else nothing."""
    is_apart = max(values) - min(values) > APART
    return f", each {', '.join(f'{value:{form}}' for value in sorted(values))}" if is_apart else ""


def range_text(value: float, low: float, high: float, form: str = ".2f") -> Shown:
    """A value with its quartiles or interval, such as `1.02 [0.98, 1.06]`."""
    return Shown(f"{value:{form}} [{low:{form}}, {high:{form}}]", value)


def status_text(row: dict) -> str:
    """Why there is no number, such as `refused: it does not decode`."""
    return f"{row['status']}: {row.get('reason', '')}".split(". ")[0]
