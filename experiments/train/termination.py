"""A run that is asked to end finishes what it is at, and saves."""

from __future__ import annotations

import signal

from experiments.bench.workers import Worker


class Termination:
    """Whether SIGTERM has come, while a run lasts.

    Attributes:
      is_asked: whether it has.
      worker: the process at work, to which it is handed on; None where the run works itself.
    """

    def __init__(self):
        self.is_asked = False
        self.worker: Worker | None = None

    def __enter__(self):
        try:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        except ValueError:  # not in the main thread, where nobody signals
            self._before = None
        return self

    def __exit__(self, *_):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, signum, frame):
        self.is_asked = True
        if self.worker is not None:
            self.worker.terminate()
