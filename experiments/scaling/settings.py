"""What `python -m experiments.scaling` is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.bench import mesh, parsing, settings
from experiments.bench.settings import flag

if TYPE_CHECKING:
    from attnzoo import Kernel


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to measure; lengths in tokens, `cell_budget` in seconds."""

    kernels: tuple[Kernel, ...] = flag(
        "all", "Kernels as calls, such as 'softmax, performer(features=128)', or 'all'.", parsing.kernels
    )
    lengths: tuple[int, ...] = flag(
        "256:4096", "Sequence lengths; a range doubles, both ends included.", parsing.lengths
    )
    passes: tuple[str, ...] = flag(
        "forward,train",
        "Passes to time: forward, train (forward and backward).",
        parsing.some_of(("forward", "train")),
    )
    batch: int | None = flag(None, "Examples in a batch; 1 unless --tokens is given.", at_least=1)
    tokens: int | None = flag(None, "Tokens in a batch, in place of --batch: batch = tokens / length.")
    heads: int = flag(8, "Heads of queries.", at_least=1)
    num_kv_heads: int | None = flag(None, "Heads of keys and values; as many as of queries unless given.", at_least=1)
    head_dim: int = flag(64, "Width of a head.", at_least=1)
    dtype: str = flag("float32", "Type of queries, keys and values.", choices=settings.DTYPES)
    is_causal: bool = flag(
        False, "Hide the future; kernels without a causal form are refused. Those with no other hide it in any case."
    )
    repeats: int = flag(7, "Timed repetitions of each cell, after a warm-up; at least 5.", at_least=5)
    cell_budget: float = flag(
        60.0, "Seconds that the repetitions of one cell may take; longer ones are skipped.", at_least=1e-9
    )
    mesh: tuple[str, ...] = flag(
        "",
        "Devices that share each call, such as 'sequence={1,2,4,8}'; also data for the batch, and model for heads.",
        mesh.several,
    )
    seed: int = flag(0, "Seed of inputs and parameters.")
    out: str = flag("runs/scaling", "Folder for rows and figures.")
    dry_run: bool = flag(False, "List the cells with their predicted cost, and run none.")

    def __post_init__(self):
        if self.batch is not None and self.tokens is not None:
            raise ValueError("--batch and --tokens exclude each other: give one of them")
        super().__post_init__()
        if self.heads % self.kv_heads:
            raise ValueError(f"--num_kv_heads={self.num_kv_heads} does not divide --heads={self.heads}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed={self.seed}: expected a number from 0 to {2**32 - 1}")
        if not self.out.strip():
            raise ValueError("--out is empty: name a folder for rows and figures")
        sizes: dict[int, str] = {}
        for named in self.mesh:
            other = sizes.setdefault(mesh.count(named), named)
            if other != named:
                raise ValueError(
                    f"--mesh has {other!r} and {named!r}, both of {mesh.count(named)} devices, and figures go by "
                    "their number: give each a run of its own"
                )
        for length in self.lengths if self.tokens is not None else ():
            if self.tokens < 1 or self.tokens % length:
                raise ValueError(f"--tokens={self.tokens} is no multiple of length {length}: batches would differ")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.num_kv_heads is None else self.num_kv_heads

    def batch_at(self, length: int) -> int:
        """Examples in a batch of this length."""
        return (self.batch or 1) if self.tokens is None else self.tokens // length
