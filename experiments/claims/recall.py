"""Recalling the first tokens, against the distance to them."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from experiments import steps, training
from experiments.claims import candidates
from experiments.tasks import recall
from experiments.tasks.task import Examples, accuracy

KEY = ("claim", "kernel", "distance", "seed", "tokens", "steps", "width", "layers", "heads", "learning_rate")
TEST_BATCHES = 8


def cells(settings) -> Iterator[dict]:
    """Seed after seed, so that an interrupted run has whole comparisons."""
    names = ("tokens", "steps", "width", "layers", "heads", "learning_rate")
    shared = {name: getattr(settings, name) for name in names}
    for seed in range(settings.seeds):
        for distance in settings.distances:
            for candidate in (*candidates.RECURRENT, *settings.kernels):
                found = candidates.described(candidate) | {"distance": distance, "seed": seed}
                yield shared | found | {"candidate": candidate}


def rows(settings, todo: list[dict]) -> Iterator[dict]:
    """The rows of cells."""
    for cell in todo:
        reason = candidates.refusal(cell["candidate"])
        yield cell | ({"status": "refused", "reason": reason} if reason else _trained(settings, cell))


def _trained(settings, cell: dict) -> dict:
    length = 2 * recall.COUNT + cell["distance"]
    count = max(1, settings.tokens // length)
    model = candidates.built(cell["candidate"], settings, recall.VOCABULARY, length, cell["seed"])
    batch = lambda split, index: Examples(*recall.batch(cell["seed"], split, index, count, cell["distance"]))
    plan = training.Plan(settings.steps, settings.learning_rate, warmup=settings.steps // 20)
    trained = training.fit(model, functools.partial(batch, "train"), plan)
    found = {"parameters": steps.parameter_count(model), "train_seconds": trained.seconds, "curve": trained.curve}
    if trained.diverged is not None:
        return found | {"status": "diverged", "reason": f"the loss was no number at step {trained.diverged:,}"}
    right = [_right(model, batch("test", index)) for index in range(TEST_BATCHES)]
    return found | {"status": "measured", "accuracy": float(np.mean(right))}


def _right(model, batch: Examples) -> float:
    """The share of symbols recalled."""
    _, said = steps.tested(model, batch)
    return accuracy(batch, np.asarray(said))
