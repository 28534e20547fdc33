"""Settings to rows: the ceilings, then each implementation's cells in turn, each in the time that is left to it."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import time

from attnzoo import Kernel, SlidingWindow, Softmax, catalogue
from experiments.bench import locks, optional, outcome, parsing, provenance, records, workers
from experiments.bench.workers import Worker
from experiments.show import naming, units
from experiments.throughput.work import useful_bytes, useful_flops

IMPLEMENTATIONS = ("attnzoo", "attnzoo xla", "jax.nn cudnn", "torch SDPA", "torch flex", "jax.nn")
SIZES = ("length", "head_dim", "pass", "dtype", "tokens", "heads", "is_causal", "seed")
KEY = ("implementation", "ceiling", "kernel", *SIZES, "platform", "device", "repeats")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to time."""

    kernels: tuple[Kernel, ...]
    lengths: tuple[int, ...]
    head_dims: tuple[int, ...]
    passes: tuple[str, ...]
    implementations: tuple[str, ...]
    tokens: int
    heads: int
    dtype: str
    is_causal: bool
    repeats: int
    matmul_size: int
    copy_bytes: int
    platform: str
    minutes: float
    seed: int
    out: str

    def __post_init__(self):
        parsing.at_least(1, tokens=self.tokens, heads=self.heads, matmul_size=self.matmul_size)
        parsing.at_least(8, copy_bytes=self.copy_bytes)
        parsing.at_least(5, repeats=self.repeats)
        parsing.at_least(0.1, minutes=self.minutes)
        parsing.at_least(0, seed=self.seed)


def run(settings: Settings) -> int:
    """Time what is missing, then draw; 1 if a cell failed, or all were refused."""
    environment = provenance.environment()
    workers.require(settings.platform, environment)
    out = pathlib.Path(settings.out)
    deadline = time.monotonic() + 60 * settings.minutes
    with locks.writing(out):
        todo = missing(settings, environment, records.read(out))
        for index, (implementation, cells) in enumerate(todo):
            share = (deadline - time.monotonic()) / (len(todo) - index)
            for row in _rows(settings, implementation, cells, share):
                records.append(out, environment | row)
                print(describe(row), flush=True)
        rows = list(records.latest(records.read(out), KEY).values())
    optional.draw("experiments.throughput.plot", rows, out)
    print(f"rows, figures and table: {out}")
    return outcome.code(rows)


def missing(settings: Settings, environment: dict, rows: list[dict]) -> list[tuple[str, list[dict]]]:
    """Implementations with their cells that no row has measured, nor found not to fit."""
    done = {key for key, row in records.latest(rows, KEY).items() if row["status"] in ("measured", "skipped")}
    todo = []
    for name in ("ceilings", *settings.implementations):
        undone = [cell for cell in _cells(settings, name) if records.cell(environment | cell, KEY) not in done]
        todo += [(name, undone)] if undone else []
    return todo


def _cells(settings: Settings, implementation: str) -> list[dict]:
    shared = {"implementation": implementation, "dtype": settings.dtype, "repeats": settings.repeats}
    if implementation == "ceilings":
        return [shared | {"ceiling": name} for name in ("matmul", "copy")]
    shared |= {name: getattr(settings, name) for name in ("tokens", "heads", "is_causal", "seed")}
    kernels = [kernel for kernel in settings.kernels if _serves(implementation, kernel)]
    # The widest span of lengths first, so that a run that ends early has drawn the line already.
    lengths = sorted(settings.lengths, key=lambda length: (settings.lengths.index(length) % 2, length))
    axes = itertools.product(settings.head_dims, settings.passes, kernels, lengths)
    return [
        shared | {"kernel": repr(kernel), "length": length, "head_dim": width, "pass": passed}
        for width, passed, kernel, length in axes
    ]


def _serves(implementation: str, kernel: Kernel) -> bool:
    """Whether an implementation has this kernel without a dense mask; that of PyTorch's SDPA would be one."""
    if implementation.startswith("attnzoo"):
        return True
    plain = isinstance(kernel, SlidingWindow) and kernel.dilation == 1 and not kernel.global_tokens
    return isinstance(kernel, Softmax) or (plain and implementation != "torch SDPA")


def _rows(settings: Settings, implementation: str, cells: list[dict], seconds: float):
    """Rows of one implementation, with what each is worth; cells that its process did not come to say why."""
    names = ("dtype", "is_causal", "repeats", "seed", "matmul_size", "copy_bytes")
    task = {name: getattr(settings, name) for name in names} | {"implementation": implementation, "cells": cells}
    task["kernels"] = {repr(kernel): catalogue.spelled(kernel) for kernel in settings.kernels}
    worker, left = Worker("experiments.throughput.worker", task, seconds), {_place(cell): cell for cell in cells}
    for row in worker:
        cell = left.pop(_place(row))
        yield cell | row | _worth(settings, cell, row)
    for index, cell in enumerate(left.values()):
        crashed = index == 0 and worker.ended != "no time left"
        yield cell | {"status": "failed" if crashed else "not run", "reason": worker.ended}


def _place(row: dict) -> tuple:
    return tuple(row.get(name) for name in ("ceiling", "kernel", "length", "head_dim", "pass"))


def _worth(settings: Settings, cell: dict, row: dict) -> dict:
    """Operations and bytes per second that were of use."""
    if "ceiling" in cell or row["status"] != "measured":
        return {}
    (kernel,) = [kernel for kernel in settings.kernels if repr(kernel) == cell["kernel"]]
    flops, moved = useful_flops(kernel, cell), useful_bytes(cell)
    rates = {"flops_per_second": flops / row["median"], "bytes_per_second": moved / row["median"]}
    return {"useful_flops": flops, "useful_bytes": moved} | rates


def describe(row: dict) -> str:
    """A line on a row."""
    if "ceiling" in row:
        what = f"ceiling of {row['ceiling']}"
    else:
        kernel = naming.short(row["kernel"])
        what = f"{row['implementation']}, {kernel}, T={row['length']}, H={row['head_dim']}, {row['pass']}"
    if row["status"] != "measured":
        return f"{row['status']:8} {what}: {row['reason']}"
    rate = f"{row['rate']:.3g} per second" if "ceiling" in row else f"{row['flops_per_second'] / 1e12:.3g} TFLOP/s"
    return f"measured {what}: {units.seconds_text(row['median'])}, {rate}"
