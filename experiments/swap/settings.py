"""What `python -m experiments.swap` is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.bench import parsing, settings
from experiments.bench.settings import flag

if TYPE_CHECKING:
    from attnzoo import Kernel

WINDOWS = ", ".join(f"sliding_window(left={reach}, right={reach})" for reach in (3, 15, 63))
KERNELS = f"softmax, {WINDOWS}, bigbird(block_size=8), linear, performer(features={{16,64,256}})"


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to exchange; `lengths` are the longest that models take, where empty."""

    checkpoint: str = flag(
        "runs/compare/accuracy", "A checkpoint, or a folder of accuracy, for its best softmax model."
    )
    kernels: tuple[Kernel, ...] = flag(KERNELS, "Kernels to put in, as calls; {a,b} is a grid.", parsing.kernels)
    test_examples: int = flag(256, "Windows of unseen files.", at_least=1)
    out: str = flag("runs/swap", "Folder for rows and figure.")
    lengths: tuple[int, ...] = flag(
        "",
        "Tokens of each window, such as 64,512; the longest that the models take if empty.",
        parsing.unless_empty(parsing.lengths),
    )
