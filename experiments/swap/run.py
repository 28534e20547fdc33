"""Trained text models and kernels to rows: bits of each byte with every kernel in them."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from attnzoo import Kernel, catalogue
from experiments.bench import trust
from experiments.bench.experiment import Cell, Experiment, Run, one_by_one
from experiments.show import caveats
from experiments.swap.settings import Settings
from experiments.tasks.text import MaskedText, Text
from experiments.train import asked, checkpoints, language, steps

BATCH = 32


class Swap(NamedTuple):
    """A kernel to put into the model of a checkpoint."""

    folder: pathlib.Path
    kernel: Kernel


class Swaps(Experiment):
    """Models as they were trained, and with each kernel."""

    name = "swap"
    key = ("checkpoint", "trained", "positions", "seed", "length", "kernel", "test_examples", "digest")
    columns = ("trained", "checkpoint")
    caveats = (caveats.SMALL, "A kernel that a model was trained with may lose far less.")
    leaves = "rows and figure"

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        folders = language.find_seeds(pathlib.Path(settings.checkpoint))
        yield [cell for folder in folders for cell in _cells(settings, folder)]

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        return one_by_one(todo, functools.partial(_tested, settings))

    def describe(self, row: dict) -> str:
        is_measured = row["status"] == "measured"
        told = f"{row['bits']:.3f} bits of each byte" if is_measured else f"{row['status']}: {row['reason']}"
        return f"{row['kernel']} for {row['trained']}, seed {row['seed']}, length {row['length']:,}: {told}"


def _cells(settings: Settings, folder: pathlib.Path) -> Iterator[Cell]:
    """A model's own kernel first."""
    described = language.read(checkpoints.about(folder))
    longest = described.max_length
    if max(settings.lengths, default=0) > longest:
        raise ValueError(
            f"--lengths={','.join(map(str, settings.lengths))}: {folder.name} takes at most {longest} tokens"
        )
    shared = {
        "checkpoint": folder.name,
        "trained": ", ".join(map(catalogue.identity, described.attention)),
        "positions": catalogue.identity(described.positions),
        "seed": described.seed,
        "test_examples": settings.test_examples,
        "digest": _task(described).digest,
    }
    for length in settings.lengths or (longest,):
        for kernel in dict.fromkeys((*described.attention, *settings.kernels)):
            told = {"length": length, "kernel": catalogue.identity(kernel), "name": catalogue.name_of(kernel)}
            yield Cell(shared | told, Swap(folder, kernel))


def _task(described: language.Description) -> Text:
    return Text() if described.is_causal else MaskedText()


def _tested(settings: Settings, cell: Cell) -> dict:
    """Bits of each byte with the kernel in all layers."""
    folder, kernel = cell.subject
    try:
        described, model = language.load(folder, (kernel,))
    except (NotImplementedError, ValueError) as error:
        return {"status": "refused", "reason": str(error)}
    if found := trust.breach(kernel, described.max_length, is_causal=described.is_causal):
        return found
    task, length = _task(described), cell.row["length"]
    if found := asked.breach(model, [kernel], task, length, min(BATCH, settings.test_examples)):
        return found
    model.eval()
    tested, bits, weights = steps.testing(model), [], []
    for batch in task.batches("test", 0, settings.test_examples, BATCH, length):
        bits.append(np.asarray(tested(batch)[0], np.float64))
        weights.append(batch.weights)
    bits, weights = np.concatenate(bits), np.concatenate(weights)
    return {"status": "measured", "bits": float((bits * weights).sum() / weights.sum())}


EXPERIMENT = Swaps()
run = EXPERIMENT.run
