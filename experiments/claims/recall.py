"""Recalling the first tokens, against the distance to them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from flax import nnx

from experiments import training
from experiments.claims import candidates
from experiments.tasks import recall

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
    transform = training.optimizer(settings.learning_rate, settings.steps, settings.steps // 20)
    batches = lambda split, number: (
        training.Batch(*recall.batch(cell["seed"], split, index, count, cell["distance"])) for index in range(number)
    )
    trained = training.train(model, batches("train", settings.steps), transform)
    found = {"parameters": training.parameter_count(model), "train_seconds": trained.seconds, "curve": trained.curve}
    if trained.diverged:
        return found | {"status": "diverged", "reason": "the loss was no number"}
    right = [_right(model, batch) for batch in batches("test", TEST_BATCHES)]
    return found | {"status": "measured", "accuracy": float(np.mean(right))}


def _right(model, batch: training.Batch) -> float:
    """The share of symbols recalled."""
    said = np.asarray(_logits(model, batch.inputs).argmax(axis=-1))[:, -recall.COUNT :]
    return float((said == batch.targets[:, -recall.COUNT :]).mean())


@nnx.jit
def _logits(model, inputs):
    return model(inputs)
