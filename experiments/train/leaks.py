"""Whether a causal model of language sees the future by a kernel of one's own, as it is tested, and as it learns."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from flax import nnx

from attnzoo import Kernel
from attnzoo.models import LanguageModel
from attnzoo.testing import futures
from experiments.bench import trust
from experiments.tasks.task import Task
from experiments.train import steps


def found(
    model: nnx.Module, kernels: Iterable[Kernel], task: Task, length: int, count: int, is_learned: bool = False
) -> dict | None:
    """What a row says of a model that sees the future, or None.

    Args:
      kernels: of its blocks, of which the first that is not the catalogue's is blamed.
      count: examples in a batch.
      is_learned: whether it is asked as it is differentiated, and not as it is tested.
    """
    kernel = next((kernel for kernel in kernels if not trust.is_ours(kernel)), None)
    if kernel is None or not (isinstance(model, LanguageModel) and task.is_causal):
        return None
    each = (task.batch(split, 0, 0, max(1, count), length) for split in ("test", "validation"))
    batch, other = (x._replace(places=None) for x in each)  # all tokens are asked

    def after(cut: np.ndarray) -> np.ndarray:
        inputs = np.where(futures.is_later(batch.inputs.shape, cut), other.inputs, batch.inputs)
        return _bits(model, batch._replace(inputs=inputs), is_learned)

    refused = trust.leak(kernel, model.stack.config.dtype, lambda: _bits(model, batch, is_learned), after)
    model.train()
    return refused


def _bits(model: nnx.Module, batch, is_learned: bool) -> np.ndarray:
    """[B, T], of the same dropout in each call."""
    model.train() if is_learned else model.eval()
    before = steps.copied(model)
    found = steps.differentiated(model, batch) if is_learned else steps.tested(model, batch)[0]
    nnx.update(model, before)
    return np.asarray(found)
