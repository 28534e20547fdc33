"""Settings to rows: every law over every kernel, a process for each kernel."""

from __future__ import annotations

import dataclasses
import pathlib
import threading
import time
from concurrent import futures

from attnzoo import Kernel, catalogue
from experiments.bench import locks, optional, parsing, provenance, records, workers
from experiments.bench.workers import Worker

# A law is about what may touch what, and not about speed, and most of the time of compiling goes into finding what is
# fastest.
# XLA's deterministic operations are not asked for: with them jax 0.11.2 has given wrong values on an H100.
XLA_FLAGS = {"gpu": "--xla_gpu_autotune_level=0"}
KEY = ("kernel", "law", "platform", "device", "jax", "commit", "dirty")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to hold to what."""

    kernels: tuple[Kernel, ...]
    laws: tuple[str, ...]
    platform: str
    minutes: float
    processes: int
    out: str

    def __post_init__(self):
        parsing.at_least(1, processes=self.processes)
        parsing.at_least(0.1, minutes=self.minutes)


def run(settings: Settings) -> int:
    """Check what is not decided yet, then draw; 1 if a law is broken or a process crashed."""
    environment = provenance.environment()
    workers.require(settings.platform, environment)
    out = pathlib.Path(settings.out)
    with locks.writing(out):
        todo = missing(settings, environment, records.read(out))
        deadline = time.monotonic() + 60 * settings.minutes
        lock = threading.Lock()

        def keep(row):
            with lock:
                records.append(out, row)
                print(describe(row), flush=True)

        with futures.ThreadPoolExecutor(settings.processes) as pool:
            jobs = [pool.submit(_check, kernel, laws, environment, deadline, keep) for kernel, laws in todo.items()]
            for job in jobs:
                job.result()
        rows = list(records.latest(records.read(out), KEY).values())
    optional.draw("experiments.conformance.plot", rows, out)
    asked = [row for row in rows if row["commit"] == environment["commit"]]
    counts = {status: sum(row["status"] == status for row in asked) for status in ("obeyed", "broken", "not run")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()) + f"; rows: {out}")
    return int(counts["broken"] > 0)


def missing(settings: Settings, environment: dict, rows: list[dict]) -> dict[Kernel, list[str]]:
    """Laws of each kernel that no row has decided at this commit."""
    decided = {key for key, row in records.latest(rows, KEY).items() if row["status"] == "obeyed"}
    todo = {}
    for kernel in settings.kernels:
        laws = [law for law in settings.laws if _cell(environment, kernel, law) not in decided]
        todo |= {kernel: laws} if laws else {}
    return todo


def _cell(environment, kernel, law):
    return records.cell(environment | {"kernel": repr(kernel), "law": law}, KEY)


def _check(kernel, laws, environment, deadline, keep):
    """Rows of one kernel; the law at which its process died is broken, those after it are not run."""
    xla_flags = XLA_FLAGS.get(environment["platform"], "")
    base = environment | {"kernel": repr(kernel), "name": catalogue.name_of(kernel), "xla_flags": xla_flags}
    task = {"kernel": catalogue.spelled(kernel), "laws": laws}
    worker = Worker("experiments.conformance.worker", task, deadline - time.monotonic(), xla_flags)
    left, current = list(laws), None
    for row in worker:
        current = row["law"]
        if row["status"] != "started":
            left.remove(current)
            keep(base | row)
            current = None
    for law in left:
        died = law == current and worker.ended != workers.LATE
        keep(base | {"law": law, "status": "broken" if died else "not run", "reason": worker.ended})


def describe(row: dict) -> str:
    """A line on a row."""
    told = f"{row['seconds']:.1f} s" if row["status"] == "obeyed" else row["reason"]
    return f"{row['status']:8} {row['kernel']}: {row['law']} ({told})"
