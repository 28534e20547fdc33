"""Which kernel to use, and what is lost by it: those that none beats both in time and in what is answered.

From exact attention to the fastest, each faster than the one before, and worse. Compared are kernels in the form that
was trained and timed, where tokens see alike.
"""

from __future__ import annotations

from experiments.report.columns import EXACT, Column
from experiments.show import naming, statistics
from experiments.show.tables import Table
from experiments.show.units import Shown
from experiments.train.sweep import analysis as sweep


def front(answers: Column, times: Column, state: Column | None = None) -> Table | None:
    """A line for each kernel of the front; None where nothing is decided, or none is faster than exact attention.

    Args:
      state: what decoding keeps, which is told beside.
    """
    names = _unbeaten(answers, times) if answers.is_decided else []
    if not names:
        return None
    states = state.found if state else {}
    exact, of = times.found[EXACT].value, statistics.interval(answers.metric)
    lines = []
    for name in (EXACT, *names):
        learned, timed = answers.found[name], times.found[name]
        lost = None if name == EXACT else statistics.paired(learned.by_seed, answers.found[EXACT].by_seed, of)
        kept = states[name].text if name in states and states[name].kernel == timed.kernel else ""
        ratio = exact / timed.value
        told = [Shown(f"{ratio:.3g}", ratio), sweep.mean_text(answers.metric, lost, "+")]
        told += [Shown(learned.text, learned.value), Shown(timed.text, timed.value), kept]
        lines.append([naming.short(timed.kernel), *told])
    header = ["kernel", "times as fast", "minus softmax", answers.head, times.head, state.head if state else "state"]
    return Table(f"By {answers.head.partition(',')[0]} and {times.head}", header, lines)


def _comparable(answers: Column, times: Column) -> list[str]:
    """Names of kernels that were trained and timed in one form, and trained as the others were."""
    learned, timed = answers.found, times.found
    of_one_form = lambda name: name in timed and timed[name].kernel == learned[name].kernel
    return [name for name, own in learned.items() if not own.is_apart and of_one_form(name)]


def _unbeaten(answers: Column, times: Column) -> list[str]:
    """Kernels that are faster than exact attention, slowest first, each better than any that is faster still."""
    seconds = lambda name: times.found[name].value
    score = lambda name: answers.found[name].value * (1 if answers.is_more_better else -1)
    names, kept = _comparable(answers, times), []
    for name in sorted(names, key=seconds) if EXACT in names else ():
        if seconds(name) < seconds(EXACT) and (not kept or score(name) > score(kept[-1])):
            kept.append(name)
    return kept[::-1]
