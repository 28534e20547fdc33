"""What `python -m experiments.conformance` is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.bench import parsing, settings
from experiments.bench.settings import flag

if TYPE_CHECKING:
    from attnzoo import Kernel


def _kernels(text: str | None, name: str) -> tuple[Kernel, ...]:
    """Small forms of all where none are named, and a long window, which vendors want."""
    if text is not None:
        return parsing.kernels(text, name)
    from attnzoo import SlidingWindow
    from attnzoo.testing.zoo import FURTHER, ZOO

    return (*ZOO, *FURTHER, SlidingWindow(left=255, right=0))


def _laws() -> tuple[str, ...]:
    from attnzoo.testing import LAWS

    return tuple(LAWS)


def _routes() -> tuple[str, ...]:
    """Implementations beside the equation's own, whose rules of differentiation are theirs; kernels of ours come first,
    of which a device tells most where time is short."""
    from attnzoo.door.routes import IMPLEMENTATIONS

    named = [name for name in IMPLEMENTATIONS if name not in ("reference", "forward")]
    return tuple(sorted(named, key=lambda name: name != "pallas"))


# One kernel for each way of softmax to skip, and for each of states to be written.
PATTERNS = (
    "softmax, sliding_window(left=255, right=0), sliding_window(left=128, right=128, dilation=2, global_tokens=2), "
    "bigbird, local(block_size=64), sparse_transformer(block_size=64, summary=8), nadaraya_watson, nystrom, linear, "
    "cosformer(max_length=32768), performer, based, state_space, gated_linear, gated_delta, kimi_delta"
)


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to hold to what."""

    kernels: tuple[Kernel, ...] = flag(
        None, "Kernels that are held to laws, as calls, or 'all'; small forms of every kernel unless given.", _kernels
    )
    laws: tuple[str, ...] = flag(
        "all",
        "Names of laws, separated by commas, or 'all'; '' for none.",
        parsing.unless_empty(parsing.some_of(_laws, every=True)),
    )
    patterns: tuple[Kernel, ...] = flag(
        PATTERNS,
        "Kernels whose implementations are compared, in 16 bits; '' for none.",
        parsing.unless_empty(parsing.kernels),
    )
    routes: tuple[str, ...] = flag(
        "all",
        "Which of their implementations, separated by commas, or 'all'; '' for none.",
        parsing.unless_empty(parsing.some_of(_routes, every=True)),
    )
    platform: str = flag("gpu", "The platform that jax must run on: gpu, tpu, cpu.")
    minutes: float = flag(7.5, "Time for everything; laws not reached are rows that say so.", at_least=0.1)
    processes: int | None = flag(None, "Processes at a time; as many as cores unless given.", at_least=1)
    out: str = flag("runs/conformance", "Folder for rows, figure and table.")
