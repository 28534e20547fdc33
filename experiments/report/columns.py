"""What is known of kernels at one length, a column for each number, and which of them can be told apart."""

from __future__ import annotations

from typing import NamedTuple

from experiments.show import statistics

EXACT = "softmax"  # what others are compared with
SCORES = ("accuracy", "bits")  # kinds of columns that are of trained models


class Found(NamedTuple):
    """What a column has of a kernel.

    Attributes:
      text: its number in words, with its interval.
      kernel: the form that was measured.
      low: where its interval ends, as does `high`.
      is_apart: whether it is of another setting than the others, and is compared with none.
      by_seed: each seed's number, if it was trained.
      seconds: repetitions, if it was timed.
      note: what else must be known of it.
    """

    text: str
    value: float
    kernel: str
    low: float
    high: float
    is_apart: bool = False
    by_seed: dict[int, float] = {}
    seconds: tuple[float, ...] = ()
    note: str = ""


class Column(NamedTuple):
    """What is found by the names of kernels, and whether any may be called best.

    Attributes:
      kind: "time", "memory", "state", or what models are scored by, "accuracy" or "bits".
      found: of each kernel.
      length: in tokens, at which.
      passed: what was timed, "forward" or "train"; empty for what is of no pass.
      is_causal: whether tokens see the past alone; None where that is all the same.
      label: what the numbers are, in a word.
      told: how they were measured.
    """

    kind: str
    head: str
    found: dict[str, Found]
    length: int
    passed: str = ""
    is_decided: bool = True
    is_causal: bool | None = None
    label: str = ""
    told: str = ""

    @property
    def is_more_better(self) -> bool:
        """Whether the greatest number is the best."""
        return self.kind == "accuracy"

    def difference(self, name: str, other: str) -> statistics.Mean | None:
        """How much more one kernel has than another, over the seeds of both; None where they share none."""
        own, beside = self.found[name], self.found[other]
        return statistics.paired(own.by_seed, beside.by_seed)

    def times_as_fast(self, name: str, other: str) -> statistics.Mean:
        """How many times as fast one kernel is as another, with its interval."""
        return statistics.ratio(list(self.found[other].seconds), list(self.found[name].seconds))

    def are_alike(self, name: str, other: str) -> bool:
        """Whether two kernels cannot be told apart: the interval of their ratio has 1 or that of their differences 0;
        else where they read alike, or their own intervals meet."""
        own, beside = self.found[name], self.found[other]
        if own.text == beside.text:
            return True
        if own.seconds and beside.seconds:
            ratio = self.times_as_fast(name, other)
            return ratio.low <= 1 <= ratio.high
        apart = self.difference(name, other)
        if apart is not None and apart.low is not None:
            return apart.low <= 0 <= apart.high
        return own.low <= beside.high and beside.low <= own.high

    def best(self) -> list[str]:
        """The kernel with the best number, and those that cannot be told from it; none where nothing is decided, or
        where there is no other."""
        rivals = {name: own.value for name, own in self.found.items() if not own.is_apart}
        if len(rivals) < 2 or not self.is_decided:
            return []
        first = (max if self.is_more_better else min)(rivals, key=rivals.__getitem__)
        return [name for name in rivals if self.are_alike(name, first)]
