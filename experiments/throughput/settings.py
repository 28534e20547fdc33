"""What `python -m experiments.throughput` is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.bench import parsing, settings
from experiments.bench.settings import flag

if TYPE_CHECKING:
    from attnzoo import Kernel

IMPLEMENTATIONS = (
    "attnzoo", "attnzoo xla", "attnzoo pallas", "jax.nn cudnn", "torch SDPA", "torch flex", "jax.nn",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to time."""

    kernels: tuple[Kernel, ...] = flag(
        "softmax, sliding_window(left=1023, right=0)", "Kernels as calls, or 'all'.", parsing.kernels
    )
    lengths: tuple[int, ...] = flag(
        "1024:65536", "Sequence lengths; a range doubles, both ends included.", parsing.lengths
    )
    head_dims: tuple[int, ...] = flag("64,128", "Widths of a head.", parsing.lengths)
    passes: tuple[str, ...] = flag(
        "forward,train",
        "Passes to time: forward, train (forward and backward).",
        parsing.some_of(("forward", "train")),
    )
    implementations: tuple[str, ...] = flag(
        "all", "Which to time, separated by commas, or 'all'.", parsing.some_of(IMPLEMENTATIONS, every=True)
    )
    tokens: int = flag(65536, "Tokens in a batch: batch = tokens / length, at least 1.", at_least=1)
    heads: int = flag(16, "Heads of queries, keys and values.", at_least=1)
    dtype: str = flag("bfloat16", "Type of queries, keys and values.", choices=settings.DTYPES)
    is_causal: bool = flag(True, "Hide the future.")
    repeats: int = flag(7, "Timed repetitions of each cell; at least 5.", at_least=5)
    matmul_size: int = flag(8192, "Rows and columns of the matrix product that is the ceiling.", at_least=1)
    copy_bytes: int = flag(2**31, "Bytes of the copy that is the ceiling.", at_least=8)
    platform: str = flag("gpu", "The platform that jax must run on: gpu, tpu, cpu.")
    minutes: float = flag(7.5, "Time for everything; cells not reached are rows that say so.", at_least=0.1)
    patience: float = flag(
        90.0, "Seconds without a row after which a process is ended, and another goes on behind its cell.", at_least=1
    )
    seed: int = flag(0, "Seed of inputs.", at_least=0)
    out: str = flag("runs/throughput", "Folder for rows, figures and table.")
