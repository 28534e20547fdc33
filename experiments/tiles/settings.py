"""What `python -m experiments.tiles` is asked for."""

from __future__ import annotations

import dataclasses

from experiments.bench import parsing, settings
from experiments.bench.settings import flag


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to sweep."""

    works: tuple[str, ...] = flag(
        "full,causal,window",
        "What to sweep: some of full, causal, window (256 earlier keys).",
        parsing.some_of(("full", "causal", "window")),
    )
    tiles: tuple[int, ...] = flag(
        "128:1024", "Queries, and keys, in a tile; a range doubles, both ends included.", parsing.lengths
    )
    pairs: tuple[int, ...] = flag(
        "65536:4194304", "Pairs of queries and keys in a step; a range doubles.", parsing.lengths
    )
    length: int = flag(4096, "Sequence length; the window takes four times as many.", at_least=1)
    heads: int = flag(8, "Heads of queries, keys and values.", at_least=1)
    head_dim: int = flag(64, "Width of a head.", at_least=1)
    dtype: str = flag("float32", "Type of queries, keys and values.", choices=settings.DTYPES)
    repeats: int = flag(7, "Timed repetitions of each cell, all in turns; at least 5.", at_least=5)
    seed: int = flag(0, "Seed of inputs.", at_least=0)
    out: str = flag("runs/tiles", "Folder for rows and figure.")
