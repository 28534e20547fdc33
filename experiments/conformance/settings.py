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


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to hold to what."""

    kernels: tuple[Kernel, ...] = flag(
        None, "Kernels as calls, or 'all'; small forms of every kernel unless given.", _kernels
    )
    laws: tuple[str, ...] = flag(
        "all", "Names of laws, separated by commas, or 'all'.", parsing.some_of(_laws, every=True)
    )
    platform: str = flag("gpu", "The platform that jax must run on: gpu, tpu, cpu.")
    minutes: float = flag(7.5, "Time for everything; laws not reached are rows that say so.", at_least=0.1)
    processes: int | None = flag(None, "Kernels at a time; as many as cores unless given.", at_least=1)
    out: str = flag("runs/conformance", "Folder for rows, figure and table.")
