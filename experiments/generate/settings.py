"""What `python -m experiments.generate` is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.bench import parsing, settings
from experiments.bench.settings import flag

if TYPE_CHECKING:
    from attnzoo import Kernel


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to say, and how."""

    checkpoint: str = flag("runs/compare/accuracy", "A checkpoint, or a folder of experiments.accuracy.")
    prompt: str = flag("def ", "Text to go on from.")
    tokens: int = flag(0, "Bytes to add; 0 for as many as the model has room for.", at_least=0)
    temperature: float = flag(
        0.5, "0 for the likeliest byte each time; 1 for draws as the model has learned them.", at_least=0
    )
    top_k: int = flag(0, "Draw among this many bytes; 0 for all.", at_least=0)
    top_p: float = flag(1.0, "Draw among the likeliest bytes that have this probability together.")
    samples: int = flag(1, "How many times.", at_least=1)
    seed: int = flag(0, "Seed of the draws.", at_least=0)
    attention: tuple[Kernel, ...] | None = flag(
        "",
        "Kernels in place of those that were trained, with the same parameters.",
        parsing.unless_empty(parsing.kernels, None),
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.prompt:
            raise ValueError("--prompt is empty: give the model at least one character to go on from")
