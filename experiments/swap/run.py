"""Trained text models and kernels to rows: bits of each byte with every kernel in them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from attnzoo import Kernel, catalogue
from experiments.bench import locks, outcome, parsing, progress, provenance, records, trust
from experiments.swap import plot
from experiments.tasks.text import MaskedText, Text
from experiments.train import checkpoints, language, steps

BATCH = 32
KEY = ("checkpoint", "trained", "positions", "seed", "length", "kernel", "test_examples", "digest")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to exchange."""

    checkpoint: str
    kernels: tuple[Kernel, ...]
    test_examples: int
    out: str
    lengths: tuple[int, ...] = ()  # the longest that models take, where empty

    def __post_init__(self):
        parsing.at_least(1, test_examples=self.test_examples)


class Swap(NamedTuple):
    """A kernel to put into a model, and what identifies the row of it."""

    folder: pathlib.Path
    kernel: Kernel
    row: dict


def run(settings: Settings) -> int:
    """Test models as they were trained and with each kernel that is missing, then draw; 1 if a test failed."""
    out, folders = pathlib.Path(settings.out), language.find_seeds(pathlib.Path(settings.checkpoint))
    with locks.writing(out):
        environment = provenance.environment()
        wanted = [swap for folder in folders for swap in _swaps(settings, folder)]
        done = records.latest(records.read(out), KEY)
        todo = [swap for swap in wanted if not records.is_done(swap.row, done, KEY)]
        with progress.over(todo, f"swap: {len(todo)} of {len(wanted)} to test") as each:
            for swap in each:
                row = environment | swap.row | _tested(settings, swap)
                records.append(out, row)
                each.say(describe(row))
        done = records.latest(records.read(out), KEY)
    rows = [done[records.cell(swap.row, KEY)] for swap in wanted]
    plot.draw(rows, out)
    print(f"rows and figure: {out}")
    return outcome.code(rows)


def _swaps(settings: Settings, folder: pathlib.Path) -> Iterator[Swap]:
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
            yield Swap(folder, kernel, shared | told)


def _task(described: language.Description) -> Text:
    return Text() if described.is_causal else MaskedText()


def _tested(settings: Settings, swap: Swap) -> dict:
    """Bits of each byte with the kernel in all layers."""
    try:
        described, model = language.load(swap.folder, (swap.kernel,))
    except (NotImplementedError, ValueError) as error:
        return {"status": "refused", "reason": str(error)}
    model.eval()
    bits, weights = [], []
    try:
        if found := trust.breach(swap.kernel, described.max_length, is_causal=described.is_causal):
            return found
        for batch in _task(described).batches("test", 0, settings.test_examples, BATCH, swap.row["length"]):
            bits.append(np.asarray(steps.tested(model, batch)[0], np.float64))
            weights.append(batch.weights)
    except Exception as error:  # one kernel that fails must not take the others with it
        return outcome.failure(error)
    bits, weights = np.concatenate(bits), np.concatenate(weights)
    total = float((bits * weights).sum() / weights.sum())
    return {"status": "measured", "bits": total}


def describe(row: dict) -> str:
    """A line on a row."""
    told = (
        f"{row['bits']:.3f} bits of each byte" if row["status"] == "measured" else f"{row['status']}: {row['reason']}"
    )
    return f"{row['kernel']} for {row['trained']}, seed {row['seed']}, length {row['length']:,}: {told}"
