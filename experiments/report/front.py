"""Which kernel to use, and what is lost by it: those that none beats both in time and in what is answered.

From exact attention to the fastest, each faster than the one before, and worse. Compared are kernels in the form that
was trained and timed, where tokens see alike. Who is on a front is decided by medians and means, and which kernels
cannot be told apart by intervals: a kernel beside one of the front may be as good as it.
"""

from __future__ import annotations

from typing import NamedTuple

from experiments.report.columns import EXACT, Column
from experiments.show import naming, statistics
from experiments.train.sweep import analysis as sweep


class Front(NamedTuple):
    """Names of kernels by a score and a time, slowest first; `alike` are those of them that a kernel cannot be told
    from, for each that was compared."""

    scores: Column
    times: Column
    names: list[str]
    alike: dict[str, list[str]]

    def choices(self) -> list[str]:
        """The fastest that is not seen to lose anything, and the fastest."""
        lossless = [name for name in self.names if not _is_lost(self.scores, name)]
        return list(dict.fromkeys((*lossless[-1:], *self.names[-1:])))


def front(scores: Column, times: Column) -> Front | None:
    """None where nothing is decided, or none is seen to be faster than exact attention."""
    names = comparable(scores, times)
    kept = _unbeaten(names, scores, times)
    if not kept:
        return None
    both = lambda name, other: times.are_alike(name, other) and scores.are_alike(name, other)
    alike = {name: [other for other in kept if other != name and both(name, other)] for name in names}
    return Front(scores, times, kept, alike)


def comparable(scores: Column, times: Column) -> list[str]:
    """Names of kernels that were trained and timed in one form, and trained as the others were; none where nothing is
    decided."""
    learned, timed = scores.found, times.found
    of_one_form = lambda name: name in timed and timed[name].kernel == learned[name].kernel
    return [name for name, own in learned.items() if scores.is_decided and not own.is_apart and of_one_form(name)]


def _unbeaten(names: list[str], scores: Column, times: Column) -> list[str]:
    """Kernels that are seen to be faster than exact attention, slowest first, each better than any that is faster."""
    if EXACT not in names:
        return []
    score = lambda name: scores.found[name].value * (1 if scores.is_more_better else -1)
    kept: list[str] = []
    for name in sorted(names, key=lambda name: times.found[name].value):
        if times.times_as_fast(name, EXACT).low > 1 and (not kept or score(name) > score(kept[-1])):
            kept.append(name)
    return kept[::-1]


def _is_lost(scores: Column, name: str) -> bool:
    """Whether a kernel is seen to be worse than exact attention."""
    difference = scores.difference(name, EXACT)
    if difference is None or difference.low is None:
        return True
    return difference.high < 0 if scores.is_more_better else difference.low > 0


def take(name: str, fronts: list[Front]) -> tuple[str, str]:
    """A kernel, and how fast it is and what it loses, by each score that it was compared by."""
    times = fronts[0].times
    kernel = naming.short(times.found[name].kernel)
    told = [f"{ratio_text(times.times_as_fast(name, EXACT))} times as fast as exact attention"]
    scores = [each.scores for each in fronts if name in each.alike]
    told += [_lost(each, name) + (f" ({note})" if (note := each.found[name].note) else "") for each in scores]
    return kernel, "; ".join(told)


def ratio_text(ratio: statistics.Mean) -> str:
    """How many times, such as `4.94 [3.4, 5.45]`."""
    return f"{ratio.value:.3g} [{ratio.low:.3g}, {ratio.high:.3g}]"


def _lost(scores: Column, name: str) -> str:
    difference = scores.difference(name, EXACT)
    if difference is None:
        return f"{scores.label} of other seeds than exact attention's"
    unit = "bits" if scores.kind == "bits" else "points"
    if difference.low is None or difference.low <= 0 <= difference.high:
        return f"no difference in {scores.label} seen, {sweep.mean_text(scores.kind, difference, '+')} {unit}"
    is_less = difference.value < 0
    amount = statistics.Mean(*(-each for each in (difference.value, difference.high, difference.low)))
    text = sweep.mean_text(scores.kind, amount if is_less else difference, "-")
    if scores.kind == "bits":
        return f"{text} bits {'fewer' if is_less else 'more'}"
    return f"{'loses' if is_less else 'gains'} {text} points of {scores.label}"
