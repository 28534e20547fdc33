"""Recalling the first tokens, against the distance to them: one model for all distances, which come in turns."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from experiments.bench.experiment import Cell, one_by_one
from experiments.claims import candidates
from experiments.tasks.recall import Recall
from experiments.tasks.task import Examples, accuracy
from experiments.train import asked, loop, steps

KEY = ("claim", "kernel", "distances", "seed", "tokens", "steps", "width", "layers", "heads", "learning_rate")
TASK = Recall()
TESTED = 64  # examples of each distance
AT_ONCE = 8


def cells(settings) -> Iterator[Cell]:
    """Seed after seed, so that an interrupted run has whole comparisons."""
    names = ("tokens", "steps", "width", "layers", "heads", "learning_rate")
    shared = {name: getattr(settings, name) for name in names} | {"distances": list(settings.distances)}
    for seed in range(settings.seeds):
        for candidate in (*candidates.RECURRENT, *settings.kernels):
            yield Cell(shared | candidates.described(candidate) | {"seed": seed}, candidate)


def rows(settings, todo: list[Cell]) -> Iterator[dict]:
    """The rows of cells."""
    return one_by_one(todo, functools.partial(_trained, settings))


def _trained(settings, cell: Cell) -> dict:
    longest, seed = TASK.length(max(settings.distances)), cell.row["seed"]
    if refusal := candidates.refusal(cell.subject, longest):
        return refusal
    model = candidates.built(cell.subject, settings, TASK.vocabulary, longest, seed)
    lengths = [TASK.length(distance) for distance in settings.distances]
    count = lambda length: max(1, settings.tokens // length)
    breach = functools.partial(asked.breach, model, candidates.kernels(cell.subject), TASK)
    for length in dict.fromkeys(lengths):
        if refusal := breach(length, count(length), is_learned=True):
            return refusal

    def batch(step: int) -> Examples:
        length = lengths[step % len(lengths)]
        return TASK.batch("train", seed, step * settings.tokens, count(length), length)

    plan = loop.Plan(settings.steps, settings.learning_rate, warmup=settings.steps // 20)
    trained = loop.fit(model, batch, plan)
    found = {"parameters": steps.parameter_count(model), "train_seconds": trained.seconds, "curve": trained.curve}
    found["devices"] = trained.devices
    if trained.diverged is not None:
        return found | {"status": "diverged", "reason": f"the loss was no number at step {trained.diverged:,}"}
    refusals = (breach(length, AT_ONCE) for length in dict.fromkeys(lengths))
    if refusal := next(filter(None, refusals), None):
        return refusal
    return found | {"status": "measured", "accuracies": [_recalled(model, x, seed) for x in settings.distances]}


def _recalled(model, distance: int, seed: int) -> float:
    """The share of symbols recalled over a distance."""
    model.eval()
    tested = steps.testing(model)
    batches = [TASK.batch("test", seed, i, AT_ONCE, TASK.length(distance)) for i in range(0, TESTED, AT_ONCE)]
    return float(np.mean([accuracy(batch, np.asarray(tested(batch)[1])) for batch in batches]))
