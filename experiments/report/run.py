"""A folder of rows to a page, and to CSV."""

from __future__ import annotations

import pathlib

from experiments.report import export, page
from experiments.report.settings import Settings


def run(settings: Settings, folder: str) -> int:
    """Write what is asked for."""
    place = pathlib.Path(folder)
    out = pathlib.Path(settings.out) if settings.out else place / "report.html"
    if out.is_dir():
        raise ValueError(f"--out={out} is a folder: expected a file to write, such as {out / 'report.html'}")
    for made in (settings.out and out.parent, settings.csv):  # before all is read
        if made:
            pathlib.Path(made).mkdir(parents=True, exist_ok=True)
    print(f"report: {page.write(place, out, settings.at)}, {out.stat().st_size / 2**20:.1f} MiB")
    if settings.csv:
        print(*export.write(place, pathlib.Path(settings.csv)), sep="\n")
    return 0
