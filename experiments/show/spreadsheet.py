"""Rows to CSV that a spreadsheet may open: what looks like a formula and is no number is made text.

A cell that begins with = + - @, a tab or a return is run by spreadsheets as a formula; an apostrophe before it says
that it is text. Lists and dictionaries are written as JSON.
"""

from __future__ import annotations

import csv
import hashlib
import json
import pathlib
import re

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,59}")  # with its ending, a file's name has at most 64 characters


def write(rows: list[dict], path: pathlib.Path) -> None:
    """Write all columns of all rows."""
    names = sorted({name for row in rows for name in row})
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        lines = csv.writer(file)
        lines.writerow(map(cell, names))
        lines.writerows([cell(row.get(name)) for name in names] for row in rows)


def cell(value) -> str:
    """A value as a cell that is not run."""
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    return f"'{text}" if text.startswith(FORMULA) and not NUMBER.fullmatch(text) else text


def file_name(text: str) -> str:
    """`text` where it may name a file as it is, else what may of it, with a digest that tells it from others."""
    if NAME.fullmatch(text):
        return text
    told = re.sub(r"[^A-Za-z0-9_-]", "_", text)[:48]
    return f"{told}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
