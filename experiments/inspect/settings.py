"""What `python -m experiments.inspect` is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.bench import parsing, settings
from experiments.bench.settings import flag

if TYPE_CHECKING:
    from attnzoo import Kernel


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to look at."""

    checkpoint: str = flag("runs/compare/accuracy", "A checkpoint, or a folder of experiments.accuracy.")
    text: str = flag("def main(self, name):", "Text to look at.")
    attention: tuple[Kernel, ...] | None = flag(
        "",
        "Kernels in place of those that were trained, with the same parameters.",
        parsing.unless_empty(parsing.kernels, None),
    )
    out: str = flag("runs/inspect", "Folder for figures and the page.")

    def __post_init__(self):
        super().__post_init__()
        if not self.text:
            raise ValueError("--text is empty: give the model at least one character to look at")
