"""What serves a call, the fastest first, and which of it to take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from attnzoo import Kernel, Softmax
from experiments.choose import losses
from experiments.choose.losses import Lost

DIGITS = ".3g"  # of times, as they are shown
BOUND = "≥ "  # before times and sizes that may be more


class Choice(NamedTuple):
    """A kernel for the call: seconds and bytes, from where these are known, and why it cannot serve, if it cannot."""

    kernel: Kernel
    seconds: float
    size: float
    told: tuple[str, str]  # both in words
    source: str
    brief: str  # the same in few words
    refusal: str = ""
    implementation: str | None = None  # what is named in the call


class Ranking(NamedTuple):
    """What serves, in order, what does not, and how much each loses by class, in the setting that decides."""

    serving: list[Choice]
    refused: list[Choice]
    deciding: dict[str, Lost]

    def lost(self, choice: Choice) -> Lost | None:
        """What is decided that it loses; None where nothing is, and of exact attention."""
        return self.deciding.get(losses.class_of(choice.kernel))

    def front(self) -> list[Choice]:
        """Those beside which nothing is known to be at least as fast and to lose less."""
        kept, least = [], math.inf
        for each in self.serving:
            amount = _amount(each, self.deciding)
            if amount < least:
                kept.append(each)
                least = amount
        return kept

    def keeps(self, choice: Choice) -> bool:
        """Whether it was trained beside exact attention and loses nothing beyond its interval, or is exact."""
        lost = self.lost(choice)
        return type(choice.kernel) is Softmax or (lost is not None and not lost.is_known)


def ranked(choices: list[Choice], deciding: dict[str, Lost]) -> Ranking:
    """Of times that are shown as equal, what loses less comes first, what is known to before others, then what is
    smaller."""
    order: Callable = lambda each: (float(f"{each.seconds:{DIGITS}}"), _amount(each, deciding), each.size)
    serving = sorted((each for each in choices if not each.refusal), key=order)
    return Ranking(serving, [each for each in choices if each.refusal], deciding)


def _amount(choice: Choice, deciding: dict[str, Lost]) -> float:
    """How much it loses; infinity where that is not known."""
    if deciding and type(choice.kernel) is Softmax:
        return 0.0
    lost = deciding.get(losses.class_of(choice.kernel))
    return math.inf if lost is None else lost.amount
