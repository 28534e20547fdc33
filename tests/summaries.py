"""What the page says of rows that were just written."""

from __future__ import annotations

import pathlib

from experiments.bench import records
from experiments.report import sections


def of(folder) -> str:
    """The titles and lines of all tables, as one text; rows must be known to one experiment."""
    [found] = sections.split(records.read(pathlib.Path(folder)))
    assert found.experiment is not None, "no experiment knows these rows"
    tables = found.summaries()
    assert all(len(line) == len(table.header) for table in tables for line in table.lines)
    return "\n".join(" | ".join(line) for table in tables for line in ([table.title], table.header, *table.lines))
