"""The score of a suite: of each kernel the mean accuracy over settings of a part, and over parts.

Of the rates and decays of a setting, the one is taken that is best on validation, as a mean over seeds. So MAD's score
is computed (Poli et al. 2024, arXiv:2403.17844), whose authors take what is best on the test examples. A kernel that
has no number in some setting has no score: a mean over others would be another one.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# What tells apart models of one kernel; rates and decays are chosen from.
MODEL = ("kernel", "positions", "width", "blocks", "layers", "heads")
CHOSEN = ("learning_rate", "weight_decay")


class Setting(NamedTuple):
    """A task as rows have it, its length, and the part of the suite that it belongs to."""

    task: str
    length: int
    part: str


class Score(NamedTuple):
    """What a kernel reaches.

    Attributes:
      parts: mean accuracy of each part of which all settings are measured.
      missing: how many settings are not.
      mean: over parts; None where settings are missing.
    """

    parts: dict[str, float]
    missing: int
    mean: float | None


def scores(rows: Iterable[dict], settings: Sequence[Setting]) -> dict[tuple, Score]:
    """That of each model, by the values of `MODEL`."""
    models: dict[tuple, list[dict]] = {}
    for row in rows:
        models.setdefault(tuple(row.get(name) for name in MODEL), []).append(row)
    return {model: _score(own, list(dict.fromkeys(settings))) for model, own in models.items()}


def _score(rows, settings) -> Score:
    reached = {setting: _reached(rows, setting) for setting in settings}
    parts = {}
    for part in dict.fromkeys(setting.part for setting in settings):
        found = [score for setting, score in reached.items() if setting.part == part]
        if None not in found:
            parts[part] = statistics.mean(found)
    missing = sum(score is None for score in reached.values())
    return Score(parts, missing, None if missing else statistics.mean(parts.values()))


def _reached(rows, setting) -> float | None:
    """What the best choice of rate and decay has on test examples; None where nothing is measured."""
    tried: dict[tuple, list[dict]] = {}
    for row in rows:
        if (row["task"], row["length"], row["status"]) == (setting.task, setting.length, "measured"):
            tried.setdefault(tuple(row[name] for name in CHOSEN), []).append(row)
    if not tried:
        return None
    # Validation is a loss: lower is better, also where it is of accuracy.
    best = min(tried.values(), key=lambda own: statistics.mean(row["validation"] for row in own))
    return statistics.mean(row["score"] for row in best)


def scaled(accuracy: float, chance: float) -> float:
    """Accuracy as a share of what is above guessing: 0 at chance, 1 where all is right (Grazzi et al. 2024)."""
    return (accuracy - chance) / (1 - chance)
