"""Intervals of means over seeds, and of ratios over repetitions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

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


def student(degrees: float) -> float:
    """The two-sided 95% point of Student's t."""
    return float(special.stdtrit(degrees, 0.975))


def mean(values: list[float]) -> Mean:
    """The mean of at least one value, with Student's t interval."""
    center = sum(values) / len(values)
    if len(values) == 1:
        return Mean(center, None, None)
    half = student(len(values) - 1) * float(np.std(values, ddof=1) / np.sqrt(len(values)))
    return Mean(center, center - half, center + half)


def share(values: list[float]) -> Mean:
    """The mean of shares with a 95% percentile bootstrap interval over seeds.

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


def answered(values: list[float], answers: int) -> Mean:
    """The mean of shares over seeds, each of so many answers to the same questions, with a 95% Wilson interval.

    Two things may have come out otherwise: which models were trained, which seeds tell by their spread, and which
    questions were asked, which all seeds share. So there are as many answers as would have the variance of both, s^2 /
    seeds + value (1 - value) / answers (Korn and Graubard 1998, "Confidence intervals for proportions with small
    expected number of positive counts"), and the quantile is Student's, with degrees of freedom for the share of it
    that few seeds tell (Satterthwaite 1946). So the interval ends where shares do, and seeds that are all right leave
    the doubt that one set of questions leaves. Wilson 1927, "Probable inference".
    """
    center, count = sum(values) / len(values), len(values)
    if count == 1:
        return Mean(center, None, None)
    of_seeds, of_questions = float(np.var(values, ddof=1)) / count, center * (1 - center) / answers
    told = of_seeds / (of_seeds + of_questions) if of_seeds else 0.0
    size = answers * (1 - told)
    square = (student((count - 1) / told**2) if told else float(special.ndtri(0.975))) ** 2
    middle = (center + square / (2 * size)) / (1 + square / size)
    half = np.sqrt(square * (center * (1 - center) + square / (4 * size)) / size) / (1 + square / size)
    return Mean(center, max(0.0, min(center, float(middle - half))), min(1.0, max(center, float(middle + half))))


def _resampled(values: np.ndarray) -> np.ndarray:
    """The means of resamples: of all n^n, which scipy's bootstrap has no way to take, or of those that are drawn."""
    count = len(values)
    if count <= EVERY:
        return values[np.indices([count] * count).reshape(count, -1)].mean(axis=0)
    return np.random.default_rng(0).choice(values, (DRAWS, count)).mean(axis=1)


def paired(values: dict[int, float], others: dict[int, float]) -> Mean | None:
    """The mean difference over the seeds that both have, with Student's interval; None where they share none.

    Also of shares: a bootstrap of five normal differences holds their mean in 84% of cases, where it says 95.
    """
    differences = [value - others[seed] for seed, value in sorted(values.items()) if seed in others]
    return mean(differences) if differences else None


def ratio(times: list[float], others: list[float]) -> Mean:
    """The median of `times` over that of `others`, with a 95% bootstrap interval over the repetitions of each."""
    from scipy import stats  # which takes longer to import than jax

    of = lambda times, others, axis: np.median(times, axis) / np.median(others, axis)
    rng = np.random.default_rng(0)
    found = stats.bootstrap((times, others), of, n_resamples=DRAWS, method="percentile", rng=rng).confidence_interval
    return Mean(float(of(times, others, 0)), float(found.low), float(found.high))
