"""What `python -m experiments.report FOLDER` is asked for."""

from __future__ import annotations

import dataclasses

from experiments.bench import settings
from experiments.bench.settings import flag


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to write."""

    out: str | None = flag(None, "File to write; report.html in the folder unless given.")
    at: int | None = flag(
        None, "Length of the table that opens the page; the longest that was timed unless given.", at_least=1
    )
    csv: str | None = flag(None, "Folder to write the rows to as well, a CSV file for each section.")
