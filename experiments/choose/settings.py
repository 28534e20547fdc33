"""What `python -m experiments.choose` is asked for."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from experiments.bench import parsing, settings
from experiments.bench.settings import flag

if TYPE_CHECKING:
    from attnzoo import Kernel

CHIPS = ("h100", "v4", "v5e", "v5p", "v6e")  # of `experiments.bench.chips`, which help does not wait for
ROWS = "results"
LONGEST = 2**24  # tokens; of more, even what is only traced lists too many tiles
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def size(text: str, name: str) -> float | None:
    """Bytes, such as 8G; None for nothing.

    Raises:
      ValueError: it is no size.
    """
    number, unit = text.strip(), ""
    if number and number[-1].upper() in UNITS:
        number, unit = number[:-1], number[-1].upper()
    try:
        found = float(number) * UNITS[unit] if text.strip() else None
    except ValueError:
        found = 0.0
    if found is not None and not 0 < found < float("inf"):
        raise ValueError(f"--{name}={text}: expected bytes, with K, M, G or T for powers of 1,024, such as 8G")
    return found


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """A call of attention, the device that it is for, and where rows are."""

    length: int = flag(4096, "Tokens; with --decode, those that came before.", at_least=1)
    causal: bool = flag(False, "Hide the future, as --decode does.")
    decode: bool = flag(False, "One more token, after a context of that length.")
    train: bool = flag(False, "Forward and backward.")
    memory: float | None = flag(
        "", "What operands, state and temporaries may take, such as 8G; none for no limit.", size
    )
    device: str = flag("cpu", "What it is for.", choices=(*CHIPS, "cpu"))
    kernels: tuple[Kernel, ...] = flag("all", "Kernels as calls, or 'all'.", parsing.kernels)
    batch: int = flag(1, "Examples.", at_least=1)
    heads: int = flag(8, "Heads of queries.", at_least=1)
    kv_heads: int = flag(0, "Heads of keys and values; 0 for as many.", at_least=0)
    head_dim: int = flag(64, "Width of a head.", at_least=1)
    dtype: str = flag("bfloat16", "Type of queries, keys and values.", choices=settings.DTYPES)
    rows: str = flag(ROWS, "Folder of rows, its own and those of folders below it.")
    verbose: bool = flag(False, "Tell all losses, and from which row each time is.")

    @property
    def is_causal(self) -> bool:
        """Whether tokens see the past alone, as those that are decoded do."""
        return self.causal or self.decode

    def __post_init__(self):
        super().__post_init__()
        if self.train and self.decode:
            raise ValueError("--train and --decode exclude each other: nothing is learned while a token is decoded")
        if self.length > LONGEST:
            raise ValueError(f"--length={self.length}: expected at most {LONGEST:,} tokens")
        if self.rows != ROWS and not pathlib.Path(self.rows).is_dir():
            raise ValueError(f"--rows={self.rows}: there is no such folder")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"--kv_heads={self.kv_heads} does not divide --heads={self.heads}")
