"""What `python -m experiments.learnability` is asked for: as `experiments.accuracy`, with rates over decades."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.bench import parsing
from experiments.bench.settings import flag
from experiments.train.sweep import settings

if TYPE_CHECKING:
    from experiments.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """Models at every rate, and what counts as solved."""

    tasks: tuple[Task, ...] = flag(
        "mqar(pairs=4, vocabulary=64)", "Tasks with answers, as calls.", parsing.tasks, name="task"
    )
    lengths: tuple[int, ...] = flag("32", "Sequence lengths; a range such as 64:512 doubles.", parsing.lengths)
    learning_rates: tuple[float, ...] = flag(
        "1e-4,3.2e-4,1e-3,3.2e-3,1e-2,3.2e-2,1e-1",
        "Highest learning rates, from the least to the greatest.",
        parsing.numbers,
        at_least=1e-12,
    )
    seeds: int = flag(3, "Number of runs at each rate, with a seed each.", at_least=1)
    steps: int = flag(400, "Training steps.", at_least=2)
    validate_every: int = flag(25, "Steps between validations, which tell when a task is solved.", at_least=1)
    solved: float = flag(0.9, "Share of validation's answers from which a task is solved.", at_least=0.01)
    until: float = flag(
        0.0, "Share of validation's answers at which training ends; 0 for that of --solved.", at_least=0
    )
    out: str = flag("runs/learnability", "Folder for rows and figures.")

    def __post_init__(self):
        if not self.solved <= 1:
            raise ValueError(f"--solved={self.solved}: expected a share in (0, 1]")
        object.__setattr__(self, "until", self.until or self.solved)
        if self.until < self.solved:
            raise ValueError(f"--until={self.until} ends training before --solved={self.solved} of it is reached")
        super().__post_init__()
        if self.tuning_seeds:
            raise ValueError(f"--tuning_seeds={self.tuning_seeds}: bands are of all seeds at every rate; leave it out")
        if len(set(self.learning_rates)) < 3:
            raise ValueError(f"--learning_rates has {len(set(self.learning_rates))}: expected at least 3, over decades")
