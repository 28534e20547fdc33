"""What a step of training costs: LRA's text classifier with each kernel, in time and in memory, relative to softmax.

The model is that of LRA's public configuration: 4 layers of width 256 with 4 heads and 1,024 in between, norms before,
the answer read at a learned first token; 257 symbols, two classes, random bytes of full length. A step is forward,
backward and Adam. Left out are dropout, whose random numbers cost a CPU far more than a TPU, and the mask of a padding
that is not there.

Kernels of one length take turns, so that what slows the machine slows them all, beside the reference: softmax that
keeps its scores, as theirs did. Each row has the reference's times of the same turns. Memory is what the compiler
plans: arguments, results and temporary arrays. Published numbers are of a batch of 32 on 16 chips; here the batch is a
flag, 1 unless given.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnzoo import Kernel, catalogue
from attnzoo.models import BlockConfig, Classifier
from attnzoo.positions import SinusoidalPositions
from experiments.bench import timing, trust
from experiments.bench.experiment import Cell
from experiments.bench.memory import does_not_fit, planned
from experiments.reproduce.public import MaterialisedSoftmax
from experiments.show import statistics
from experiments.show.statistics import Mean
from experiments.tasks.task import Examples
from experiments.train import steps

REFERENCE = MaterialisedSoftmax()
VOCABULARY, CLASSES = 257, 2
BUDGET = 240.0  # seconds that the repetitions of a cell may take
SIZES = ("width", "heads", "layers", "feed_forward", "shrink")
KEY = ("kernel", "length", "batch", *SIZES, "platform", "device", "cores")


def cell(settings, kernel: Kernel, length: int) -> Cell:
    """A step to be timed."""
    shared = {"length": length, "batch": settings.batch, **dataclasses.asdict(settings.sizes)}
    return _of(kernel, shared | {"repeats": settings.repeats, "cell_budget": BUDGET})


def _of(kernel: Kernel, row: dict) -> Cell:
    return Cell(row | {"kernel": repr(kernel), "name": catalogue.name_of(kernel)}, kernel)


def rows(settings, todo: list[Cell]) -> Iterator[dict]:
    """The rows of cells, length by length; the reference is timed again with each."""
    for length in dict.fromkeys(cell.row["length"] for cell in todo):
        others = [cell for cell in todo if cell.row["length"] == length and cell.subject != REFERENCE]
        first = next(cell for cell in todo if cell.row["length"] == length)
        group = [_of(REFERENCE, first.row), *others]
        found = list(timing.in_turns(group, functools.partial(_prepare, settings), settings.repeats))
        [reference] = [row for row in found if row["kernel"] == repr(REFERENCE)]
        beside = {"seconds": reference.get("seconds"), "needed_bytes": reference.get("needed_bytes")}
        for row in found:
            yield row | {"reference": beside}
        jax.clear_caches()
        gc.collect()  # models hold gigabytes


def _prepare(settings, cell: Cell) -> timing.Call | None:
    """The step to be timed; the row takes what it needs, and is final where there is no call."""
    kernel, row = cell.subject, cell.row
    if found := trust.breach(kernel, row["length"]):
        return row.update(found)
    model, state, batch = _training(settings, kernel, row["length"] // settings.sizes.shrink)
    step, start = steps.Stepping(model, state), time.perf_counter()
    compiled = step.lower(batch).compile()
    row.update(compile_seconds=time.perf_counter() - start, parameters=steps.parameter_count(model))
    row.update(planned(compiled))
    if skip := does_not_fit(row):
        return row.update(skip)
    return functools.partial(step, batch)


def _training(settings, kernel: Kernel, length: int):
    """The model, its optimizer, and a batch."""
    sizes = settings.sizes
    config = BlockConfig(width=sizes.width, num_heads=sizes.heads, feed_forward=sizes.feed_forward)
    given = {"max_length": length, "num_layers": sizes.layers, "attention": kernel, "pooling": "cls"}

    def made():
        model = Classifier(VOCABULARY, CLASSES, config, **given, positions=SinusoidalPositions(), rngs=nnx.Rngs(0))
        return model, nnx.Optimizer(model, steps.adamw(steps.rsqrt(5.59e-4, 8000)), wrt=nnx.Param)

    model, state = nnx.eval_shape(made)
    rng = np.random.default_rng(0)
    nnx.update(model, jax.tree.map(lambda x: _filled(rng, x), nnx.state(model)))
    nnx.update(state, jax.tree.map(_empty, nnx.state(state)))
    inputs = rng.integers(VOCABULARY - 1, size=(settings.batch, length)).astype(np.int32)
    answers = rng.integers(CLASSES, size=settings.batch).astype(np.int32)
    return model, state, Examples(inputs, answers, np.ones(settings.batch, np.float32))


def _filled(rng, x):
    """Small numbers in place of a weight's shape: to compile initialisers one by one takes longer."""
    return jnp.asarray(rng.normal(size=x.shape) * 0.02, x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else _empty(x)


def _empty(x):
    """A key, or zeros, in place of a shape."""
    return (
        jax.random.key(0) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.asarray(np.zeros(x.shape, x.dtype))
    )


def speed(row: dict) -> Mean | None:
    """Steps in a second, relative to the reference's; None where either was not timed."""
    times = row["reference"]["seconds"]
    return statistics.ratio(times, row["seconds"]) if times and row["status"] == "measured" else None


def memory(row: dict) -> Mean | None:
    """Memory relative to the reference's, a plan without an interval; None where either was not compiled."""
    needed, reference = row.get("needed_bytes"), row["reference"]["needed_bytes"]
    return Mean(needed / reference, None, None) if needed and reference else None
