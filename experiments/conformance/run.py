"""Settings to rows: what is asked of implementations, then every law over every kernel, a process for each of them."""

from __future__ import annotations

import functools
import itertools
import time
from collections import Counter
from collections.abc import Iterator

from attnzoo import catalogue
from experiments.bench import processor, provenance, workers
from experiments.bench.experiment import Cell, Experiment, Run
from experiments.bench.workers import Worker
from experiments.conformance import analysis, routes
from experiments.conformance.settings import Settings

# A law is about what may touch what, and not about speed, and most of the time of compiling goes into finding what is
# fastest.
# XLA's deterministic operations are not asked for: with them jax 0.11.2 has given wrong values on an H100.
XLA_FLAGS = {"gpu": "--xla_gpu_autotune_level=0"}


class Conformance(Experiment):
    """A commit's laws, drawn with what earlier runs have left in the folder."""

    name = "conformance"
    key = ("kernel", "route", "law", "platform", "device", "jax", "commit", "dirty")
    columns = ("law",)
    caveats = ("Laws are tested on small inputs, on one device.",)
    noun = "laws"
    is_cumulative = True

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        shared = {"xla_flags": XLA_FLAGS.get(settings.platform, "")}
        told = lambda kernel: {"kernel": catalogue.identity(kernel), "name": catalogue.name_of(kernel)} | shared
        compared = itertools.product(settings.routes, settings.patterns)
        asked = [(kernel, routes.LAWS, {"route": route}) for route, kernel in compared]
        asked += [(kernel, settings.laws, {}) for kernel in settings.kernels]
        yield [Cell(told(kernel) | of | {"law": law}, kernel) for kernel, laws, of in asked for law in laws]

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        """Obeyed, broken, or not run, as processes tell it, several at a time."""
        deadline = time.monotonic() + 60 * settings.minutes
        together = lambda cell: (cell.subject, cell.row.get("route"))
        groups = [list(group) for _, group in itertools.groupby(todo, key=together)]
        jobs = [functools.partial(_checked, cells, deadline) for cells in groups]
        return workers.beside(jobs, settings.processes or processor.cores())

    def describe(self, row: dict) -> str:
        told = f"{row['seconds']:.1f} s" if row["status"] == "obeyed" else row["reason"]
        return f"{row['status']:8} {analysis.subject(row)}: {row['law']} ({told})"

    def show(self, settings: Settings, rows: list[dict]) -> None:
        """Beside the figure, what is said of this commit."""
        commit = provenance.environment()["commit"]
        counts = Counter(row["status"] for row in rows if row["commit"] == commit)
        print(", ".join(f"{counts[status]} {status}" for status in analysis.STATUSES))
        super().show(settings, rows)

    def run(self, settings: Settings) -> int:
        workers.require(settings.platform, provenance.environment())
        return super().run(settings)


def _checked(cells: list[Cell], deadline: float) -> Iterator[dict]:
    """Rows of one process; the law at which it died is broken, those after it are not run."""
    left = {cell.row["law"]: cell for cell in cells}
    first = cells[0].row
    task = {"kernel": catalogue.spelled(cells[0].subject), "laws": list(left), "route": first.get("route")}
    seconds, xla_flags = deadline - time.monotonic(), first["xla_flags"]
    worker = Worker("experiments.conformance.worker", task, seconds, xla_flags)
    current = None
    for said in worker:
        current = said["law"]
        if said["status"] != "started":
            yield left.pop(current).row | said
            current = None
    for law, cell in left.items():
        died = law == current and worker.ended != workers.LATE
        yield cell.row | {"status": "broken" if died else "not run", "reason": worker.ended}


EXPERIMENT = Conformance()
run = EXPERIMENT.run
