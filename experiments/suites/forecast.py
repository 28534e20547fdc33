"""What a suite would train and refuse, and how many operations that takes, before anything is trained."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Container, Iterable, Mapping
from typing import Any

from flax import nnx

from experiments.bench import records
from experiments.suites import kinds
from experiments.suites.suite import Training
from experiments.tasks.wrapped import Epochs
from experiments.train.sweep import models, prediction
from experiments.train.sweep.cells import Cell, cells, foreseen
from experiments.train.sweep.settings import Settings as Sweep

# On what it depends whether a model can be built for a cell: fields of its row.
BUILT = ("kernel", "positions", "metric", "is_causal", "pairing", "blocks", "layers", "norm")
# Settings of a sweep that no program of it knows.
UNSEEN = {
    "tasks": (), "kernels": (), "positions": (), "learning_rates": (1.0,), "seeds": 1, "first_seed": 0,
    "tuning_seeds": 0, "steps": 2, "warmup": 0, "weight_decay": 0.0, "test_examples": 1, "validate_every": 0,
    "patience": 0, "until": 0.0, "jobs": 1, "out": "", "start_from": "",
}  # fmt: skip


def refused(sweeps: Iterable[Sweep]) -> dict[str, str]:
    """Why no model can be built with a kernel, by its text; models that differ in width alone are asked once."""
    found, asked = {}, set()
    for sweep in sweeps:
        for cell in cells(sweep):
            row = cell.asked(sweep)
            identity = tuple(row[name] for name in BUILT)
            if identity in asked:
                continue
            asked.add(identity)
            try:
                nnx.eval_shape(functools.partial(models.build, sweep, cell))
            except (NotImplementedError, ValueError) as error:
                found.setdefault(kinds.text(cell.kernel), str(error))
    return found


def trained(sweep: Sweep, refused: Container[str]) -> list[Cell]:
    """The models of a sweep but for those of refused kernels."""
    return [cell for cell in foreseen(sweep) if kinds.text(cell.kernel) not in refused]


def operations(sweep: Sweep, every: list[Cell]) -> float:
    """Of training all these models of a sweep; the first kernel is counted, and stands for others of its width.

    NaN where they cannot be counted, or data are not there.
    """
    return sum(_of_step(sweep, dataclasses.replace(cell, kernel=every[0].kernel)) for cell in every) * sweep.steps


def rate(trainings: Iterable[Training], out: pathlib.Path) -> tuple[float, str]:
    """Operations in a second that rows in the folders of trainings have reached, or a guess, and which of both."""
    return prediction.rate([row for training in trainings for row in records.read(out / training.name)])


def _of_step(sweep: Sweep, cell: Cell) -> float:
    task = cell.task.inner if isinstance(cell.task, Epochs) else cell.task
    unseen: Mapping[str, Any] = UNSEEN
    try:
        counted = _counted(dataclasses.replace(sweep, **unseen), dataclasses.replace(cell.program, task=task))
    except OSError:
        return math.nan
    return math.nan if counted is None else counted


_counted = functools.cache(models.step_flops)
