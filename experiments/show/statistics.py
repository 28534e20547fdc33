"""Intervals of means over seeds, and of ratios over repetitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Two-sided 95% points of Student's t for 1, 2, ... degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
CLAIM = 5  # seeds below which nothing is claimed
DRAWS = 2000  # of a bootstrap
EVERY = 7  # values of which all resamples are taken


class Mean(NamedTuple):
    """A mean with its 95% interval; without one for a single value."""

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
    """The mean of at least one value, with Student's t interval."""
    center = sum(values) / len(values)
    if len(values) == 1:
        return Mean(center, None, None)
    spread = math.sqrt(sum((value - center) ** 2 for value in values) / (len(values) - 1) / len(values))
    half = student(len(values) - 1) * spread
    return Mean(center, center - half, center + half)


def share(values: list[float]) -> Mean:
    """The mean of shares, or of their differences, with a 95% percentile bootstrap interval over seeds.

    Student's interval takes seeds to be normal: of shares near an end, or of seeds of which some have learned a task
    and others not, it leaves [0, 1]. This one lies between the least and the greatest of the seeds. Of few seeds it is
    too narrow, and no interval can tell two outcomes from a spread: the seeds themselves are shown beside it. Up to
    `EVERY` values all resamples are taken, and else `DRAWS` of them. Efron and Tibshirani 1993, "An Introduction to the
    Bootstrap", chapter 13.
    """
    center = sum(values) / len(values)
    if len(values) == 1:
        return Mean(center, None, None)
    low, high = np.quantile(_resampled(np.asarray(values, np.float64)), [0.025, 0.975], method="inverted_cdf")
    return Mean(center, min(float(low), center), max(float(high), center))  # rounding may put it beside equal ones


def _resampled(values: np.ndarray) -> np.ndarray:
    """The means of resamples: of all n^n, or of those that are drawn."""
    count = len(values)
    if count <= EVERY:
        return values[np.indices([count] * count).reshape(count, -1)].mean(axis=0)
    return np.random.default_rng(0).choice(values, (DRAWS, count)).mean(axis=1)


def interval(metric: str) -> Callable[[list[float]], Mean]:
    """What gives the mean of scores, and of their differences, with its interval: accuracies are shares."""
    return share if metric == "accuracy" else mean


def paired(values: dict[int, float], others: dict[int, float], of: Callable[[list[float]], Mean] = mean) -> Mean | None:
    """The mean difference over the seeds that both have; None where there are none."""
    differences = [value - others[seed] for seed, value in sorted(values.items()) if seed in others]
    return of(differences) if differences else None


def ratio(times: list[float], others: list[float]) -> Mean:
    """The median of `times` over that of `others`, with a 95% bootstrap interval over the repetitions of each."""
    rng = np.random.default_rng(0)
    draw = lambda values: np.median(rng.choice(values, (DRAWS, len(values))), axis=1)
    low, high = np.quantile(draw(times) / draw(others), [0.025, 0.975])
    return Mean(float(np.median(times) / np.median(others)), float(low), float(high))
