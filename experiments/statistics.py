"""Intervals of means over seeds, and of ratios over repetitions."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

# Two-sided 95% points of Student's t for 1, 2, ... degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
CLAIM = 5  # seeds below which nothing is claimed
DRAWS = 2000  # of a bootstrap


class Mean(NamedTuple):
    """A mean with its 95% Student t interval; without one for a single value."""

    value: float
    low: float | None
    high: float | None


def doubt(seeds: int) -> str:
    """What a figure of so few seeds must say; empty where they are enough."""
    return "" if seeds >= CLAIM else f"{seeds} seed{'s' * (seeds > 1)}, which supports no claim"


def student(degrees: int) -> float:
    """The two-sided 95% point of Student's t."""
    if degrees <= len(STUDENT):
        return STUDENT[degrees - 1]
    return 1.960 + 2.372 / degrees + 2.823 / degrees**2  # Cornish and Fisher's expansion, within 0.002 here


def mean(values: list[float]) -> Mean:
    """The mean of at least one value."""
    center = sum(values) / len(values)
    if len(values) == 1:
        return Mean(center, None, None)
    spread = math.sqrt(sum((value - center) ** 2 for value in values) / (len(values) - 1) / len(values))
    half = student(len(values) - 1) * spread
    return Mean(center, center - half, center + half)


def paired(values: dict[int, float], others: dict[int, float]) -> Mean | None:
    """The mean difference over the seeds that both have; None where there are none."""
    differences = [value - others[seed] for seed, value in sorted(values.items()) if seed in others]
    return mean(differences) if differences else None


def ratio(times: list[float], others: list[float]) -> Mean:
    """The median of `times` over that of `others`, with a 95% bootstrap interval over the repetitions of each."""
    rng = np.random.default_rng(0)
    draw = lambda values: np.median(rng.choice(values, (DRAWS, len(values))), axis=1)
    low, high = np.quantile(draw(times) / draw(others), [0.025, 0.975])
    return Mean(float(np.median(times) / np.median(others)), float(low), float(high))
