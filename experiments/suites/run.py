"""Suites, training after training, each by its own command line, and scores from their rows."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Container, Mapping
from typing import Any

from experiments.bench import progress, records
from experiments.bench.settings import parsed
from experiments.show import naming, statistics, tables
from experiments.suites import forecast, score
from experiments.suites.catalogue import SUITES
from experiments.suites.score import Setting
from experiments.suites.settings import Settings
from experiments.suites.suite import NOTHING, Suite, Training
from experiments.train import children
from experiments.train.sweep.cells import KEY
from experiments.train.sweep.settings import Settings as Sweep

SCORES = "scores.json"


def run(settings: Settings) -> int:
    """Train what the suites list, and tell scores; or tell what there is."""
    codes = [0]
    for name in settings.suites:
        suite, out = SUITES[name], pathlib.Path(settings.out) / settings.scale / name
        kernels = settings.kernels or suite.kernels
        trainings = suite.asked(settings.scale, kernels)
        if settings.dry_run:
            _listed(name, suite, kernels, out, settings)
            continue
        for training in trainings:
            codes.append(_train(training, kernels, out, settings.shared))
            if codes[-1] not in (0, 1):
                return codes[-1]
        if suite.is_scored:
            found = scored(suite, settings.scale, out, settings.every_seed)
            _keep(suite, found, out / SCORES)
            _told(name, suite, found)
    return max(codes)


def sweep(training: Training, kernels: str, shared: Mapping[str, Any] = NOTHING) -> Sweep:
    """The settings of a training."""
    return parsed(Sweep, **training.given(kernels, shared))


def settings_of(trainings: tuple[Training, ...]) -> list[Setting]:
    """What the parts of a suite consist of."""
    found = []
    for training in trainings:
        asked = parsed(Sweep, **training.flags)
        found += [Setting(repr(task), length, training.part) for task in asked.tasks for length in asked.lengths]
    return found


def scored(suite: Suite, scale: str, out: pathlib.Path, seeds: Container[int]) -> dict[tuple, score.Score]:
    """The score of each model of which there are rows with these seeds."""
    trainings = suite.trainings(scale)
    rows = [row for training in trainings for row in records.latest(records.read(out / training.name), KEY).values()]
    return score.scores([row for row in rows if row["seed"] in seeds], settings_of(trainings), suite.models)


def _train(training, kernels, out, shared) -> int:
    print(f"$ {training.command(kernels, out, shared)}", flush=True)
    return children.run(training.arguments(kernels, out, shared))


def _listed(name: str, suite: Suite, kernels: str, out: pathlib.Path, settings: Settings) -> None:
    scale, shared, trainings = settings.scale, settings.shared, suite.asked(settings.scale, kernels)
    sweeps = [sweep(training, kernels, shared) for training in trainings]
    refused = forecast.refused(sweeps)
    every = [forecast.trained(each, refused) for each in sweeps]
    print(f"\n{name}, {scale}: {suite.source}\ndiffers: {suite.differs}")
    if scale == "small":
        print(f"scaled: {suite.scaled}")
    for kernel, reason in refused.items():
        print(f"refused: {kernel}: {reason}")
    if settings.hours:
        print(_hours_text(trainings, list(map(forecast.operations, sweeps, every)), out))
    print(f"{sum(map(len, every)):,} models by {len(trainings):,} commands:")
    for training in trainings:
        print(training.command(kernels, out, shared))


def _hours_text(trainings: list[Training], counts: list[float], out: pathlib.Path) -> str:
    known = sum(count for count in counts if not math.isnan(count))
    rate, basis = forecast.rate(trainings, out)
    without = [training.name for training, count in zip(trainings, counts, strict=True) if math.isnan(count)]
    missing = f"; without {', '.join(without)}, whose data are not there or cannot be counted" if without else ""
    return f"{known:.2g} operations, {known / rate / 3600:,.2g} hours {basis}{missing}"


def _keep(suite: Suite, found: dict[tuple, score.Score], path: pathlib.Path) -> None:
    """Write scores as JSON, for other readers."""
    told = [
        dict(zip(suite.models, model, strict=True)) | each._asdict() | {"falling": sorted(each.falling)}
        for model, each in found.items()
    ]
    path.write_text(json.dumps(told, indent=1))


def _told(name: str, suite: Suite, found: dict[tuple, score.Score]) -> None:
    """A table of scores, a line a model."""
    parts = list(dict.fromkeys(part for each in found.values() for part in each.parts))
    shown = [column for column in ("kernel", "width") if column in suite.models]
    lines = []
    for model, each in found.items():
        values = dict(zip(suite.models, model, strict=True))
        told = [f"{100 * each.parts[part]:.1f}" if part in each.parts else "" for part in parts]
        scores = [100 * score for score in each.seeds.values() or [each.mean]] if each.mean is not None else []
        whole = tables.shares_text(scores, ".1f") if scores else f"{each.missing} settings missing"
        lines.append([*(naming.short(str(values[column])) for column in shown), *told, whole])
    progress.table(f"{name}: accuracy in %", [*shown, *parts, "score"], lines)
    doubts = [statistics.doubt(max(1, len(each.seeds))) for each in found.values()]
    print(next(filter(None, doubts), "") if lines else "There are no rows.")
