"""Jobs in processes of their own: what one of them crashes, hangs or fills stays with it.

A worker is a module that reads a task, a line with one JSON object, from its standard input, or one after another, and
prints rows likewise. It ends where that input does: whoever started it is gone, perhaps killed. It is run with the
memory of an accelerator taken as needed, so that several can share one.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

LATE = "no time left"
_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt)\b")
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
# XLA asks a CPU's allocator for all memory of a program at each of its calls, and first touches of small pages take a
# third of what a step of a small model takes. Other C libraries than glibc pass over it.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class Worker:
    """The rows of a worker, as it prints them, killed after so many `seconds`, never where None; `renew` counts anew.

    `xla_flags` are added to those of the environment, and `defaults` where it says nothing else. With `patience`, in
    seconds, it is killed as well where no row comes for so long.

    Afterwards `code` is its exit code, `ended` says how it ended, None for well, and `warnings` are what it warned of.
    """

    def __init__(
        self,
        module: str,
        task: dict,
        seconds: float | None = None,
        xla_flags: str = "",
        patience: float | None = None,
        defaults: dict[str, str] | None = None,
    ):
        self._command = [sys.executable, "-m", module]
        self._unheard = [task]  # what is to be told once it is started
        self._patience = patience
        flags = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}".strip()
        self._environment = (defaults or {}) | os.environ | SHARED | ({"XLA_FLAGS": flags} if flags else {})
        self._process: subprocess.Popen | None = None
        self._whole = _Alarm(seconds, lambda: self._end(LATE))
        self._killed: str | None = None  # why, where it was by a limit
        self._signal: signal.Signals | None = None  # which it was sent, perhaps before it was started
        self.ended: str | None = None
        self.code: int | None = None
        self.warnings: list[str] = []

    def __iter__(self) -> Iterator[dict]:
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=self._environment,
            )
            self._process = process
            if self._signal is not None:
                process.send_signal(self._signal)
            self.renew()
            silence = _Alarm(self._patience, lambda: self._end(f"ended after {self._patience:g} s without a word"))
            try:
                for message in self._unheard:
                    self.tell(message)
                while True:
                    with silence:
                        line = process.stdout.readline()
                    if not line:
                        break
                    yield json.loads(line)
            finally:
                self._whole.stop()
                process.kill() if sys.exc_info()[0] else None
                code = process.wait()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            errors.seek(0)
            said = errors.read().strip().splitlines()
            self.warnings = [line for line in said if line.startswith("warning: ")]
            self.code, self.ended = code, None if code == 0 else self._killed or _died(code, said)

    def tell(self, message: dict | None) -> None:
        """Say what it asks for next; at its start, where it has none yet."""
        if self._process is None:
            self._unheard.append(message)
            return
        with contextlib.suppress(BrokenPipeError):  # it died before; how, `ended` says
            self._process.stdin.write(f"{json.dumps(message)}\n")
            self._process.stdin.flush()

    def renew(self) -> None:
        """Give it all its seconds again, for the next of what it does."""
        self._whole.stop()
        self._whole.start()

    def _end(self, why: str) -> None:
        self._killed = why
        self.kill()

    def terminate(self) -> None:
        """Ask the process to end, by SIGTERM; one that is not started yet is asked at its start."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once, or at its start."""
        self._send(signal.SIGKILL)

    def _send(self, sent: signal.Signals) -> None:
        self._signal = sent
        if self._process is not None:
            self._process.send_signal(sent)


class _Alarm:
    """Calls `ring` so many seconds after its start, or a context's, unless it is stopped; never where None."""

    def __init__(self, seconds: float | None, ring: Callable[[], object]):
        self._seconds, self._ring = seconds, ring
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        if self._seconds is not None:
            self._timer = threading.Timer(max(self._seconds, 0), self._ring)
            self._timer.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_) -> None:
        self.stop()


def _died(code: int, said: list[str]) -> str:
    raised = [line for line in said if _RAISED.match(line)]  # jax has the last word otherwise
    last = (raised or said or ["no message"])[-1]
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"{name}: {last[:300]}"


def beside(jobs: list[Callable[[], Iterable[dict]]], count: int) -> Iterator[dict]:
    """The rows of jobs as they come, `count` of which are at work beside each other.

    Where its caller breaks off, no other job is begun; those at work are the caller's to end.

    Raises:
      Exception: that of a job, when all others are done.
    """
    rows: queue.SimpleQueue[dict | None] = queue.SimpleQueue()

    def drained(job):
        try:
            for row in job():
                rows.put(row)
        finally:
            rows.put(None)

    pool = futures.ThreadPoolExecutor(count)
    try:
        running = [pool.submit(drained, job) for job in jobs]
        for _ in jobs:
            yield from iter(rows.get, None)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for job in running:
        job.result()


def work(rows: Callable[[dict], Iterable[dict]]) -> None:
    """The whole of a worker: a task in, rows out."""
    with talk() as (hear, say):
        for row in rows(hear()):
            say(row)


@contextlib.contextmanager
def talk() -> Iterator[tuple[Callable[[], Any], Callable[[dict], None]]]:
    """How a worker hears what it is told next, and says a row; whatever else is printed goes to standard error."""
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def say(row: dict) -> None:
            out.write(json.dumps(row, allow_nan=False) + "\n")
            out.flush()

        threading.Thread(target=_listen, args=[told], daemon=True).start()
        yield told.get, say


def _listen(told: queue.SimpleQueue) -> None:
    """Hand on what is told, and end this process at once where nobody is left to hear it, whatever it is at: another
    may take up its work."""
    with open(0, "rb", buffering=0, closefd=False) as lines:  # a buffer's lock may be asked for when Python ends
        for line in lines:
            told.put(json.loads(line))
    os._exit(1)


def require(platform: str, environment: dict) -> None:
    """Refuse to go on where jax's devices are of another platform than was asked for."""
    if platform != environment["platform"]:
        raise ValueError(
            f"--platform={platform}: jax's device here is {environment['device']!r}, of platform "
            f"{environment['platform']!r}; pass --platform={environment['platform']} to try the command on it"
        )
