"""What `python -m experiments.decoding` is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.bench import parsing, settings
from experiments.bench.settings import flag

if TYPE_CHECKING:
    from attnzoo import Kernel

KERNELS = (
    "softmax, nadaraya_watson, additive, sliding_window(left=255, right=0), bigbird, linear, performer(features=128)"
)
TRAINED = (
    "softmax, sliding_window(left=3, right=0), sliding_window(left=15, right=0), sliding_window(left=63, right=0), "
    "linear, performer(features=16), performer(features=64), performer(features=256)"
)


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to time and what to train."""

    kernels: tuple[Kernel, ...] = flag(KERNELS, "Kernels to time, as calls, or 'all'.", parsing.kernels)
    contexts: tuple[int, ...] = flag(
        "256:32768", "Tokens that came before; a range doubles, both ends included.", parsing.lengths
    )
    tokens: int = flag(16, "Tokens that a timed repetition decodes, one after the other.", at_least=1)
    batch: int = flag(1, "Examples.", at_least=1)
    heads: int = flag(8, "Heads of queries, keys and values.", at_least=1)
    head_dim: int = flag(64, "Width of a head.", at_least=1)
    dtype: str = flag("float32", "Type of tokens and caches.", choices=settings.DTYPES)
    repeats: int = flag(7, "Timed repetitions of each cell, all of a context in turns; at least 5.", at_least=5)
    cell_budget: float = flag(30.0, "Seconds that the repetitions of a cell may take.", at_least=1e-3)
    seed: int = flag(0, "Seed of tokens and caches.", at_least=0)
    trained: tuple[Kernel, ...] = flag(
        TRAINED, "Kernels of the text models; 'none' to train none.", parsing.kernels_or_none
    )
    length: int = flag(256, "Length of the sequences that the text models learn.", at_least=1)
    steps: int = flag(1500, "Steps that they learn.", at_least=2)
    quality: str = flag("", "Folder of experiments.accuracy with models to show, in place of training them.")
    out: str = flag("runs/decoding", "Folder for rows and figures.")
