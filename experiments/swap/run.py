"""A trained text model and kernels to rows: bits of each byte with every kernel in it."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from attnzoo import Kernel, catalogue
from experiments import command_line, language, progress, records, steps
from experiments.scaling import measuring
from experiments.swap import plot
from experiments.tasks.text import MaskedText, Text

BATCH = 32
KEY = ("checkpoint", "trained", "kernel", "test_examples", "digest")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to exchange."""

    checkpoint: str
    kernels: tuple[Kernel, ...]
    test_examples: int
    out: str

    def __post_init__(self):
        command_line.at_least(1, test_examples=self.test_examples)


def run(settings: Settings) -> int:
    """Test the model as it was trained and with each kernel that is missing, then draw; 1 if a test failed."""
    out, folder = pathlib.Path(settings.out), language.find_exact(pathlib.Path(settings.checkpoint))
    described, _ = language.load(folder)
    kernels = dict.fromkeys((*described.attention, *settings.kernels))
    with records.writing(out):
        shared = records.environment() | {
            "checkpoint": folder.name,
            "trained": ", ".join(map(repr, described.attention)),
            "length": described.max_length,
            "test_examples": settings.test_examples,
            "digest": _task(described).digest,
        }
        wanted = [shared | {"kernel": repr(kernel), "name": catalogue.name_of(kernel)} for kernel in kernels]
        done = records.latest(records.read(out), KEY)
        todo = [
            (row, kernel) for row, kernel in zip(wanted, kernels, strict=True) if not records.is_done(row, done, KEY)
        ]
        with progress.over(todo, f"swap: {len(todo)} of {len(wanted)} kernels to test") as each:
            for row, kernel in each:
                row |= _tested(settings, folder, kernel)
                records.append(out, row)
                each.say(describe(row))
        done = records.latest(records.read(out), KEY)
    rows = [done[records.cell(row, KEY)] for row in wanted]
    plot.draw(rows, out)
    print(f"rows and figure: {out}")
    return int(any(row["status"] == "failed" for row in rows))


def _task(described: language.Description) -> Text:
    return Text() if described.is_causal else MaskedText()


def _tested(settings: Settings, folder: pathlib.Path, kernel: Kernel) -> dict:
    """Bits of each byte with the kernel in all layers."""
    try:
        described, model = language.load(folder, (kernel,))
    except (NotImplementedError, ValueError) as error:
        return {"status": "refused", "reason": str(error)}
    model.eval()
    bits, weights = [], []
    try:
        for batch in _task(described).batches("test", 0, settings.test_examples, BATCH, described.max_length):
            bits.append(np.asarray(steps.tested(model, batch)[0], np.float64))
            weights.append(batch.weights)
    except Exception as error:  # one kernel that fails must not take the others with it
        return measuring.failure(error)
    bits, weights = np.concatenate(bits), np.concatenate(weights)
    total = float((bits * weights).sum() / weights.sum())
    return {"status": "measured", "bits": total}


def describe(row: dict) -> str:
    """A line on a row."""
    told = (
        f"{row['bits']:.3f} bits of each byte" if row["status"] == "measured" else f"{row['status']}: {row['reason']}"
    )
    return f"{row['kernel']} in a model trained with {row['trained']}: {told}"
