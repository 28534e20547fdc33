"""One cell in a process of its own, within its limits: steps are told as they are done, and the row at the end."""

from __future__ import annotations

import resource
import sys
import time

from experiments.bench import outcome, placement, processes, workers
from experiments.train import loop
from experiments.train.sweep import models
from experiments.train.sweep.cells import heard
from experiments.train.sweep.settings import Settings

EVERY = 1.0  # seconds between words about progress


def main() -> int:
    """0 with a row, or the code of a run that was asked to end and has saved its state."""
    with workers.talk() as (task, say):
        settings = Settings(**task["settings"])
        if settings.memory:
            limit = int(settings.memory * 2**30)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        processes.join(settings)
        if task["device"] is not None:
            placement.take(task["device"])
        said = [0.0]

        def told(progress: loop.Progress) -> None:
            if time.monotonic() - said[0] > EVERY:
                said[0] = time.monotonic()
                say({"step": progress.step})

        try:
            say({"row": models.train(settings, heard(task["cell"]), told)})
        except outcome.Stopped as stopped:
            print(stopped, file=sys.stderr)
            return outcome.STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
