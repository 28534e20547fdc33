"""Cells of one program in a process of their own, within its limits: steps as they are done, and rows as they come."""

from __future__ import annotations

import pathlib
import resource
import sys
import time

from experiments.bench import compile_cache, outcome, placement, processes, workers
from experiments.train import loop
from experiments.train.sweep import models
from experiments.train.sweep.cells import heard
from experiments.train.sweep.settings import Settings

EVERY = 1.0  # seconds between words about progress


def main() -> int:
    """0 with a row of each, or the code of a run that was asked to end and has saved its state."""
    with workers.talk() as (hear, say):
        task = hear()
        plain = {name: tuple(x) if isinstance(x, list) else x for name, x in task["settings"].items()}  # JSON has lists
        settings = Settings(**plain)
        if settings.memory:
            _limit(int(settings.memory * 2**30))
        if task["device"] is not None:
            placement.take(placement.Place(*task["device"]))
        processes.join(settings)
        compile_cache.keep(pathlib.Path(settings.out))
        said = [0.0]

        def told(progress: loop.Progress) -> None:
            if time.monotonic() - said[0] > EVERY:
                said[0] = time.monotonic()
                say({"step": progress.step})

        try:
            while (cell := hear()) is not None:
                say({"row": models.train(settings, heard(cell), told)})
        except outcome.Stopped as stopped:
            print(stopped, file=sys.stderr)
            return outcome.STOPPED
    return 0


def _limit(most: int) -> None:
    """No more bytes of address space than this, of which the program itself has some before any cell.

    Raises:
      MemoryError: it has more: what it would fail at next, and with which words, is chance.
    """
    about = pathlib.Path("/proc/self/statm")
    taken = int(about.read_text().split()[0]) * resource.getpagesize() if about.is_file() else 0
    if taken > most:
        raise MemoryError(f"the program itself takes {taken / 2**30:.2f} GiB")
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    sys.exit(main())
