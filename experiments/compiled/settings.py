"""What `python -m experiments.compiled` is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.bench import chips, parsing, settings
from experiments.bench.settings import flag

if TYPE_CHECKING:
    from attnzoo import Kernel

AUTOMATIC = "auto"  # the implementation that `attend` takes by itself
HEADS, PROJECTED = "heads", "projected"  # how operands come


def _implementations() -> tuple[str, ...]:
    from attnzoo.door.routes import IMPLEMENTATIONS

    return (AUTOMATIC, *IMPLEMENTATIONS)


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to compile, and for which devices; `cell_budget` in seconds."""

    targets: tuple[str, ...] = flag(
        "h100,v5e", f"Devices, which need not be here: {', '.join(chips.CHIPS)}.", parsing.some_of(tuple(chips.CHIPS))
    )
    kernels: tuple[Kernel, ...] = flag(
        "all", "Kernels as calls, such as 'softmax, performer(features=128)', or 'all'.", parsing.kernels
    )
    lengths: tuple[int, ...] = flag(
        "1024:4096", "Sequence lengths; a range doubles, both ends included.", parsing.lengths
    )
    passes: tuple[str, ...] = flag(
        "forward,train",
        "Passes to compile: forward, train (forward and backward).",
        parsing.some_of(("forward", "train")),
    )
    implementations: tuple[str, ...] = flag(
        AUTOMATIC,
        f"Those of `attend`, such as xla; {AUTOMATIC} is the one that it takes by itself.",
        parsing.some_of(_implementations),
    )
    batch: int = flag(4, "Examples in a batch.", at_least=1)
    heads: int = flag(16, "Heads of queries.", at_least=1)
    num_kv_heads: int | None = flag(None, "Heads of keys and values; as many as of queries unless given.", at_least=1)
    head_dim: int = flag(64, "Width of a head.", at_least=1)
    value_dim: int | None = flag(None, "Width of values; that of queries and keys unless given.", at_least=1)
    dtype: str = flag("bfloat16", "Type of queries, keys and values.", choices=settings.DTYPES)
    operands: str = flag(
        HEADS,
        f"How they come: {HEADS}, [B, L, N, H], or {PROJECTED}, [B, L, N H], as a layer has them, whose reshape the "
        "program does. A TPU fills up heads in memory, and copies them.",
        choices=(HEADS, PROJECTED),
    )
    is_causal: bool = flag(False, "Hide the future; kernels without a causal form are refused.")
    cell_budget: float = flag(600.0, "Seconds that a cell may take to compile; longer ones are skipped.", at_least=1e-9)
    jobs: int = flag(1, "Cells at work beside each other.", at_least=1)
    out: str = flag("runs/compiled", "Folder for rows and figures.")

    def __post_init__(self):
        super().__post_init__()
        if self.heads % self.kv_heads:
            raise ValueError(f"--num_kv_heads={self.num_kv_heads} does not divide --heads={self.heads}")
        for target in self.targets:
            known = chips.CHIPS[target].flops
            if self.dtype not in known:
                raise ValueError(
                    f"--dtype={self.dtype}: {target} has no products of such numbers; choose {' or '.join(known)}"
                )

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.num_kv_heads is None else self.num_kv_heads
