"""The rows of each section of the page as a CSV file."""

from __future__ import annotations

import pathlib

from experiments.bench import records
from experiments.report import page, sections
from experiments.show import spreadsheet


def write(folder: pathlib.Path, out: pathlib.Path) -> list[pathlib.Path]:
    """`<folder>.<experiment>.csv` for each folder with rows, in `out`; the paths that were written."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for place in page.places(folder):
        name = place.relative_to(folder).as_posix() if place != folder else place.resolve().name
        for found in sections.split(records.whole(place)[0]):
            experiment = found.experiment.name if found.experiment else "rows"
            written.append(out / f"{spreadsheet.file_name(f'{name}.{experiment}')}.csv")
            spreadsheet.write(found.rows, written[-1])
    return written
