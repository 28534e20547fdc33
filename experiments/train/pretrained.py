"""A model that starts from one that was trained on something else: its embeddings and its blocks, not its head.

Amos et al. 2023, arXiv:2310.02980, train on a task's own inputs first (`experiments.tasks.wrapped.Denoised`): the token
that hides others is the last one there, and has no row in the model that starts from it.
"""

from __future__ import annotations

import pathlib

import jax
from flax import nnx

from attnzoo.models import Classifier, LanguageModel
from experiments import tasks
from experiments.bench import records
from experiments.tasks.task import Task
from experiments.tasks.wrapped import Denoised
from experiments.train import language

TRUNK = ("embedding", "stack")
EMBEDDING = ("embed", "embedding")


def start(model: Classifier | LanguageModel, folder: pathlib.Path) -> None:
    """Put embeddings and blocks of a saved language model into a model of the same sizes and kernels.

    Raises:
      ValueError: there is no checkpoint, or it has other parameters.
    """
    _, before = language.load(folder)
    for name in TRUNK:
        own, found = (nnx.state(getattr(each, name), nnx.Param) for each in (model, before))
        if jax.tree.structure(own) != jax.tree.structure(found):
            raise ValueError(f"{folder} has other parameters in its {name}: expected a model of the same flags")
        nnx.update(getattr(model, name), jax.tree.map_with_path(_taken, own, found))


def _taken(path, own, found):
    """What a parameter is to be; of embeddings, those of tokens that the model has."""
    names = tuple(str(getattr(key, "key", key)) for key in path)
    rows = found[: len(own)] if all(name in names for name in EMBEDDING) else found
    if rows.shape != own.shape:
        raise ValueError(
            f"{'.'.join(names)} is {found.shape} in the checkpoint: expected {own.shape}, as by the same flags"
        )
    return rows.astype(own.dtype)


def find(folder: pathlib.Path, task: Task, wanted: dict) -> pathlib.Path:
    """The checkpoint of the best model in a folder of rows that has restored inputs of `task`, as `Denoised` asks.

    Args:
      wanted: what its row is to say beside that, such as its kernel, positions, width and seed.

    Raises:
      ValueError: there is none.
    """
    folder, wanted = pathlib.Path(folder), {"task_name": "denoised", "status": "measured"} | wanted
    rows = [row for row in records.read(folder) if all(row.get(key) == value for key, value in wanted.items())]
    rows = [row for row in rows if row.get("checkpoint") and _inner(row["task"]) == task]
    if not rows:
        told = ", ".join(f"{key} {value}" for key, value in wanted.items())
        raise ValueError(f"{folder} has no checkpoint of {told} that restored inputs of {task!r}: train it first")
    best = min(rows, key=lambda row: row["bits"])
    return folder / language.FOLDER / pathlib.PurePath(best["checkpoint"]).name


def _inner(told: str) -> Task | None:
    """The task whose inputs a row's task restores."""
    try:
        [found] = tasks.parse_tasks(told.replace("Denoised", "denoised", 1), imports=False)
    except ValueError:
        return None
    return found.inner if isinstance(found, Denoised) else None
