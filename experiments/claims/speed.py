"""Training tokens per second against length."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator

import numpy as np
from flax import nnx

from experiments.bench import timing
from experiments.bench.experiment import Cell
from experiments.claims import candidates
from experiments.tasks.task import Examples
from experiments.train import asked, steps

KEY = ("claim", "kernel", "length", "tokens", "width", "layers", "heads", "repeats", "platform", "device", "cores")
VOCABULARY = 256
BUDGET = 120.0  # seconds that the repetitions of a cell may take


def cells(settings) -> Iterator[Cell]:
    """Lengths, each with all candidates, which take turns."""
    shared = {name: getattr(settings, name) for name in ("tokens", "width", "layers", "heads", "repeats")}
    shared |= {"cell_budget": BUDGET}
    for length in settings.lengths:
        for candidate in ("gru", *settings.kernels):
            yield Cell(shared | candidates.described(candidate) | {"length": length}, candidate)


def rows(settings, todo: list[Cell]) -> Iterator[dict]:
    """The rows of cells, length by length."""
    for _, group in itertools.groupby(todo, key=lambda cell: cell.row["length"]):
        for row in timing.in_turns(group, functools.partial(_prepare, settings), settings.repeats):
            rate = {"tokens_per_second": row["batch_tokens"] / row["median"]} if row["status"] == "measured" else {}
            yield row | rate


def _prepare(settings, cell: Cell) -> timing.Call | None:
    """A training step as a call; the row takes what is to be said of it."""
    if refusal := candidates.refusal(cell.subject, max(settings.lengths)):
        return cell.row.update(refusal)
    length = cell.row["length"]
    model = candidates.built(cell.subject, settings, VOCABULARY, length, seed=0)
    state = nnx.Optimizer(model, steps.adamw(steps.cosine(1e-3, 1000, 10)), wrt=nnx.Param)
    count = max(1, settings.tokens // length)
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(2, count, length + 1)).astype(np.int32)
    batch, other = (Examples(x[:, :-1], x[:, 1:], np.ones((count, length), np.float32)) for x in tokens)
    if refusal := asked.of_batches(model, candidates.kernels(cell.subject), [batch, other], is_learned=True):
        return cell.row.update(refusal)
    cell.row.update(batch_tokens=count * length, parameters=steps.parameter_count(model))
    step, start = steps.Stepping(model, state), time.perf_counter()
    step.lower(batch).compile()  # the program is kept, so that no repetition is taken for as long as this
    cell.row.update(compile_seconds=time.perf_counter() - start)
    return functools.partial(step, batch)
