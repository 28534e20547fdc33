"""Settings to rows: the ceilings, then each implementation's cells in turn, each in the time that is left to it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from attnzoo import Kernel, SlidingWindow, Softmax, catalogue
from experiments.bench import provenance, workers
from experiments.bench.experiment import Cell, Experiment, Run
from experiments.bench.workers import Worker
from experiments.show import naming, units
from experiments.throughput import work
from experiments.throughput.settings import Settings
from experiments.throughput.work import useful_bytes, useful_flops

SIZES = ("length", "head_dim", "pass", "dtype", "tokens", "heads", "is_causal", "seed")
TOLD = ("dtype", "is_causal", "repeats", "seed", "matmul_size", "copy_bytes")  # to the process of an implementation


class Throughput(Experiment):
    """A process for each implementation, drawn with what earlier runs have left in the folder."""

    name = "throughput"
    key = ("implementation", "ceiling", "kernel", *SIZES, "platform", "device", "repeats")
    columns = ("implementation", "repeats")
    caveats = ("Shares are of what this device reached here, not of a data sheet.",)
    leaves = "rows, figures and table"
    is_cumulative = True

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        yield [Cell(row) for name in ("ceilings", *settings.implementations) for row in _rows(settings, name)]

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        """Each implementation in its share of the time that is left."""
        deadline = time.monotonic() + 60 * settings.minutes
        groups = [list(group) for _, group in itertools.groupby(todo, key=lambda cell: cell.row["implementation"])]
        for index, cells in enumerate(groups):
            yield from _measured(settings, cells, (deadline - time.monotonic()) / (len(groups) - index))

    def describe(self, row: dict) -> str:
        if "ceiling" in row:
            what = f"ceiling of {row['ceiling']}"
        else:
            kernel = naming.short(row["kernel"])
            what = f"{row['implementation']}, {kernel}, T={row['length']}, H={row['head_dim']}, {row['pass']}"
        if row["status"] != "measured":
            return f"{row['status']:8} {what}: {row['reason']}"
        rate = f"{row['rate']:.3g} per second" if "ceiling" in row else f"{row['flops_per_second'] / 1e12:.3g} TFLOP/s"
        return f"measured {what}: {units.seconds_text(row['median'])}, {rate}"

    def run(self, settings: Settings) -> int:
        workers.require(settings.platform, provenance.environment())
        return super().run(settings)


def _rows(settings: Settings, implementation: str) -> list[dict]:
    """What identifies the cells of an implementation, beside where they are measured."""
    shared = {"implementation": implementation, "dtype": settings.dtype, "repeats": settings.repeats}
    if implementation == "ceilings":
        return [shared | {"ceiling": name} for name in ("matmul", "copy")]
    shared |= {name: getattr(settings, name) for name in ("tokens", "heads", "is_causal", "seed")}
    kernels = [kernel for kernel in settings.kernels if _serves(implementation, kernel)]
    # The widest span of lengths first, so that a run that ends early has drawn the line already.
    lengths = sorted(settings.lengths, key=lambda length: (settings.lengths.index(length) % 2, length))
    axes = itertools.product(settings.head_dims, settings.passes, kernels, lengths)
    return [
        shared | {"kernel": catalogue.identity(kernel), "length": length, "head_dim": width, "pass": passed}
        for width, passed, kernel, length in axes
    ]


def _serves(implementation: str, kernel: Kernel) -> bool:
    """Whether an implementation has this kernel without a dense mask; that of PyTorch's SDPA would be one."""
    if implementation.startswith("attnzoo") or isinstance(kernel, Softmax):
        return True
    if implementation == "torch flex":
        return work.is_pattern(kernel)
    return isinstance(kernel, SlidingWindow) and work.is_pattern(kernel) and implementation != "torch SDPA"


def _measured(settings: Settings, cells: list[Cell], seconds: float) -> Iterator[dict]:
    """Rows of one implementation, with what each is worth.

    A cell at which its process died, or said nothing for `patience`, has failed; another process goes on behind it.
    """
    deadline, rows = time.monotonic() + seconds, [cell.row for cell in cells]
    while rows:
        task = {name: getattr(settings, name) for name in TOLD}
        task |= {"implementation": rows[0]["implementation"], "cells": rows}
        task["kernels"] = {catalogue.identity(kernel): catalogue.spelled(kernel) for kernel in settings.kernels}
        left = {_place(row): row for row in rows}
        seconds = deadline - time.monotonic()
        worker = Worker("experiments.throughput.worker", task, seconds, patience=settings.patience)
        for said in worker:
            row = left.pop(_place(said)) | said
            yield row | _worth(settings, row)
        rows = list(left.values())
        if worker.ended == workers.LATE:
            yield from (row | {"status": "not run", "reason": worker.ended} for row in rows)
            return
        if rows:
            yield rows.pop(0) | {"status": "failed", "reason": worker.ended or "it was passed over"}


def _place(row: dict) -> tuple:
    return tuple(row.get(name) for name in ("ceiling", "kernel", "length", "head_dim", "pass"))


def _worth(settings: Settings, row: dict) -> dict:
    """Operations and bytes per second that were of use."""
    if "ceiling" in row or row["status"] != "measured":
        return {}
    (kernel,) = [kernel for kernel in settings.kernels if catalogue.identity(kernel) == row["kernel"]]
    flops, moved = useful_flops(kernel, row), useful_bytes(row)
    rates = {"flops_per_second": flops / row["median"], "bytes_per_second": moved / row["median"]}
    return {"useful_flops": flops, "useful_bytes": moved} | rates


EXPERIMENT = Throughput()
run = EXPERIMENT.run
