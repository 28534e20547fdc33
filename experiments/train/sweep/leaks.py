"""Whether a causal model sees the future by a kernel of one's own: asked as it is tested, and as it learns."""

from __future__ import annotations

import itertools

import numpy as np
from flax import nnx

from attnzoo.models import LanguageModel
from attnzoo.testing import futures
from experiments.bench import trust
from experiments.train import steps
from experiments.train.sweep import curriculum
from experiments.train.sweep.cells import Cell
from experiments.train.sweep.settings import Settings


def found(settings: Settings, cell: Cell, model: nnx.Module) -> dict | None:
    """What the row says of a model that sees the future at a length where it is tested or learns, or None."""
    kernel = next((kernel for kernel in cell.kernels(settings) if not trust.is_ours(kernel)), None)
    if kernel is None or not (isinstance(model, LanguageModel) and cell.task.is_causal):
        return None
    learned = curriculum.lengths(cell.task, cell.length) if settings.curriculum else [cell.length]
    asked = itertools.chain(
        ((length, False) for length in dict.fromkeys((*settings.eval_lengths, cell.length))),
        ((length, True) for length in learned),
    )

    def leak(length: int, is_learned: bool) -> dict | None:
        count = settings.count(cell.length) if is_learned else min(settings.test_examples, settings.count(length))
        each = (cell.task.batch(split, 0, 0, max(1, count), length) for split in ("test", "validation"))
        batch, other = (x._replace(places=None) for x in each)  # all tokens are asked

        def after(cut: np.ndarray) -> np.ndarray:
            inputs = np.where(futures.is_later(batch.inputs.shape, cut), other.inputs, batch.inputs)
            return _bits(model, batch._replace(inputs=inputs), is_learned)

        return trust.leak(kernel, settings.dtype, lambda: _bits(model, batch, is_learned), after)

    refused = next(filter(None, itertools.starmap(leak, asked)), None)
    model.train()
    return refused


def _bits(model: nnx.Module, batch, is_learned: bool) -> np.ndarray:
    """[B, T], of the same dropout in each call."""
    model.train() if is_learned else model.eval()
    before = steps.copied(model)
    found = steps.differentiated(model, batch) if is_learned else steps.tested(model, batch)[0]
    nnx.update(model, before)
    return np.asarray(found)
