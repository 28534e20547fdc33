"""The softmax model whose queries, keys and values are looked at, trained for it where none is named."""

from __future__ import annotations

import pathlib

from experiments.bench import records
from experiments.bench.settings import parsed
from experiments.train import language
from experiments.train.sweep import run as sweep
from experiments.train.sweep.settings import Settings as Training

# Rotations leave attention to queries and keys, and let a small model learn in few steps where to look.
TRAINING = {
    "kernels": "softmax",
    "positions": "rotary",
    "learning_rates": "3e-3",
    "heads": 2,
    "test_examples": 16,
    "isolate": False,
}


def train(folder: pathlib.Path, length: int, steps: int, is_causal: bool) -> pathlib.Path:
    """The checkpoint of a small model below `folder`, trained unless it is there.

    Raises:
      ValueError: training has left none.
    """
    task = "text" if is_causal else "masked_text"
    folder = folder / f"{task}-{length}-{steps}"
    if not any(map(language.attends_exactly, records.read(folder))):
        given = {"task": task, "lengths": length, "steps": steps, "tokens": max(2048, length), "out": folder}
        code = sweep.run(parsed(Training, **given, **TRAINING))
        if code:
            raise ValueError(f"training into {folder} ended with code {code}: see above, or name a --checkpoint")
    return language.find_exact(folder)
