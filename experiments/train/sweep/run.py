"""A sweep: every cell that has no row yet is trained in a process of its own, and what happened to it is a row."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator

from experiments.bench import experiment, outcome, placement, processes, progress, workers
from experiments.bench.workers import Worker
from experiments.show import caveats
from experiments.train.sweep import analysis, baselines, matching, models, prediction
from experiments.train.sweep.cells import KEY, Cell, cells, confirming
from experiments.train.sweep.settings import Settings
from experiments.train.sweep.waiting import Waiting
from experiments.train.termination import Termination

Told = Callable[[int], None]  # how many steps are done
_CHECKS = threading.Lock()  # jax works for one cell at a time in this process
OUT_OF_MEMORY = (
    "resource_exhausted",
    "memoryerror",
    "bad_alloc",
    "pthread_create",
    "cannot allocate memory",
    "failed to map segment",
)


class Sweep(experiment.Experiment):
    """A model for each task, kernel, positions, length, width, rate and seed."""

    name = "accuracy"
    key = KEY
    columns = ("task_name", "positions", "learning_rate")
    caveats = (caveats.SMALL, "Differences to softmax are paired by seed.")
    has_models = True
    keeps_programs = True
    summaries = staticmethod(analysis.summaries)

    def cells(self, settings: Settings) -> Iterator[list[experiment.Cell]]:
        yield [experiment.Cell(cell.row(settings), cell) for cell in cells(settings)]
        if settings.tuning_seeds:
            processes.agree("the end of tuning", None)  # by then the first has written its rows
            rate = functools.partial(self._rate, settings, self.last(self.read(pathlib.Path(settings.out))))
            yield [experiment.Cell(cell.row(settings), cell) for cell in confirming(settings, rate)]

    def _rate(self, settings: Settings, found: dict[tuple, dict], tuned: list[Cell]) -> float:
        """The rate that validation chooses by those of some cells that were tried; not a number where one was not."""
        rows = [found.get(self.identity(cell.row(settings))) for cell in tuned]
        return math.nan if None in rows else analysis.best(rows, ("learning_rate",))[0]["learning_rate"]

    def part(self, settings: Settings) -> str:
        return "" if settings.shard is None else "{}-of-{}".format(*settings.shard)

    def measure(self, settings: Settings, todo: list[experiment.Cell], run: experiment.Run) -> Iterator[dict]:
        """Measured, refused, diverged or failed, as they end; a cell that was stopped has no row yet."""
        shares = [0.0] * len(todo)  # that are done of cells at work

        def told(place: int, step: int) -> None:
            shares[place] = step / settings.steps
            run.reach(sum(shares))

        with Termination() as termination:
            for place, found in _ends(settings, [cell.subject for cell in todo], termination, told):
                cell, shares[place] = todo[place], 0.0
                if found["status"] != "stopped":
                    yield cell.row | found
                    run.reach(sum(shares))
                if found["status"] in ("measured", "diverged"):
                    models.forget(settings, cell.subject)  # not before its row is there: a kill would lose the model
            if processes.any_of(termination.is_asked):
                raise outcome.Stopped

    def describe(self, row: dict) -> str:
        head = f"{row['task']} {row['kernel']} {row['positions']} {row['length']:,}"
        head += f" width {row['width']} rate {row['learning_rate']:g} seed {row['seed']}"
        if row["status"] == "measured":
            seconds = row["train_seconds"] + row["compile_seconds"]
            return f"{head}: {analysis.score_text(row['metric'], row['score'])}, {seconds:.1f} s"
        return f"{head}: {row['status']}: {row['reason']}"

    def shown(self, settings: Settings, rows: list[dict], own: list[dict]) -> list[dict]:
        """Those of all shards; of others, some may not be there yet."""
        found = self.last(rows)
        every = itertools.chain.from_iterable(self.cells(dataclasses.replace(settings, shard=None)))
        identities = (self.identity(cell.row) for cell in every)
        return [found[identity] for identity in identities if identity in found]

    def draw(self, settings: Settings, rows: list[dict], out: pathlib.Path) -> None:
        from experiments.train.sweep import plot

        plot.draw(rows, analysis.summarise(rows), out)

    def show(self, settings: Settings, rows: list[dict]) -> None:
        progress.table("Accuracy on what was not seen", *analysis.table(analysis.summarise(rows)))
        super().show(settings, rows)

    def list_cells(self, settings: Settings) -> int:
        every, todo = self.todo(settings)
        predict = prediction.of(settings, self.read(pathlib.Path(settings.out)))
        lines, hours, refused = [], 0.0, 0
        for cell in every:
            refusal = models.refusal(settings, cell.subject)
            expected = 0.0 if refusal or cell not in todo else predict(cell.subject)
            hours, refused = hours + (expected or 0.0), refused + (refusal is not None and cell in todo)
            state = f"refused: {refusal['reason']}" if refusal else "to do" if cell in todo else "done"
            lines.append(_listed(cell, expected, state))
        header = ["task", "kernel", "positions", "length", "width", "learning rate", "seed", "hours", "state"]
        if settings.match == "state":
            header.insert(-1, "matched")
            for line, cell in zip(lines, every, strict=True):
                line.insert(-1, matching.text(settings, cell.subject))
        progress.table("Cells", header, lines)
        counted = f"{len(todo) - refused} of {len(every)} cells to do" + f", {refused} refused" * (refused > 0)
        print(f"{counted}, {hours:.2f} hours predicted, {predict.basis}")
        return 0

    def run(self, settings: Settings) -> int:
        if settings.is_apart:
            os.environ.update(workers.SHARED)  # this process, too, leaves the memory of devices to those of cells
        return super().run(settings)


def _listed(cell: experiment.Cell, hours: float | None, state: str) -> list[str]:
    return [
        *(cell.row[name] for name in ("task", "kernel", "positions")),
        *(f"{cell.row[name]:,}" for name in ("length", "width")),
        "that of tuning" if math.isnan(rate := cell.row["learning_rate"]) else f"{rate:g}",
        str(cell.row["seed"]),
        "" if hours is None else f"{hours:.3f}",
        state,
    ]


def _ends(
    settings: Settings, every: list[Cell], termination: Termination, told: Callable[[int, int], None]
) -> Iterator[tuple[int, dict]]:
    """The place of each cell, and how it ended; none is begun after the run was asked to end."""
    if not settings.is_apart:  # here: a thread gets no signal
        return _one_by_one(settings, every, termination, told)
    devices = placement.found(settings.jobs) if settings.jobs > 1 else None

    def job(waiting: Waiting) -> Iterator[tuple[int, dict]]:
        with devices.one() if devices else contextlib.nullcontext() as device:
            yield from _of_program(settings, waiting, termination, told, device)

    def assist() -> Iterator[tuple[int, dict]]:
        """Whoever has most to do is helped, until nobody has cells to spare."""
        while programs and (cells := max(programs, key=len).spared()):
            programs.append(Waiting(cells))
            yield from job(programs[-1])

    programs = list(map(Waiting, _processes(every, settings.jobs)))
    jobs = [functools.partial(job, waiting) for waiting in programs]
    if devices is None:
        return itertools.chain.from_iterable(each() for each in jobs)
    return workers.beside([*jobs, *[assist] * settings.jobs], settings.jobs)


def _processes(every: list[Cell], jobs: int) -> list[dict[int, Cell]]:
    """Cells by their places, those of a program in one process; in several where there are fewer programs than jobs."""
    programs: dict[Cell, list[tuple[int, Cell]]] = {}
    for place, cell in enumerate(every):
        programs.setdefault(cell.program, []).append((place, cell))
    parts = -(-jobs // max(len(programs), 1))
    return [dict(cells[part::parts]) for cells in programs.values() for part in range(min(parts, len(cells)))]


def _one_by_one(settings, every, termination, told) -> Iterator[tuple[int, dict]]:
    """Cells in this process, seed after seed."""
    for place, cell in enumerate(every):
        if processes.any_of(termination.is_asked):
            return
        refusal, known = _prepared(settings, cell)
        processes.agree(f"what is to be trained, {refusal or 'a model'}", refusal)
        if refusal is None and processes.any_of(termination.is_asked):
            return
        yield place, refusal or _ended_as(_here(settings, cell, functools.partial(told, place)), known, termination)


def _of_program(
    settings: Settings,
    waiting: Waiting,
    termination: Termination,
    told: Callable[[int, int], None],
    device: placement.Place | None,
) -> Iterator[tuple[int, dict]]:
    """Cells that share a program, by their places: in one process, and what one of them ends is taken up by another."""
    while waiting and not termination.is_asked:
        refusal, known = _prepared(settings, waiting.first()[1])
        if refusal is not None:
            yield from ((place, refusal) for place in waiting.dropped())
            return
        for place, row in _isolated(settings, waiting, termination, told, device):
            waiting.done(place)
            yield place, _ended_as(row, known, termination)


def _ended_as(row: dict, known: dict[str, float], termination: Termination) -> dict:
    """What became of a cell, with what is reached without a model; one that stopped stops all."""
    if termination.is_asked and row["status"] == "failed":
        row["status"] = "stopped"
    if row["status"] == "stopped":
        termination.ask()
    return row | ({"baselines": known} if row["status"] == "measured" else {})


def _prepared(settings: Settings, cell: Cell) -> tuple[dict | None, dict[str, float]]:
    """Why cells of a program are not trained, None where they are, and their baselines, which may take long."""
    try:
        with _CHECKS:
            refusal = models.refusal(settings, cell)
            return refusal, baselines.of(cell.task, cell.length) if refusal is None else {}
    except Exception as error:  # a kernel of someone else's, or data that are not there
        return outcome.failure(error), {}


def _here(settings: Settings, cell: Cell, told: Told) -> dict:
    try:
        return models.train(settings, cell, lambda progress: told(progress.step))
    except outcome.Stopped as stopped:
        return {"status": "stopped", "reason": str(stopped)}
    except processes.Lost:
        raise
    except Exception as error:  # one cell that fails must not take the others with it
        processes.met(error)
        return outcome.failure(error)


def handed(settings: Settings, device: placement.Place | None = None) -> dict:
    """What a process is told before any cell: plain values, and no tasks or kernels, which cells have.

    Nor is it told what an experiment asks of models beyond a sweep.
    """
    plain = dataclasses.asdict(dataclasses.replace(settings, tasks=(), kernels=(), positions=()))
    of_sweeps = {field.name: plain[field.name] for field in dataclasses.fields(Settings)}
    return {"settings": of_sweeps, "device": device}


def _isolated(settings, waiting: Waiting, termination, told, device) -> Iterator[tuple[int, dict]]:
    """How cells ended in a process of their own, up to the one that ended it; each is told when the last one is done,
    so that others may be spared meanwhile."""
    task, seconds = handed(settings, device), settings.minutes * 60 or None
    worker = Worker("experiments.train.sweep.worker", task, seconds, defaults=workers.HUGE_PAGES)
    place, cell = waiting.first()
    worker.tell(cell.told())
    with termination.reaching(worker):
        for said in worker:
            if "row" not in said:
                told(place, said["step"])
                continue
            worker.renew()
            yield place, said["row"]
            if not waiting:
                worker.tell(None)
                continue
            place, cell = waiting.first()
            worker.tell(cell.told())
    for warning in worker.warnings:
        print(warning, file=sys.stderr)
    if waiting:
        yield place, _ended(settings, worker)


def _ended(settings: Settings, worker: Worker) -> dict:
    """What a row says of a process that left none."""
    if worker.code == outcome.STOPPED:
        return {"status": "stopped", "reason": worker.ended}
    if worker.ended == workers.LATE:
        kept = "; what it has saved is kept, and the same command goes on from there" if settings.save_every else ""
        return {"status": "failed", "limit": "time", "reason": f"took more than --minutes={settings.minutes:g}{kept}"}
    if "SIGKILL" in worker.ended:
        return {"status": "failed", "limit": "memory", "reason": f"{worker.ended}: perhaps by a system out of memory"}
    is_ended = settings.memory and any(sign in worker.ended for sign in ("SIG", "SystemError"))  # by no word of memory
    if is_ended or any(sign in worker.ended.lower() for sign in OUT_OF_MEMORY):
        limit = f", --memory={settings.memory:g} GiB" if settings.memory else ""
        return {"status": "failed", "limit": "memory", "reason": f"out of memory{limit}: {worker.ended}"}
    return {"status": "failed", "reason": worker.ended}


EXPERIMENT = Sweep()
run = EXPERIMENT.run
