"""A sweep: every cell that has no row yet is trained in a process of its own, and what happened to it is a row."""

from __future__ import annotations

import dataclasses
import pathlib
import signal
import sys
from collections.abc import Callable, Iterable

from experiments.bench import command_line, locks, outcome, progress, provenance, records, workers
from experiments.bench.workers import Worker
from experiments.train import loop
from experiments.train.sweep import analysis, baselines, models, plot, prediction
from experiments.train.sweep.cells import KEY, Cell, Settings, cells

Told = Callable[[int], None]  # how many steps are done
OUT_OF_MEMORY = ("resource_exhausted", "memoryerror", "bad_alloc", "pthread_create", "cannot allocate memory")


def run(settings: Settings) -> int:
    """Train what is missing, then draw; 1 if a cell failed or diverged, or all were refused, `STOPPED` at SIGTERM."""
    out, part = pathlib.Path(settings.out), _part(settings)
    with locks.writing(out, part):
        environment, wanted = provenance.environment(), list(cells(settings))
        todo = missing(settings, wanted, records.read(out))
        total = len(todo) * settings.steps
        title = f"accuracy: {len(todo)} of {len(wanted)} cells to do"
        with progress.over(range(total), title, total) as each, _Termination() as termination:
            for number, cell in enumerate(todo):
                told = lambda step, before=number * settings.steps: each.reach(before + step)
                row = cell.row(settings) | environment | _outcome(settings, cell, termination, told)
                told(settings.steps)
                each.say(describe(row))
                if row["status"] != "stopped":
                    records.append(out, row, part)
                if row["status"] in ("measured", "diverged"):
                    models.forget(settings, cell)  # not before its row is there: a kill would lose what was learned
                if termination.is_asked:
                    each.say("stopped: the same command goes on from here")
                    return command_line.STOPPED
        found = records.latest(records.read(out), KEY)
    own, whole = (_keys(settings, chosen) for chosen in (wanted, cells(dataclasses.replace(settings, shard=None))))
    rows = [found[key] for key in whole if key in found]  # of other shards, some may not be there yet
    summary = analysis.summarise(rows)
    plot.draw(rows, summary, out)
    progress.table("Accuracy on what was not seen", *analysis.table(summary))
    print(f"rows and figures: {out}")
    return outcome.code(found[key] for key in own)


def _keys(settings: Settings, chosen: Iterable[Cell]) -> list:
    return [records.cell(cell.row(settings), KEY) for cell in chosen]


def list_cells(settings: Settings) -> int:
    """Print every cell and how long it should take; run none."""
    rows = records.read(pathlib.Path(settings.out))
    wanted = list(cells(settings))
    todo = {records.cell(cell.row(settings), KEY) for cell in missing(settings, wanted, rows)}
    predict = prediction.of(settings, rows)
    lines, hours = [], 0.0
    for cell in wanted:
        row = cell.row(settings)
        refusal = models.refusal(settings, cell)
        expected = 0.0 if refusal or records.cell(row, KEY) not in todo else predict(cell)
        hours += expected or 0.0
        state = f"refused: {refusal['reason']}" if refusal else "to do" if records.cell(row, KEY) in todo else "done"
        lines.append(
            [
                *(row[name] for name in ("task", "kernel", "positions")),
                *(f"{row[name]:,}" for name in ("length", "width")),
                f"{cell.learning_rate:g}",
                str(cell.seed),
                "" if expected is None else f"{expected:.3f}",
                state,
            ]
        )
    header = ["task", "kernel", "positions", "length", "width", "learning rate", "seed", "hours", "state"]
    progress.table("Cells", header, lines)
    print(f"{len(todo)} of {len(wanted)} cells to do, {hours:.2f} hours predicted, {predict.basis}")
    return 0


def missing(settings: Settings, wanted: list[Cell], rows: list[dict]) -> list[Cell]:
    """Cells without a row, or with one that says that they failed."""
    found = records.latest(rows, KEY)
    return [cell for cell in wanted if not records.is_done(cell.row(settings), found, KEY)]


def _part(settings: Settings) -> str:
    return "" if settings.shard is None else "{}-of-{}".format(*settings.shard)


def _outcome(settings: Settings, cell: Cell, termination: _Termination, told: Told) -> dict:
    """How a cell ended: measured, refused, diverged, failed, or stopped."""
    try:
        refusal = models.refusal(settings, cell)
        known = baselines.of(cell.task, cell.length) if refusal is None else {}  # now, since it may take long
    except Exception as error:  # a kernel of someone else's, or data that are not there
        return outcome.failure(error)
    if refusal is not None:
        return refusal
    row = _isolated(settings, cell, termination, told) if settings.isolate else _here(settings, cell, told)
    if termination.is_asked and row["status"] == "failed":
        row["status"] = "stopped"
    termination.is_asked |= row["status"] == "stopped"
    return row | ({"baselines": known} if row["status"] == "measured" else {})


def _here(settings: Settings, cell: Cell, told: Told) -> dict:
    try:
        return models.train(settings, cell, lambda progress: told(progress.step))
    except loop.Stopped as stopped:
        return {"status": "stopped", "reason": str(stopped)}
    except Exception as error:  # one cell that fails must not take the others with it
        return outcome.failure(error)


def handed(settings: Settings, cell: Cell) -> dict:
    """What the process of a cell is told: plain values, and no tasks or kernels but those of the cell."""
    plain = dataclasses.replace(settings, tasks=(), kernels=(), positions=())
    return {"settings": dataclasses.asdict(plain), "cell": cell.told()}


def _isolated(settings: Settings, cell: Cell, termination: _Termination, told: Told) -> dict:
    seconds = settings.minutes * 60 or None
    worker = Worker("experiments.train.sweep.worker", handed(settings, cell), seconds)
    termination.worker = worker
    row = None
    for said in worker:
        row = said.get("row", row)
        if "step" in said:
            told(said["step"])
    termination.worker = None
    for warning in worker.warnings:
        print(warning, file=sys.stderr)
    return row or _ended(settings, worker)


def _ended(settings: Settings, worker: Worker) -> dict:
    """What a row says of a process that left none."""
    if worker.code == command_line.STOPPED:
        return {"status": "stopped", "reason": worker.ended}
    if worker.ended == workers.LATE:
        kept = "; what it has saved is kept, and the same command goes on from there" if settings.save_every else ""
        return {"status": "failed", "limit": "time", "reason": f"took more than --minutes={settings.minutes:g}{kept}"}
    if "SIGKILL" in worker.ended:
        return {"status": "failed", "limit": "memory", "reason": f"{worker.ended}: perhaps by a system out of memory"}
    if any(sign in worker.ended.lower() for sign in OUT_OF_MEMORY) or (settings.memory and "SIG" in worker.ended):
        limit = f", --memory={settings.memory:g} GiB" if settings.memory else ""
        return {"status": "failed", "limit": "memory", "reason": f"out of memory{limit}: {worker.ended}"}
    return {"status": "failed", "reason": worker.ended}


class _Termination:
    """SIGTERM is handed on to the process at work, and ends the sweep after it."""

    def __init__(self):
        self.is_asked = False
        self.worker: Worker | None = None

    def __enter__(self):
        self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGTERM, self._before)

    def _ask(self, signum, frame):
        self.is_asked = True
        if self.worker is not None:
            self.worker.terminate()


def describe(row: dict) -> str:
    """One line about a row."""
    head = f"{row['task']} {row['kernel']} {row['positions']} {row['length']:,}"
    head += f" width {row['width']} rate {row['learning_rate']:g} seed {row['seed']}"
    if row["status"] == "measured":
        seconds = row["train_seconds"] + row["compile_seconds"]
        return f"{head}: {analysis.score_text(row['metric'], row['score'])}, {seconds:.1f} s"
    return f"{head}: {row['status']}: {row['reason']}"
