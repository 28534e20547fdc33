"""What `python -m experiments.compare` is asked for."""

from __future__ import annotations

import dataclasses

from experiments.bench import settings
from experiments.bench.settings import flag
from experiments.compare.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to run."""

    preset: str = flag(
        "full",
        "full: seven to eleven minutes on two cores. small: about one. hour: an hour of processor time, what `results` "
        "tells of accuracy, approximation and published numbers. evidence: three and a half such hours, what "
        "`results` tells of recall, learnability, two disputes, words and long text.",
        choices=tuple(PRESETS),
    )
    out: str = flag("runs/compare", "Folder for rows, figures and the page.")
