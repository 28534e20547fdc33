"""Scores to verdicts. Each rule was written before its models were trained, and is told with the verdict."""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import NamedTuple

from experiments.show import statistics
from experiments.show.statistics import Mean


class Verdict(enum.Enum):
    """What is said of a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


class Judgement(NamedTuple):
    """A verdict, and by which numbers."""

    verdict: Verdict
    detail: str


class Heard(NamedTuple):
    """What the models of one contender say, by seed.

    Attributes:
      scores: shares of answers that are right.
      elsewhere: the same at lengths that were not trained, by length.
      solved: steps until validation first reached `SOLVED`, infinite where it did not.
      state_bytes: of decoding one example; NaN where nothing tells.
      answers: how many each seed gave, all to the same questions.
      falling: seeds whose loss still fell when training ended, which every verdict tells, and where what a model lacks
        could still be learned no rule decides.
    """

    scores: dict[int, float]
    elsewhere: dict[int, dict[int, float]] = {}
    solved: dict[int, float] = {}
    state_bytes: float = math.nan
    answers: int = 1
    falling: frozenset[int] = frozenset()


SOLVED = 0.9  # of validation
Contenders = dict[str, Heard]  # by their texts


@dataclasses.dataclass(frozen=True)
class Restores:
    """`mixed` recalls what `full` does: it holds where the interval of the paired difference lies above -`points`, and
    fails where it lies below. Undecided where `full` is below 95%; where `alone`, without full attention, loses less
    than ten points, so that there is nothing to restore; or where `alone`, or a `mixed` that fails, still learns.
    """

    full: str
    alone: str
    mixed: str
    points: float = 0.02

    def judge(self, heard: Contenders) -> Judgement:
        full, alone, mixed = (heard[name].scores for name in (self.full, self.alone, self.mixed))
        lost, difference = _difference(alone, full), _difference(mixed, full)
        told = f"full {_share(full)}, alone {_points(lost)}, mixed {_points(difference)} beside it"
        if _mean(full) < 0.95 or lost.value > -0.1 or heard[self.alone].falling:
            return Judgement(Verdict.UNDECIDED, told)
        return Judgement(_beside(difference, -self.points, heard[self.mixed]), told)


@dataclasses.dataclass(frozen=True)
class Delays:
    """`large` takes more steps than `small` until validation reaches 90%: it holds where the interval of the paired
    difference of log2 steps lies above 0, fails where it lies below, and counts what never gets there as four times
    the `steps` there were. Undecided where neither ever does.
    """

    small: str
    large: str
    steps: int

    def judge(self, heard: Contenders) -> Judgement:
        counted = lambda name: {
            seed: math.log2(min(steps, 4 * self.steps)) for seed, steps in heard[name].solved.items()
        }
        small, large = counted(self.small), counted(self.large)
        reached = sum(steps < math.inf for name in (self.small, self.large) for steps in heard[name].solved.values())
        found = statistics.paired(large, small)
        told = f"large / small takes {_factor(found)} of the steps; {reached} of {len(small) + len(large)} got there"
        return Judgement(_by_interval(found, 0.0) if reached else Verdict.UNDECIDED, told)


@dataclasses.dataclass(frozen=True)
class OnlyOne:
    """`able` does at length `length` what `unable` cannot: it holds where the interval of `able` lies above 95% and
    that of `unable` below `chance` + 10 points, fails where `able` is below that or `unable` above 95%. Both may still
    learn the length that they were trained on.
    """

    able: str
    unable: str
    length: int
    chance: float

    def judge(self, heard: Contenders) -> Judgement:
        own = [(heard[name].elsewhere[self.length], heard[name].answers) for name in (self.able, self.unable)]
        able, unable = (statistics.answered(list(scores.values()), answers) for scores, answers in own)
        poor = self.chance + 0.1
        told = f"at {self.length} tokens {_interval(able)} and {_interval(unable)}"
        if _low(able) > 0.95 and _high(unable) < poor:
            return Judgement(Verdict.HOLDS, told)
        fails = _high(able) < poor or _low(unable) > 0.95
        return Judgement(Verdict.FAILS if fails else Verdict.UNDECIDED, told)


@dataclasses.dataclass(frozen=True)
class GoesBy:
    """Models with larger states recall more: it holds where Spearman's rank correlation of state and score over
    contenders is at least 0.8 in every seed, and fails where it is at most 0.4 in every one. States that differ by less
    than a tenth are of one size. Undecided where any model still learns, where sizes are fewer than three, or where
    scores of all lie within five points, so that there is nothing to order.
    """

    def judge(self, heard: Contenders) -> Judgement:
        sizes = _sizes([each.state_bytes for each in heard.values()])
        seeds = sorted(set.intersection(*(set(each.scores) for each in heard.values())))
        scores = [[each.scores[seed] for each in heard.values()] for seed in seeds]
        if len(set(sizes)) < 3 or any(max(own) - min(own) < 0.05 for own in scores):
            told = f"{len(set(sizes))} sizes of state, scores as little as "
            return Judgement(Verdict.UNDECIDED, f"{told}{min(max(own) - min(own) for own in scores):.1%} apart")
        from scipy import stats  # which takes longer to import than jax

        ranks = [float(stats.spearmanr(sizes, own)[0]) for own in scores]
        told = f"rank correlations {min(ranks):.2f} to {max(ranks):.2f} over {len(set(sizes))} sizes of state"
        holds, fails = min(ranks) >= 0.8, max(ranks) <= 0.4
        if not (holds or fails) or any(each.falling for each in heard.values()):
            return Judgement(Verdict.UNDECIDED, told)
        return Judgement(Verdict.HOLDS if holds else Verdict.FAILS, told)


@dataclasses.dataclass(frozen=True)
class IsLocal:
    """A window is as good as `full`: it holds where the interval of the paired difference lies above -`points`, fails
    where it lies below. Undecided where `full` is not at least five points above `trivial`, what a single input or the
    commonest answer tells: nothing is learned then. Undecided, too, where a window that loses still learns.
    """

    full: str
    window: str
    trivial: float
    points: float = 0.02

    def judge(self, heard: Contenders) -> Judgement:
        full, window = heard[self.full].scores, heard[self.window].scores
        difference = _difference(window, full)
        told = f"full {_share(full)}, window {_points(difference)} beside it"
        if _mean(full) < self.trivial + 0.05:
            return Judgement(Verdict.UNDECIDED, told)
        return Judgement(_beside(difference, -self.points, heard[self.window]), told)


@dataclasses.dataclass(frozen=True)
class Scores:
    """`kernel` reaches what is `claimed` and not the `other` score: it holds where its interval has the one and not the
    other, and fails where it has the other and not the one.
    """

    kernel: str
    claimed: float
    other: float

    def judge(self, heard: Contenders) -> Judgement:
        found = statistics.mean(list(heard[self.kernel].scores.values()))
        claimed, other = (_low(found) <= score <= _high(found) for score in (self.claimed, self.other))
        told = f"it scores {_interval(found)}"
        if claimed == other:
            return Judgement(Verdict.UNDECIDED, told)
        return Judgement(Verdict.HOLDS if claimed else Verdict.FAILS, told)


Rule = Restores | Delays | OnlyOne | GoesBy | IsLocal | Scores


def _difference(scores: dict[int, float], others: dict[int, float]) -> Mean:
    found = statistics.paired(scores, others)
    if found is None:
        raise ValueError("no seed was measured of both contenders")
    return found


def _beside(difference: Mean, bound: float, model: Heard) -> Verdict:
    """Whether a model comes up to another, of which it lacks so much; what it could still learn it does not lack."""
    verdict = _by_interval(difference, bound)
    return Verdict.UNDECIDED if verdict is Verdict.FAILS and model.falling else verdict


def _sizes(state_bytes: list[float]) -> list[float]:
    """Each the least that is within a tenth below it, so that states which differ by less are equal."""
    found: list[float] = []
    for size in sorted(state_bytes):
        found.append(found[-1] if found and size < 1.1 * found[-1] else size)
    return [found[sorted(state_bytes).index(size)] for size in state_bytes]


def _by_interval(found: Mean, bound: float) -> Verdict:
    if _low(found) > bound:
        return Verdict.HOLDS
    return Verdict.FAILS if _high(found) < bound else Verdict.UNDECIDED


def _low(found: Mean) -> float:
    return found.value if found.low is None else found.low


def _high(found: Mean) -> float:
    return found.value if found.high is None else found.high


def _mean(scores: dict[int, float]) -> float:
    return sum(scores.values()) / len(scores)


def _share(scores: dict[int, float]) -> str:
    return f"{_mean(scores):.1%}"


def _points(found: Mean) -> str:
    return f"{100 * found.value:+.1f} [{100 * _low(found):+.1f}, {100 * _high(found):+.1f}] points"


def _interval(found: Mean) -> str:
    return f"{found.value:.1%} [{_low(found):.1%}, {_high(found):.1%}]"


def _factor(found: Mean) -> str:
    return f"{2**found.value:.2f} [{2 ** _low(found):.2f}, {2 ** _high(found):.2f}]"
