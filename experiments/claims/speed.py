"""Training tokens per second against length."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from flax import nnx

from experiments.bench import timing
from experiments.claims import candidates
from experiments.tasks.task import Examples
from experiments.train import steps

KEY = ("claim", "kernel", "length", "tokens", "width", "layers", "heads", "repeats", "platform", "device", "cores")
VOCABULARY = 256
BUDGET = 120.0  # seconds that the repetitions of a cell may take


def cells(settings) -> Iterator[dict]:
    """Lengths, each with all candidates, which take turns."""
    shared = {name: getattr(settings, name) for name in ("tokens", "width", "layers", "heads", "repeats")}
    for length in settings.lengths:
        for candidate in ("gru", *settings.kernels):
            yield shared | candidates.described(candidate) | {"length": length, "candidate": candidate}


def rows(settings, todo: list[dict]) -> Iterator[dict]:
    """The rows of cells, length by length."""
    for length in dict.fromkeys(cell["length"] for cell in todo):
        ready = []
        for cell in (cell for cell in todo if cell["length"] == length):
            refusal = candidates.refusal(cell["candidate"], max(settings.lengths))
            if refusal is not None:
                yield cell | refusal
                continue
            found, call = _step_of(settings, cell)
            ready.append((cell | found, call))
        for row in timing.take_turns(ready, settings.repeats):
            rate = {"tokens_per_second": row["batch_tokens"] / row["median"]} if row["status"] == "measured" else {}
            yield row | rate


def _step_of(settings, cell: dict):
    """What a row says of a training step, and the step as a call."""
    length = cell["length"]
    model = candidates.built(cell["candidate"], settings, VOCABULARY, length, seed=0)
    state = nnx.Optimizer(model, steps.adamw(steps.cosine(1e-3, 1000, 10)), wrt=nnx.Param)
    count = max(1, settings.tokens // length)
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(count, length + 1)).astype(np.int32)
    batch = Examples(tokens[:, :-1], tokens[:, 1:], np.ones((count, length), np.float32))
    found = {"batch_tokens": count * length, "parameters": steps.parameter_count(model), "cell_budget": BUDGET}
    return found, lambda: steps.step(model, state, batch)
