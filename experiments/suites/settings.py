"""What `python -m experiments.suites` is asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.bench import parsing, settings
from experiments.bench.settings import flag
from experiments.suites.suite import SCALES
from experiments.train.sweep.settings import TUNING, check_tuning

# All of `experiments.suites.catalogue.SUITES`, in their order; they are not imported, since help does not wait for jax.
NAMES = (
    "mqar_2023", "mqar_2026", "mad", "formal", "words", "flip_flop", "phonebook", "copying", "needle", "listops",
    "lra", "locality", "pretraining",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """Which suites, how large, and of which kernels."""

    suites: tuple[str, ...] = flag(
        "mad", f"Some of {', '.join(NAMES)}, or 'all'.", parsing.some_of(NAMES, every=True), name="suite"
    )
    scale: str = flag("small", "As published, or for two cores.", choices=SCALES)
    kernels: str = flag("", "Kernels as calls; empty for those that a suite is most often asked of.")
    seeds: int = flag(1, "Seeds of each model; fewer than five support no claim.", at_least=1)
    first_seed: int = flag(0, "The first of these seeds, which others follow.", at_least=0)
    tuning_seeds: int = flag(0, TUNING, at_least=0)
    jobs: int = flag(1, "Models at work beside each other.", at_least=1)
    out: str = flag("runs/suites", "Folder for the folders of rows.")
    dry_run: bool = flag(False, "Print what each suite is, how many models it has, and its commands, and run none.")
    hours: bool = flag(
        False, "With --dry_run: operations and hours, counted of one kernel of each training for all; takes minutes."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.kernels:
            parsing.models(self.kernels)
        if not self.out.strip():
            raise ValueError("--out is empty: name a folder for rows")
        check_tuning(self.tuning_seeds, self.seeds)
        if self.hours and not self.dry_run:
            raise ValueError("--hours are told before anything is trained: give --dry_run, too")

    @property
    def every_seed(self) -> range:
        """The seeds of each model."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def shared(self) -> dict[str, Any]:
        """Flags of every training, beside its own."""
        seeds = {"seeds": self.seeds} if self.seeds > 1 else {}
        chosen = {name: value for name in ("first_seed", "tuning_seeds") if (value := getattr(self, name))}
        return seeds | chosen | ({"jobs": self.jobs, "isolate": "true"} if self.jobs > 1 else {})
