"""Settings to rows: each cell is compiled in a process of its own, within its time."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import jax

from attnzoo import catalogue
from experiments.bench import workers
from experiments.bench.experiment import Cell, Experiment, Run
from experiments.bench.workers import Worker
from experiments.compiled import absent, analysis
from experiments.compiled.settings import Settings
from experiments.show import naming, units

CHOSEN = ("batch", "heads", "head_dim", "dtype", "operands", "is_causal", "cell_budget")  # settings in a row


class Compiled(Experiment):
    """Programs for devices that are not here, drawn with what earlier runs have left in the folder."""

    name = "compiled"
    key = ("target", "implementation", "kernel", "pass", "length", *analysis.SETTING, "jax", "compiler")
    columns = ("target", "least_bytes")
    caveats = (
        "Nothing was run: launches, bytes and memory are those of the compiled program, and times what they take at "
        "least by public figures of the device, each as if it were alone.",
        "Bytes know no caches: what is small and read again at once moves less than is told. What fills up tiles of a "
        "TPU counts, and what stays in its VMEM does not.",
        "A kernel of a library, such as cuDNN's, passes for one that reads operands once; one of Pallas, for one that "
        "moves what it says, which where its tiles are drawn is the most that there may be.",
        "Operations, tanh and exp among them, are taken to be as fast as those of matrix products.",
        "A launch is taken to last 3 µs on a GPU, and nothing on a TPU, which is given a whole program.",
    )
    is_cumulative = True

    def run(self, settings: Settings) -> int:
        jax.config.update("jax_platforms", "cpu")  # no other device is looked for
        for target in settings.targets:
            absent.compiler(target)
        return super().run(settings)

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        """Short lengths first, whose programs are ready soon."""
        axes = settings.targets, settings.lengths, settings.implementations, settings.kernels, settings.passes
        yield [Cell(_row(settings, *each), each[3]) for each in itertools.product(*axes)]

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        return workers.beside([functools.partial(_compiled, cell) for cell in todo], settings.jobs)

    def describe(self, row: dict) -> str:
        head = f"{row['target']} {naming.short(row['kernel'])} {row['pass']} {row['length']:,}"
        if row["status"] != "compiled":
            return f"{head}: {row['status']}: {row['reason']}"
        if row["launches"] is None:
            return f"{head}: {row['reason']}"
        moved = f"{units.size_text(row['moved_bytes'])} moved, {analysis.ratio(row):.3g} times what is needed"
        least = f", at least {units.seconds_text(row['roofline_seconds'])} by {row['bound']}"
        return f"{head}: launches {row['launches']:,}, {moved}{least * analysis.is_timed(row)}"


def _row(settings: Settings, target, length, implementation, kernel, passed) -> dict:
    """What identifies a row, beside where it is made."""
    return {
        "target": target,
        "implementation": implementation,
        "kernel": catalogue.identity(kernel),
        "name": catalogue.name_of(kernel),
        "pass": passed,
        "length": length,
        "num_kv_heads": settings.kv_heads,
        "value_dim": None if settings.value_dim == settings.head_dim else settings.value_dim,  # as in rows without it
        "compiler": absent.compiler(target),
        **{name: getattr(settings, name) for name in CHOSEN},
    }


def _compiled(cell: Cell) -> Iterator[dict]:
    """The row of a cell, also where its process did not come to say it."""
    task = {"row": cell.row, "kernel": catalogue.spelled(cell.subject)}
    worker, said = Worker("experiments.compiled.worker", task, cell.row["cell_budget"]), None
    for said in worker:
        yield cell.row | said
    if said is None and worker.ended == workers.LATE:
        reason = f"not compiled after {cell.row['cell_budget']:g} s"
        yield cell.row | {"status": "skipped", "limit": "budget", "reason": reason}
    elif said is None:
        yield cell.row | {"status": "failed", "reason": worker.ended}


EXPERIMENT = Compiled()
run = EXPERIMENT.run
