"""Settings to rows: each cell is counted, predicted, and measured if it fits."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from attnzoo import Dims, Kernel, catalogue
from experiments.bench import locks, memory, outcome, parsing, progress, provenance, records, timing, trust
from experiments.scaling import analysis, plot, prediction
from experiments.scaling.program import Program
from experiments.show import naming, units

# What makes two rows the same cell.
KEY = ("kernel", "pass", "length", "batch", *analysis.SETTING)
SUMMARY = "summary.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure; lengths in tokens, `cell_budget` in seconds."""

    kernels: tuple[Kernel, ...]
    lengths: tuple[int, ...]
    passes: tuple[str, ...]
    batch: int | None
    tokens: int | None
    heads: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    is_causal: bool
    repeats: int
    cell_budget: float
    seed: int
    out: str

    def __post_init__(self):
        if self.batch is not None and self.tokens is not None:
            raise ValueError("--batch and --tokens exclude each other: give one of them")
        parsing.at_least(1, batch=1 if self.batch is None else self.batch, heads=self.heads)
        parsing.at_least(1, num_kv_heads=self.num_kv_heads, head_dim=self.head_dim)
        parsing.at_least(5, repeats=self.repeats)
        parsing.at_least(1e-9, cell_budget=self.cell_budget)
        if self.heads % self.num_kv_heads:
            raise ValueError(f"--num_kv_heads={self.num_kv_heads} does not divide --heads={self.heads}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed={self.seed}: expected a number from 0 to {2**32 - 1}")
        if not self.out.strip():
            raise ValueError("--out is empty: name a folder for rows and figures")
        for length in self.lengths if self.tokens is not None else ():
            if self.tokens < 1 or self.tokens % length:
                raise ValueError(f"--tokens={self.tokens} is no multiple of length {length}: batches would differ")

    def batch_at(self, length: int) -> int:
        """Examples in a batch of this length."""
        return (self.batch or 1) if self.tokens is None else self.tokens // length

    def dims_at(self, length: int) -> Dims:
        """Sizes of a call at this length."""
        shape = (self.heads, self.num_kv_heads, self.head_dim, self.head_dim)
        return Dims(self.batch_at(length), length, length, *shape)


class Cell(NamedTuple):
    """One kernel, pass and length."""

    kernel: Kernel
    passed: str
    length: int


def cells(settings: Settings) -> Iterator[Cell]:
    """All cells, the kernels of one pass and length beside each other."""
    for passed, length, kernel in itertools.product(settings.passes, settings.lengths, settings.kernels):
        yield Cell(kernel, passed, length)


def run(settings: Settings) -> int:
    """Measure what is missing, then draw; 1 if a cell failed, or all were refused."""
    out = pathlib.Path(settings.out)
    with locks.writing(out):
        environment = provenance.environment()
        known = records.read(out)
        todo = missing(settings, environment, known)
        title = f"scaling: {len(todo)} of {len(list(cells(settings)))} cells to do"
        with progress.over(measure(settings, environment, todo, known), title, len(todo)) as each:
            for row in each:
                records.append(out, row)
                known.append(row)  # `measure` predicts longer lengths from it
                each.say(describe(row))
        return report(wanted(settings, environment, known), out)


def report(rows: list[dict], out: pathlib.Path) -> int:
    """Write and print what the rows say; 1 if a cell failed, or all were refused."""
    summary = analysis.summarise(rows)
    statements = [analysis.statement(entry) for entry in summary]
    (out / SUMMARY).write_text(json.dumps(statements, indent=1, allow_nan=False) + "\n")
    plot.draw(rows, summary, out)
    progress.table(f"Scaling: {analysis.setting_text(rows[0])}", *analysis.table(summary))
    print(analysis.METHOD)
    origins = {(row["commit"], row["dirty"], row["jax"]) for row in rows}
    if len(origins) > 1:
        print(f"note: rows of {len(origins)} commits or versions of jax; another --out measures all of them anew")
    print(f"rows, summary and figures: {out}")
    return outcome.code(rows)


def list_cells(settings: Settings) -> int:
    """Print every cell with its predicted cost; run none."""
    environment = provenance.environment()
    known = records.read(pathlib.Path(settings.out))
    todo = set(missing(settings, environment, known))
    header = ["kernel", "pass", "length", "GFLOP", "moved forward", "largest array", "a repetition", "state"]
    lines = [
        _listed(settings, cell, base(settings, environment, cell), known, cell in todo) for cell in cells(settings)
    ]
    progress.table("Cells: nothing is run", header, lines)
    print("Times are predicted once a shorter length of the same kernel has been measured into --out.")
    return 0


def _listed(settings, cell, row, known, is_missing) -> list[str]:
    head = [repr(cell.kernel), cell.passed, f"{cell.length:,}"]
    program = _program(settings, cell)
    refusal = program.refusal()
    if refusal is not None:
        return [*head, "", "", "", "", f"refused: {refusal}"]
    row |= program.counts()
    seconds = prediction.predict(row, known, cell.kernel.supports.work)
    costs = [
        "" if row["flops"] is None else f"{row['flops'] / 1e9:,.3g}",
        "" if row["cost_bytes"] is None else units.size_text(row["cost_bytes"]),
        units.size_text(program.largest_array()),
        "" if seconds is None else units.seconds_text(seconds),
    ]
    return [*head, *costs, "to do" if is_missing else "done"]


def missing(settings: Settings, environment: dict, rows: list[dict]) -> list[Cell]:
    """Cells without a row, those that failed, and those that did not fit and might now."""
    done = records.latest(rows, KEY)
    found = ((cell, done.get(records.cell(base(settings, environment, cell), KEY))) for cell in cells(settings))
    return [cell for cell, row in found if row is None or _again(row, settings.cell_budget)]


def _again(row: dict, budget: float) -> bool:
    is_slow = row["status"] == "skipped" and row["limit"] != "memory"
    return outcome.is_to_repeat(row) or (is_slow and row["cell_budget"] != budget)


def wanted(settings: Settings, environment: dict, rows: list[dict]) -> list[dict]:
    """The last row of each cell of these settings."""
    done = records.latest(rows, KEY)
    return [done[records.cell(base(settings, environment, cell), KEY)] for cell in cells(settings)]


def base(settings: Settings, environment: dict, cell: Cell) -> dict:
    """What identifies a row, and where it was made."""
    chosen = ("tokens", "heads", "num_kv_heads", "head_dim", "dtype", "is_causal", "repeats", "seed", "cell_budget")
    return environment | {
        "kernel": catalogue.identity(cell.kernel),
        "name": catalogue.name_of(cell.kernel),
        "pass": cell.passed,
        "length": cell.length,
        "batch": settings.batch_at(cell.length),
        **{name: getattr(settings, name) for name in chosen},
    }


def measure(settings: Settings, environment: dict, todo: Iterable[Cell], known: list[dict]) -> Iterator[dict]:
    """The row of each cell: refused, skipped, failed or measured.

    Kernels of one pass and length are compiled first and then timed in turns, one repetition each, so that what
    slows the machine for a while slows them all.
    """
    for _, group in itertools.groupby(todo, key=lambda cell: (cell.passed, cell.length)):
        ready = []
        for cell in group:
            row, call = prepare(settings, environment, cell, known)
            if call is None:
                yield row
            else:
                ready.append((row, call))
        yield from timing.take_turns(ready, settings.repeats)


def _program(settings: Settings, cell: Cell) -> Program:
    dims = settings.dims_at(cell.length)
    return Program(cell.kernel, dims, settings.dtype, settings.is_causal, cell.passed == "train")


def prepare(settings: Settings, environment: dict, cell: Cell, known: list[dict]) -> tuple[dict, timing.Call | None]:
    """A row and what is to be timed for it; None where the row is final, because nothing is."""
    row = base(settings, environment, cell)
    program = _program(settings, cell)
    try:
        refusal = program.refusal()
        if refusal is not None:
            return row | {"status": "refused", "reason": refusal}, None
        # In the causal form where there is one, whichever is timed: what leaks there is no such kernel, fast or not.
        is_causal = settings.is_causal or cell.kernel.supports.causal
        if found := trust.breach(cell.kernel, max(settings.lengths), is_causal=is_causal):
            return row | found, None
        row |= program.counts()
        predicted = prediction.predict(row, known, cell.kernel.supports.work)
        if predicted is None and prediction.may_be_slow(row):
            predicted = prediction.probe(program, row["flops"], settings.seed)
        row["predicted_seconds"] = predicted
        compiled, found = program.compiled
        row |= found
        skip = memory.does_not_fit(row) or timing.over_budget(row, predicted)
        if skip:
            return row | skip, None
        return row, functools.partial(compiled, *program.operands(settings.seed))
    except Exception as error:  # one cell that fails must not take the others with it
        return row | outcome.failure(error), None


def describe(row: dict) -> str:
    """One line about a finished row."""
    head = f"{naming.short(row['kernel'])} {row['pass']} {row['length']:,}"
    if row["status"] == "measured":
        low, high = map(units.seconds_text, row["quartiles"])
        median, size = units.seconds_text(row["median"]), units.size_text(row["temporary_bytes"])
        return f"{head}: {median} [{low}, {high}], {size}, compiled in {units.seconds_text(row['compile_seconds'])}"
    return f"{head}: {row['status']}: {row['reason']}"
