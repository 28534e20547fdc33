"""Whether a published result was reproduced: a rule that was written before anything was measured.

An accuracy is *reproduced* where the published value lies in the 95% Student t interval of our mean over seeds, cut at
0 and 100% and widened by one point at each end. One seed has no interval, and decides nothing.

A speed or a memory is *reproduced* where our ratio to softmax, at the same length, is within 25% of the published
ratio: between published / 1.25 and published x 1.25. That is the same rule whichever way a ratio is written, steps in a
second or seconds of a step. Our ratio is of medians; its interval is shown, and does not widen the rule.

Else it *differs*. What cannot be judged is *not comparable*, for one of five reasons, and no others.

What is judged is the kernel as the published code ran it, not as its paper describes it (`presets.py`).
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from experiments.show.statistics import Mean

POINT = 1.0  # percent, at each end of an interval
FACTOR = 1.25


class Verdict(enum.Enum):
    """What is said of a published result."""

    REPRODUCED = "reproduced"
    DIFFERS = "differs"
    NOT_COMPARABLE = "not comparable"


class Reason(enum.Enum):
    """Why a result is not comparable."""

    REFERENCE = "the reference: ratios are taken to this row, and its own is 1 whatever is measured"
    NO_DATA = "no data: the command stands ready, and the folder that its task names is yet to be fetched"
    OTHER_FORM = "another form: the kernel of the catalogue is not what the published code ran"
    NOT_RUN = "not run on this machine: the command stands ready"
    NO_NUMBER = "no number: our run was refused, did not fit, failed or diverged, or has fewer than two seeds"


class Judgement(NamedTuple):
    """A verdict, with a reason where it is NOT_COMPARABLE, and what else is to be said."""

    verdict: Verdict
    reason: Reason | None = None
    detail: str = ""


def not_comparable(reason: Reason, detail: str = "") -> Judgement:
    """A result that cannot be judged."""
    return Judgement(Verdict.NOT_COMPARABLE, reason, detail)


def of_accuracy(published: float, ours: Mean) -> Judgement:
    """Both in percent."""
    if ours.low is None:
        return not_comparable(Reason.NO_NUMBER, "one seed has no interval")
    return _judged(ours.low - POINT <= published <= ours.high + POINT)


def of_ratio(published: float, ours: float) -> Judgement:
    """Both relative to softmax."""
    return _judged(published / FACTOR <= ours <= published * FACTOR)


def _judged(is_within: bool) -> Judgement:
    return Judgement(Verdict.REPRODUCED if is_within else Verdict.DIFFERS)
