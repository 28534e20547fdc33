"""Settings to rows: each cell is counted, predicted, and measured if it fits."""

from __future__ import annotations

import functools
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from attnzoo import Dims, Kernel, catalogue
from experiments.bench import asked, memory, mesh, progress, timing, trust
from experiments.bench.experiment import Cell, Experiment, Run
from experiments.bench.program import Program
from experiments.scaling import analysis, devices, prediction
from experiments.scaling.settings import Settings
from experiments.show import caveats, naming, tables, units

SUMMARY = "summary.json"
CHOSEN = ("tokens", "heads", "head_dim", "dtype", "repeats", "seed", "cell_budget")  # settings in a row


class Timed(NamedTuple):
    """One kernel, pass and length, on the devices of a mesh; of none, on one."""

    kernel: Kernel
    passed: str
    length: int
    mesh: str = ""


class Scaling(Experiment):
    """Kernels of one pass, length and mesh are compiled first and then timed in turns, one repetition each, so that
    what slows the machine for a while slows them all."""

    name = "scaling"
    key = ("kernel", "pass", "length", "batch", *analysis.SETTING, "mesh")
    columns = ("pass", "num_kv_heads", "cell_budget", "repeats")
    caveats = (
        caveats.MACHINE,
        "Exponents are slopes of straight lines through the logarithms of the last four lengths, with 95% intervals. "
        "Where a kernel becomes faster is where medians cross, with a bootstrap interval over repetitions.",
        "Operands are random: what kernels do whose work depends on data is not shown.",
    )
    leaves = "rows, summary and figures"

    def run(self, settings: Settings) -> int:
        if settings.mesh:
            mesh.provide(max(map(mesh.count, settings.mesh)))
        for named in settings.mesh:
            mesh.made(named)  # which there must be devices for
        return super().run(settings)

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        """The kernels of one pass, length and mesh beside each other."""
        axes = itertools.product(settings.passes, settings.lengths, settings.mesh or ("",), settings.kernels)
        timed = [Timed(kernel, passed, length, named) for passed, length, named, kernel in axes]
        yield [Cell(_row(settings, each), each) for each in timed]

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        prepare = functools.partial(_prepare, settings, run.known)
        for _, group in itertools.groupby(todo, key=lambda cell: cell.subject[1:]):
            yield from timing.in_turns(group, prepare, settings.repeats)

    def describe(self, row: dict) -> str:
        shared = f" over {row['mesh']}" if row.get("mesh") else ""
        causal = ", causal" if row["is_causal"] else ""
        head = f"{naming.short(row['kernel'])} {row['pass']} {row['length']:,}{shared}{causal}"
        if row["status"] != "measured":
            return f"{head}: {row['status']}: {row['reason']}"
        sent = f", {units.size_text(row['sent_bytes'])} sent" if row.get("sent_bytes") is not None else ""
        return f"{head}: {units.program_text(row, row['temporary_bytes'])}{sent}"

    def draw(self, settings: Settings, rows: list[dict], out: pathlib.Path) -> None:
        from experiments.scaling import plot, plot_devices

        if settings.mesh:
            plot_devices.draw(rows, out)
        else:
            plot.draw(rows, analysis.summarise(rows), out)

    def summaries(self, rows: list[dict]) -> list[tables.Table]:
        alone = [row for row in rows if not row.get("mesh")]
        return [*(analysis.summaries(alone) if alone else []), *devices.summaries(rows)]

    def show(self, settings: Settings, rows: list[dict]) -> None:
        if settings.mesh:
            _show_devices(rows)
        else:
            _show_growth(settings, rows)
        super().show(settings, rows)

    def list_cells(self, settings: Settings) -> int:
        known = self.read(pathlib.Path(settings.out))
        cells, todo = self.todo(settings)
        shared = ["mesh"] if settings.mesh else []
        header = [
            "kernel",
            "pass",
            "length",
            *shared,
            "GFLOP",
            "moved forward",
            "largest array",
            "a repetition",
            "state",
        ]
        lines = [_listed(settings, cell, known, cell in todo) for cell in cells]
        progress.table("Cells: nothing is run", header, lines)
        print("Times are predicted once a shorter length of the same kernel has been measured into --out.")
        return 0


def _show_growth(settings: Settings, rows: list[dict]) -> None:
    """Print how kernels grow with the length, and write it beside the rows."""
    summary = analysis.summarise(rows)
    statements = [analysis.statement(entry) for entry in summary]
    path = pathlib.Path(settings.out) / SUMMARY
    path.write_text(json.dumps(statements, indent=1, allow_nan=False) + "\n")
    progress.table(f"Scaling: {analysis.shared_text(rows)}", *analysis.table(summary))
    print(analysis.METHOD)
    origins = {(row["commit"], row["dirty"], row["jax"]) for row in rows}
    if len(origins) > 1:
        print(f"note: rows of {len(origins)} commits or versions of jax; another --out measures all of them anew")


def _show_devices(rows: list[dict]) -> None:
    """Print strong and weak scaling, or which of them the cells do not have, and why some were not measured."""
    for table in devices.summaries(rows):
        progress.table(*table)
    for kind, series in (("strong", devices.strong(rows)), ("weak", devices.weak(rows))):
        if series is None:
            print(f"no {kind} scaling: {devices.WANTED[kind]}")
    print("\n".join(devices.refusals(rows)))


def _listed(settings: Settings, cell: Cell, known: list[dict], is_missing: bool) -> list[str]:
    kernel, passed, length, named = cell.subject
    head = [repr(kernel), passed, f"{length:,}", *([named] if named else [])]
    program = _program(settings, cell.subject)
    refusal = program.refusal()
    if refusal is not None:
        return [*head, "", "", "", "", f"refused: {refusal}"]
    row = cell.row | program.counts()
    seconds = prediction.predict(row, known, kernel.supports.work)
    costs = [
        "" if row["flops"] is None else f"{row['flops'] / 1e9:,.3g}",
        "" if row["cost_bytes"] is None else units.size_text(row["cost_bytes"]),
        units.size_text(program.largest_array()),
        "" if seconds is None else units.seconds_text(seconds),
    ]
    return [*head, *costs, "to do" if is_missing else "done"]


def _row(settings: Settings, timed: Timed) -> dict:
    """What identifies a row, beside where it is made."""
    return {
        "kernel": catalogue.identity(timed.kernel),
        "name": catalogue.name_of(timed.kernel),
        "pass": timed.passed,
        "length": timed.length,
        "batch": settings.batch_at(timed.length),
        "num_kv_heads": settings.kv_heads,
        **{name: getattr(settings, name) for name in CHOSEN},
        "is_causal": _is_causal(settings, timed.kernel),
        **({"mesh": timed.mesh, "devices": mesh.count(timed.mesh)} if timed.mesh else {}),
    }


def _is_causal(settings: Settings, kernel: Kernel) -> bool:
    """Whether the future is hidden: always from kernels that have no other form, whose rows and lines say so."""
    return settings.is_causal or not kernel.supports.bidirectional


def _program(settings: Settings, timed: Timed) -> Program:
    shape = (settings.heads, settings.kv_heads, settings.head_dim, settings.head_dim)
    dims = Dims(settings.batch_at(timed.length), timed.length, timed.length, *shape)
    is_causal = _is_causal(settings, timed.kernel)
    return Program(timed.kernel, dims, settings.dtype, is_causal, timed.passed == "train", timed.mesh)


def _prepare(settings: Settings, known: list[dict], cell: Cell) -> timing.Call | None:
    """What is to be timed; None where the row is final, because nothing is."""
    kernel, row = cell.subject.kernel, cell.row
    program = _program(settings, cell.subject)
    refusal = program.refusal()
    if refusal is not None:
        return row.update(status="refused", reason=refusal)
    # In the causal form where there is one, whichever is timed: what leaks there is no such kernel, fast or not.
    is_causal = settings.is_causal or kernel.supports.causal
    is_trained = cell.subject.passed == "train"
    if found := trust.breach(kernel, max(settings.lengths), is_trained, is_causal=is_causal):
        return row.update(found)
    row.update(program.counts())
    predicted = prediction.predict(row, known, kernel.supports.work)
    if predicted is None and prediction.may_be_slow(row):
        predicted = prediction.probe(program, row["flops"], settings.seed)
    row["predicted_seconds"] = predicted
    compiled, found = program.compiled
    row.update(found)
    skip = memory.does_not_fit(row) or timing.over_budget(row, predicted)
    if skip:
        return row.update(skip)
    operands = program.operands(settings.seed)
    if found := asked.breach(program, operands):
        return row.update(found)
    return functools.partial(compiled, *operands)


EXPERIMENT = Scaling()
run = EXPERIMENT.run
