"""What `python -m experiments.approximation` is asked for."""

from __future__ import annotations

import dataclasses

from experiments.bench import parsing, settings
from experiments.bench.settings import flag

VALUES = parsing.unless_empty(parsing.lengths)
FLAGGED = ("features", "landmarks", "ranks", "windows", "random_blocks")  # fields that have a dial's values


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to measure."""

    operands: tuple[str, ...] = flag(
        "random,trained",
        "Queries, keys and values: some of random, trained.",
        parsing.some_of(("random", "trained")),
    )
    temperatures: tuple[float, ...] = flag(
        "4,1",
        "Of random scores, which are divided by it: attention is sharper below 1.",
        parsing.numbers,
        at_least=1e-6,
    )
    features: tuple[int, ...] = flag(
        "16:512", "Features of Performer, orthogonal and independent. A range doubles.", VALUES
    )
    landmarks: tuple[int, ...] = flag(
        "16:512", "Landmarks of Nystrom. These five flags may be empty: none of that kernel.", VALUES
    )
    ranks: tuple[int, ...] = flag("16:512", "Ranks of Linformer.", VALUES)
    windows: tuple[int, ...] = flag(
        "16:512", "Keys beside a query's own in a window: half on each side, or all before it.", VALUES
    )
    random_blocks: tuple[int, ...] = flag("1:8", "Random blocks of BigBird.", VALUES)
    length: int = flag(1024, "Sequence length; for a checkpoint that was built for less, its own.", at_least=1)
    heads: int = flag(8, "Heads of random operands.", at_least=1)
    head_dim: int = flag(64, "Width of a head of random operands.", at_least=1)
    is_causal: bool = flag(False, "Hide the future from random operands, and from the model that is trained.")
    draws: int = flag(5, "Draws of features, blocks and projections, over which there are intervals.", at_least=1)
    seed: int = flag(0, "Seed of operands and draws.", at_least=0)
    checkpoint: str = flag("", "A softmax model's, or a folder of experiments.accuracy, in place of training.")
    texts: int = flag(2, "Windows of unseen text that the model reads.", at_least=1)
    steps: int = flag(300, "Steps that it is trained, where there is no --checkpoint.", at_least=2)
    repeats: int = flag(7, "Timed repetitions of each cell, all of the same operands in turns; at least 5.", at_least=5)
    cell_budget: float = flag(30.0, "Seconds that the repetitions of a cell may take.", at_least=1e-3)
    out: str = flag("runs/approximation", "Folder for rows and figures.")

    @property
    def values(self) -> dict[str, tuple[int, ...]]:
        """Those of each dial's flag."""
        return {name: getattr(self, name) for name in FLAGGED}
