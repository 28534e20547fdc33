"""What `python -m experiments.alignment` is asked for."""

from __future__ import annotations

import dataclasses

from experiments.bench import parsing, settings
from experiments.bench.settings import flag


def _scores() -> tuple[str, ...]:
    from attnzoo.models.recurrent import SCORES

    return SCORES


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to train."""

    scores: tuple[str, ...] = flag(
        "additive", "How states meet annotations: some of additive, dot, general.", parsing.some_of(_scores)
    )
    steps: int = flag(1500, "Training steps.", at_least=2)
    batch: int = flag(64, "Pairs in a step.", at_least=1)
    width: int = flag(64, "Width of embeddings and of each direction of the encoder.", at_least=1)
    learning_rate: float = flag(3e-3, "Highest learning rate.", at_least=1e-12)
    test_pairs: int = flag(2000, "Pairs of unseen days to test on.", at_least=1)
    seeds: int = flag(1, "Seeds, from 0.", at_least=1)
    out: str = flag("runs/alignment", "Folder for rows and figures.")
