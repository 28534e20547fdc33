"""A run that is asked to end finishes what it is at, and saves."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator

from experiments.bench.workers import Worker

Process = Worker | subprocess.Popen


class Termination:
    """Whether SIGTERM has come, while a run lasts; it is handed on to the processes at work, which an error kills.

    Within another one it knows what has come to that one before, and hands on what comes later.

    Attributes:
      is_asked: whether it has, or something else ends the run.
    """

    def __init__(self):
        self.is_asked = False
        self._outer: Termination | None = None
        self._workers: list[Process] = []

    def __enter__(self):
        try:
            self._before = signal.signal(signal.SIGTERM, self._heard)
        except ValueError:  # not in the main thread, where nobody signals
            self._before = None
        outer = getattr(self._before, "__self__", None)
        if isinstance(outer, Termination):
            self._outer, self.is_asked = outer, outer.is_asked
        return self

    def _heard(self, *_) -> None:
        self.ask()

    def __exit__(self, kind, *_):
        if kind is not None:
            self.is_asked = True
            for worker in list(self._workers):
                worker.kill()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def ask(self) -> None:
        """Let the run end, as SIGTERM does; once, since a process that has saved is past a second one."""
        if not self.is_asked:
            self.is_asked = True
            for worker in list(self._workers):
                worker.terminate()
            if self._outer is not None:
                self._outer.ask()

    @contextlib.contextmanager
    def reaching(self, worker: Process) -> Iterator[None]:
        """Hand the end of the run on to a process while the context lasts, from any thread."""
        self._workers.append(worker)
        if self.is_asked:
            worker.terminate()
        try:
            yield
        finally:
            self._workers.remove(worker)
