"""What `python -m experiments.disputes` is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.bench import parsing, settings
from experiments.bench.settings import flag
from experiments.train.sweep.settings import TUNING, check_tuning

if TYPE_CHECKING:
    from experiments.disputes.cases import Dispute

# All of `cases.DISPUTES` that two cores decide, and those that want a card; help does not wait for what they import.
SMALL = "hybrid, windows, eigenvalues, state"
LARGE = "locality, scores"


def _names() -> tuple[str, ...]:
    from experiments.disputes.cases import DISPUTES

    return tuple(DISPUTES)


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """Which disputes to decide."""

    disputes: tuple[str, ...] = flag(
        SMALL,
        f"Which to decide: some of {SMALL}, and of {LARGE}, which want a card; or 'all'.",
        parsing.some_of(_names, every=True),
    )
    seeds: int = flag(5, "Seeds of each model; fewer than five support no claim.", at_least=2)
    first_seed: int = flag(0, "The first of these seeds, which others follow.", at_least=0)
    tuning_seeds: int = flag(0, TUNING, at_least=0)
    jobs: int = flag(1, "Models at work beside each other.", at_least=1)
    out: str = flag("runs/disputes", "Folder for verdicts, and in it one of models for each dispute.")
    dry_run: bool = flag(False, "Print claims, rules, commands and hours, and train nothing.")

    def __post_init__(self):
        super().__post_init__()
        check_tuning(self.tuning_seeds, self.seeds)

    @property
    def every_seed(self) -> range:
        """The seeds that a verdict is of."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def chosen(self) -> dict[str, Dispute]:
        """Those that are named."""
        from experiments.disputes.cases import DISPUTES

        return {name: DISPUTES[name] for name in self.disputes}
