"""What can be reached without a model, in the units of the task."""

from __future__ import annotations

import functools

from experiments.tasks import listops, text
from experiments.tasks.task import Task


@functools.cache
def of(task: Task, length: int) -> dict[str, float]:
    """Names of baselines and their scores."""
    if task.metric == "bits":
        return {"chance": 8.0, "frequency of bytes": text.unigram_bits(task.corpus())}
    found = {"chance": task.chance}
    if task.classes is not None:
        found["majority"] = task.majority(length)
    if isinstance(task, listops.ListOps):
        found["root operator"] = task.root_operator(length)
    return found
