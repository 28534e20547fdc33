"""The score of a suite: of each kernel the mean accuracy over settings of a part, and over parts.

Of the rates and decays of a setting, the one is taken that is best on validation, as a mean over seeds, among those at
which the fewest diverged. So MAD's score is computed (Poli et al. 2024, arXiv:2403.17844), whose authors take what is
best on the test examples. A kernel that has no number in some setting has no score: a mean over others would be another
one.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from experiments.suites.suite import MODEL
from experiments.train.sweep import analysis, convergence

CHOSEN = ("learning_rate", "weight_decay")  # from what is tried of each setting


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
      seeds: the same mean of each seed that every setting was measured with.
      falling: seeds whose loss still fell when training ended, in some setting.
    """

    parts: dict[str, float]
    missing: int
    mean: float | None
    seeds: dict[int, float] = {}
    falling: frozenset[int] = frozenset()


def scores(rows: Iterable[dict], settings: Sequence[Setting], told_by: Sequence[str] = MODEL) -> dict[tuple, Score]:
    """That of each model, by the values of `told_by`, which tell models apart."""
    models: dict[tuple, list[dict]] = {}
    for row in rows:
        models.setdefault(tuple(row.get(name) for name in told_by), []).append(row)
    return {model: _score(own, list(dict.fromkeys(settings))) for model, own in models.items()}


def _score(rows, settings) -> Score:
    chosen = {setting: _chosen(rows, setting) for setting in settings}
    missing = sum(not own for own in chosen.values())
    parts = _parts(
        {setting: statistics.mean(row["score"] for row in own) for setting, own in chosen.items() if own}, settings
    )
    by_seed = {setting: {row["seed"]: row["score"] for row in own} for setting, own in chosen.items()}
    whole = set.intersection(*(set(own) for own in by_seed.values()))
    seeds = {
        seed: statistics.mean(_parts({setting: own[seed] for setting, own in by_seed.items()}, settings).values())
        for seed in sorted(whole)
    }
    falling = {row["seed"] for own in chosen.values() for row in own if convergence.flat([row]) is False}
    return Score(parts, missing, None if missing else statistics.mean(parts.values()), seeds, frozenset(falling))


def _parts(reached: dict[Setting, float], settings) -> dict[str, float]:
    """Means over settings of each part that has all of them."""
    found = {}
    for part in dict.fromkeys(setting.part for setting in settings):
        own = [setting for setting in settings if setting.part == part]
        if all(setting in reached for setting in own):
            found[part] = statistics.mean(reached[setting] for setting in own)
    return found


def _chosen(rows, setting) -> list[dict]:
    """The measured rows of the best choice of rate and decay; none where nothing is measured."""
    own = [row for row in rows if (row["task"], row["length"]) == (setting.task, setting.length)]
    return [row for row in analysis.best(own, CHOSEN) if row["status"] == "measured"]


def scaled(accuracy: float, chance: float) -> float:
    """Accuracy as a share of what is above guessing: 0 at chance, 1 where all is right (Grazzi et al. 2024)."""
    return (accuracy - chance) / (1 - chance)
