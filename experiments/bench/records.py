"""Rows: what a run leaves behind, one JSON object a line, and nothing else that figures may read.

A row is written whole or not at all: a line that a full disk or a kill has torn is cut off by the next writer and
skipped by readers. One run writes into a folder at a time, or several that each have a part of it, with a file of
its own; folders are merged by putting their files together.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

ROWS = "rows.jsonl"
PARTS = "rows*.jsonl"
SCHEMA = 1  # of rows; another one where what they say is said otherwise
STATUS = "status"  # the column of what became of a cell, which every row has
OWNER = ("experiment", "schema")  # columns that tell whose a row is, and how it is to be read


def append(folder: pathlib.Path, row: dict, part: str = "") -> None:
    """Add a row, on the disk when this returns. NaN and infinity are refused: write None and say why."""
    line = json.dumps(row, allow_nan=False, sort_keys=True).encode() + b"\n"
    path = folder / (f"rows-{part}.jsonl" if part else ROWS)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.truncate(descriptor, os.lseek(descriptor, _end_of_whole_lines(descriptor), os.SEEK_SET))
        view = memoryview(line)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end_of_whole_lines(descriptor: int) -> int:
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    return os.pread(descriptor, size, 0).rfind(b"\n") + 1


def read(folder: pathlib.Path) -> list[dict]:
    """All rows of a folder; damaged lines are skipped, and said so once. A line counts when its end is there."""
    rows, damaged = whole(folder)
    tell(damaged)
    return rows


def tell(damaged: dict[pathlib.Path, int]) -> None:
    """Say how many lines were skipped of each file."""
    for path, count in damaged.items():
        print(f"warning: skipped {count} damaged line(s) of {path}", file=sys.stderr)


def whole(folder: pathlib.Path) -> tuple[list[dict], dict[pathlib.Path, int]]:
    """All rows of a folder, and how many lines are damaged, or are no rows, of each file that has any."""
    found = {path: _rows(path) for path in sorted(pathlib.Path(folder).glob(PARTS))}
    damaged = {path: count for path, (_, count) in found.items() if count}
    return [row for rows, _ in found.values() for row in rows], damaged


def _rows(path: pathlib.Path) -> tuple[list[dict], int]:
    *lines, torn = path.read_bytes().split(b"\n")
    rows, damaged = [], int(bool(torn))
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        is_row = isinstance(row, dict) and STATUS in row
        damaged += not is_row
        rows += [row] if is_row else []
    return rows, damaged


def latest(rows: list[dict], key: tuple[str, ...]) -> dict[tuple, dict]:
    """The last row of each cell, by the values of `key`."""
    return {cell(row, key): row for row in rows}


def cell(row: dict, key: tuple[str, ...]) -> tuple:
    """The values of `key`, by which `latest` finds a row."""
    return tuple(_frozen(row.get(name)) for name in key)


def _frozen(value):
    if isinstance(value, dict):
        return tuple(sorted((name, _frozen(each)) for name, each in value.items()))
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
