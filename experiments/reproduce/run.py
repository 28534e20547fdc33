"""Settings to rows: steps are timed here, models are trained by `experiments.accuracy`; then the ledger is written."""

from __future__ import annotations

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Iterator

from attnzoo import Kernel
from experiments.bench import progress, records
from experiments.bench.experiment import Cell, Experiment, Run
from experiments.reproduce import ledger, page, stepping, trainings
from experiments.reproduce.ledger import STEPS, Entry, Rows
from experiments.reproduce.presets import kernel, preset
from experiments.reproduce.published import Published, results
from experiments.reproduce.settings import Settings
from experiments.show import caveats, naming, units
from experiments.train import children
from experiments.train.sweep.cells import KEY as TRAINED


class Reproduce(Experiment):
    """Steps of speed and memory are cells; models of accuracies are other commands' cells."""

    name = "reproduce"
    key = stepping.KEY
    columns = ("shrink", "reference")
    caveats = (caveats.MACHINE, "Published speeds are of a TPU.")
    noun = "steps"
    leaves = "rows, figure and ledger"

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        yield [stepping.cell(settings, *pair) for pair in steps(settings)]

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        return stepping.rows(settings, todo)

    def describe(self, row: dict) -> str:
        head = f"{naming.short(row['kernel'])} {row['length']:,}"
        if row["status"] != "measured":
            return f"{head}: {row['status']}: {row['reason']}"
        return f"{head}: {units.program_text(row, row['needed_bytes'])}"

    def more(self, settings: Settings) -> int:
        """Train models."""
        codes = [0]
        for setting, texts in models(settings).items():
            codes.append(_train(setting, texts, settings.out))
            if codes[-1] not in (0, 1):
                return codes[-1]
        return max(codes)

    def shown(self, settings: Settings, rows: list[dict], own: list[dict]) -> list[Entry]:
        """The whole ledger, whatever flags name."""
        known = read(settings)
        return [ledger.entry(result, known, settings.out) for result in results()]

    def draw(self, settings: Settings, rows: list[Entry], out: pathlib.Path) -> None:
        from experiments.reproduce import plot

        plot.draw(rows, out)

    def show(self, settings: Settings, rows: list[Entry]) -> None:
        super().show(settings, rows)
        page.write(rows, read(settings), pathlib.Path(settings.out))
        counts = Counter(entry.judgement.verdict.value for entry in rows)
        print(", ".join(f"{count} {name}" for name, count in counts.items()))

    def list_cells(self, settings: Settings) -> int:
        rows = read(settings)
        entries = [ledger.entry(result, rows, settings.out) for result in settings.chosen()]
        header, lines = page.table(entries)
        progress.table("Results: nothing is measured", header[:-1], [line[:-1] for line in lines])
        _, todo = self.todo(settings)
        told = (f"\n{cell.subject!r} at {cell.row['length']:,}" for cell in todo)
        print(f"{len(todo)} steps to time" + "".join(told))
        for setting, texts in models(settings).items():
            print(f"{setting}: {trainings.command(setting, texts, settings.out)}")
        return 0


def steps(settings: Settings) -> list[tuple[Kernel, int]]:
    """Kernels and lengths that the chosen speeds and memories are of, those of the reference first."""
    chosen = [result for result in settings.chosen() if result.is_ratio]
    found = [(kernel(text), result.length) for result in chosen for text in _kernels(settings, result)]
    references = [(stepping.REFERENCE, length) for _, length in found]
    return list(dict.fromkeys(pair for pair in [*references, *found] if pair[0] is not None))


def models(settings: Settings) -> dict[str, list[str]]:
    """Kernels, as text, that each setting is to train."""
    found: dict[str, list[str]] = {}
    for result in settings.chosen():
        texts = [] if result.is_ratio else ledger.known(_kernels(settings, result))
        if texts:
            found.setdefault(trainings.name(result), []).extend(texts)
    return {setting: list(dict.fromkeys(texts)) for setting, texts in found.items()}


def _kernels(settings: Settings, result: Published) -> list[str | None]:
    """Those of a result, as text, in the forms that flags name."""
    return [getattr(preset(result), form) for form in settings.forms]


def read(settings: Settings) -> Rows:
    """The last row of each step of this size, and of each trained model."""
    out = pathlib.Path(settings.out)
    same = {"batch": settings.batch, **dataclasses.asdict(settings.sizes)}
    timed = records.latest(records.read(out), stepping.KEY).values()
    timed = [row for row in timed if all(row[name] == value for name, value in same.items())]
    return {STEPS: timed} | {
        setting: list(records.latest(records.read(out / setting), TRAINED).values()) for setting in trainings.TRAININGS
    }


def _train(setting: str, texts: list[str], out: str) -> int:
    print(f"$ {trainings.command(setting, texts, out)}", flush=True)
    return children.run(trainings.arguments(setting, texts, out))


EXPERIMENT = Reproduce()
run = EXPERIMENT.run
