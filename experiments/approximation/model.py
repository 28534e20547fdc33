"""The softmax model whose queries, keys and values are looked at: one on disk, or one that is trained for it."""

from __future__ import annotations

import pathlib

from attnzoo import catalogue
from experiments import language, records
from experiments.approximation import dials

# Rotations leave attention to queries and keys, and let a small model learn in few steps where to look.
TRAINING = {"kernels": "softmax", "positions": "rotary", "heads": 2, "test_examples": 16, "isolate": False}


def find(folder: pathlib.Path) -> pathlib.Path:
    """The checkpoint at `folder`, or that of a run's best softmax model of text, a causal one where there is any.

    Args:
      folder: a checkpoint's, or one that `experiments.accuracy` has written.

    Raises:
      ValueError: there is none.
    """
    rows = _trained(folder)
    if not rows:
        return language.find(folder)
    best = min([row for row in rows if row["is_causal"]] or rows, key=lambda row: row["bits"])
    return language.find(folder / language.FOLDER / pathlib.PurePath(best["checkpoint"]).name)


def train(folder: pathlib.Path, length: int, steps: int, is_causal: bool) -> pathlib.Path:
    """The checkpoint of a small model below `folder`, trained unless it is there.

    Raises:
      ValueError: training has left none.
    """
    from experiments.accuracy import flags, run

    task = "text" if is_causal else "masked_text"
    folder = folder / f"{task}-{length}-{steps}"
    if not _trained(folder):
        given = {"task": task, "lengths": length, "steps": steps, "tokens": max(2048, length), "out": folder}
        code = run.run(flags.parsed(**given, **TRAINING))
        if code:
            raise ValueError(f"training into {folder} ended with code {code}: see above, or name a --checkpoint")
    return find(folder)


def _trained(folder: pathlib.Path) -> list[dict]:
    """Rows of softmax models of text that have a checkpoint."""
    name = catalogue.name_of(dials.EXACT)
    saved = [row for row in records.read(folder) if row.get("checkpoint") and row.get("metric") == "bits"]
    return [row for row in saved if row["name"] == name and row["status"] == "measured"]
