"""What `python -m experiments.peers` is asked for."""

from __future__ import annotations

import dataclasses

from experiments.bench import parsing, settings
from experiments.bench.settings import flag


def _works() -> tuple[str, ...]:
    from experiments.peers.works import WORKS

    return tuple(WORKS)


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
    """What to compare."""

    works: tuple[str, ...] = flag(
        "all",
        "Names of works, separated by commas, or 'all'; --list shows them.",
        parsing.some_of(_works, every=True),
    )
    pairs: int = flag(9, "Pairs of ours and theirs, after a warm-up of both; at least 7.", at_least=7)
    seed: int = flag(0, "Seed of inputs and weights.", at_least=0)
    out: str = flag("runs/peers", "Folder for rows, figure and table.")
    list: bool = flag(False, "List the works and their peers, and run none.")
