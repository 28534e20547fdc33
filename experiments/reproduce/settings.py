"""What `python -m experiments.reproduce` is asked for."""

from __future__ import annotations

import dataclasses

from experiments.bench import parsing, settings
from experiments.bench.settings import flag
from experiments.reproduce.published import TASKS, Published, results

MEASURED = ("speed", "memory", "mqar", *TASKS, *(f"{task}-small" for task in TASKS))
FORMS = ("faithful", "corrected")


def _models() -> dict[str, None]:
    return dict.fromkeys(result.model for result in results())


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the model whose steps are timed; `shrink` divides lengths, for a look at small ones."""

    width: int = 256
    heads: int = 4
    layers: int = 4
    feed_forward: int = 1024
    shrink: int = 1


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to measure; `lengths` are published ones of speed and memory, all where empty."""

    only: tuple[str, ...] = flag(
        "speed,memory,mqar", f"What to measure: some of {', '.join(MEASURED)}.", parsing.some_of(MEASURED)
    )
    models: tuple[str, ...] = flag(
        "all",
        "Models by their names in the tables, such as 'local, performer', or 'all'.",
        parsing.some_of(_models, every=True),
    )
    forms: tuple[str, ...] = flag(
        "faithful,corrected",
        "Kernels as public code ran them, as papers mean them, or both.",
        parsing.some_of(FORMS),
    )
    lengths: tuple[int, ...] = flag(
        "",
        "Published lengths of speed and memory, such as 1000,4000; empty for all.",
        parsing.unless_empty(parsing.lengths),
    )
    batch: int = flag(1, "Examples in a timed step.", at_least=1)
    repeats: int = flag(7, "Timed repetitions of a step, after a warm-up; at least 5.", at_least=5)
    out: str = flag("runs/reproduce", "Folder for rows, ledger and figure.")
    dry_run: bool = flag(False, "Print the ledger as it stands and what is to do, and measure nothing.")
    sizes: Sizes = Sizes()

    def __post_init__(self):
        super().__post_init__()
        if not self.out.strip():
            raise ValueError("--out is empty: name a folder for rows and ledger")
        if not self.chosen():
            raise ValueError(
                f"--only={','.join(self.only)} --models={','.join(self.models)} "
                f"--lengths={','.join(map(str, self.lengths))}: no published result is all of these"
            )

    def chosen(self) -> list[Published]:
        """The published results that flags name."""
        return [result for result in results() if self._has(result)]

    def _has(self, result: Published) -> bool:
        is_long = not result.is_ratio or not self.lengths or result.length in self.lengths
        return result.group in self.only and result.model in self.models and is_long
