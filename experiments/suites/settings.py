"""What `python -m experiments.suites` is asked for."""

from __future__ import annotations

import dataclasses

from experiments.bench import parsing, settings
from experiments.bench.settings import flag
from experiments.suites.suite import SCALES

# All of `experiments.suites.catalogue.SUITES`, in their order; they are not imported, since help does not wait for jax.
NAMES = (
    "mqar_2023", "mqar_2026", "mad", "formal", "words", "flip_flop", "phonebook", "copying", "needle", "listops",
    "locality", "pretraining",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """Which suites, how large, and of which kernels."""

    suites: tuple[str, ...] = flag(
        "mad", f"Some of {', '.join(NAMES)}, or 'all'.", parsing.some_of(NAMES, every=True), name="suite"
    )
    scale: str = flag("small", "As published, or for two cores.", choices=SCALES)
    kernels: str = flag("", "Kernels as calls; empty for those that a suite is most often asked of.")
    out: str = flag("runs/suites", "Folder for the folders of rows.")
    dry_run: bool = flag(False, "Print what each suite is, how many models it has, and its commands, and run none.")

    def __post_init__(self):
        super().__post_init__()
        if self.kernels:
            parsing.models(self.kernels)
        if not self.out.strip():
            raise ValueError("--out is empty: name a folder for rows")
