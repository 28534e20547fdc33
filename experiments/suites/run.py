"""Suites, training after training, each by its own command line, and scores from their rows."""

from __future__ import annotations

import pathlib
import subprocess
import sys

from experiments.bench import progress, records
from experiments.bench.settings import parsed
from experiments.show import naming
from experiments.suites import score
from experiments.suites.catalogue import SUITES
from experiments.suites.score import MODEL, Setting
from experiments.suites.settings import Settings
from experiments.suites.suite import Suite, Training
from experiments.train.sweep.cells import KEY, cells
from experiments.train.sweep.settings import Settings as Sweep


def run(settings: Settings) -> int:
    """Train what the suites list, and tell scores; or tell what there is."""
    codes = [0]
    for name in settings.suites:
        suite, out = SUITES[name], pathlib.Path(settings.out) / settings.scale / name
        kernels, trainings = settings.kernels or suite.kernels, suite.trainings(settings.scale)
        if settings.dry_run:
            _listed(name, suite, settings.scale, kernels, out)
            continue
        for training in trainings:
            codes.append(_train(training, kernels, out))
            if codes[-1] not in (0, 1):
                return abs(codes[-1])  # a part that was killed has a negative code
        if suite.is_scored:
            _told(name, scored(trainings, out))
    return max(codes)


def sweep(training: Training, kernels: str) -> Sweep:
    """The settings of a training."""
    return parsed(Sweep, **{"kernels": kernels} | dict(training.flags))


def settings_of(trainings: tuple[Training, ...]) -> list[Setting]:
    """What the parts of a suite consist of."""
    found = []
    for training in trainings:
        asked = sweep(training, "softmax")
        found += [Setting(repr(task), length, training.part) for task in asked.tasks for length in asked.lengths]
    return found


def scored(trainings: tuple[Training, ...], out: pathlib.Path) -> dict[tuple, score.Score]:
    """The score of each model of which there are rows."""
    rows = [row for training in trainings for row in records.latest(records.read(out / training.name), KEY).values()]
    return score.scores(rows, settings_of(trainings))


def _train(training, kernels, out) -> int:
    print(f"$ {training.command(kernels, out)}", flush=True)
    return subprocess.run([sys.executable, *training.arguments(kernels, out)]).returncode


def _listed(name: str, suite: Suite, scale: str, kernels: str, out: pathlib.Path) -> None:
    trainings = suite.trainings(scale)
    count = sum(len(list(cells(sweep(training, kernels)))) for training in trainings)
    print(f"\n{name}, {scale}: {suite.source}\ndiffers: {suite.differs}")
    if scale == "small":
        print(f"scaled: {suite.scaled}")
    print(f"{count:,} models by {len(trainings):,} commands:")
    for training in trainings:
        print(training.command(kernels, out))


def _told(name: str, found: dict[tuple, score.Score]) -> None:
    """A table of scores, a line a model."""
    parts = list(dict.fromkeys(part for each in found.values() for part in each.parts))
    lines = []
    for model, each in found.items():
        told = [f"{100 * each.parts[part]:.1f}" if part in each.parts else "" for part in parts]
        whole = f"{each.missing} settings missing" if each.mean is None else f"{100 * each.mean:.1f}"
        lines.append([naming.short(model[MODEL.index("kernel")]), str(model[MODEL.index("width")]), *told, whole])
    progress.table(f"{name}: accuracy in %", ["kernel", "width", *parts, "score"], lines)
    print("One seed supports no claim." if lines else "There are no rows.")
