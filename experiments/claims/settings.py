"""What `python -m experiments.claims` is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.bench import parsing, settings
from experiments.bench.settings import flag

if TYPE_CHECKING:
    from attnzoo import Kernel

KERNELS = (
    "softmax, nadaraya_watson, additive, sliding_window(left=63, right=0), local(block_size=64), "
    "bigbird(block_size=16), linear, performer(features=64), synthesizer"
)


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to test."""

    claims: tuple[str, ...] = flag(
        "speed,recall,regression",
        "Which to test: some of speed, recall, regression.",
        parsing.some_of(("speed", "recall", "regression")),
    )
    kernels: tuple[Kernel, ...] = flag(KERNELS, "Kernels as calls, beside recurrent networks.", parsing.kernels)
    lengths: tuple[int, ...] = flag("64:4096", "Sequence lengths of the speed test; a range doubles.", parsing.lengths)
    distances: tuple[int, ...] = flag("32:1024", "Tokens of noise in the recall test.", parsing.lengths)
    tokens: int = flag(4096, "Tokens in a batch.", at_least=1)
    steps: int = flag(1000, "Training steps of each model of the recall test.", at_least=2)
    width: int = flag(64, "Width of the models.", at_least=1)
    layers: int = flag(2, "Blocks of the Transformer; recurrent networks have twice as many layers.", at_least=1)
    heads: int = flag(4, "Heads of the Transformer.", at_least=1)
    learning_rate: float = flag(3e-3, "Highest learning rate.", at_least=1e-12)
    seeds: int = flag(1, "Seeds, from 0, of the recall and the regression test.", at_least=1)
    repeats: int = flag(7, "Timed repetitions of the speed test; at least 5.", at_least=5)
    out: str = flag("runs/claims", "Folder for rows and figures.")

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.heads:
            raise ValueError(f"--heads={self.heads} does not divide --width={self.width}")
