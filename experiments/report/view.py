"""The table that a page opens with: what kernels cost and lose where tokens see the past, or where they see all.

A line of each kernel: exact attention first, then those of a front, from the slowest to the fastest, then others, the
fastest first. A cell tells a number, and below it what belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from experiments.report import front as fronts
from experiments.report import words
from experiments.report.columns import EXACT, Column
from experiments.report.front import Front
from experiments.report.refusals import NOTHING, Why
from experiments.report.timed import PASSES
from experiments.show import naming
from experiments.train.sweep import analysis as sweep

Head = tuple[str, str]  # of a column, and what stands below its numbers


class Cell(NamedTuple):
    """A number in words, and below it what belongs to it; or how it ended, and below it why, where there is none.
    `value` is what it is sorted by."""

    text: str
    below: str = ""
    value: float | None = None
    is_best: bool = False
    is_empty: bool = False


class Line(NamedTuple):
    """What is known of a kernel, with what is said of its place and the code that calls it."""

    kernel: str
    place: str
    code: str
    is_chosen: bool
    cells: list[Cell]


class View(NamedTuple):
    """Where tokens see the past alone, or all: what was measured, what to take, what was refused, and a table."""

    is_causal: bool
    notice: str
    told: list[tuple[str, str]]
    takes: list[tuple[str, str]]
    refused: list[tuple[str, str]]
    header: list[Head]
    lines: list[Line]


class Known(NamedTuple):
    """Columns of one form, and of kernels by name why they have no time there in a pass, a form of each, the code that
    calls it, and why those that break a law have no number at all."""

    is_causal: bool
    scores: list[Column]
    times: list[Column]
    memories: list[Column]
    why: dict[tuple[str, str], Why]
    kernels: dict[str, str]
    code: dict[str, str]
    laws: dict[str, Why]
    state: list[Column]

    def is_told(self, name: str) -> bool:
        """Whether anything was measured of a kernel in this form."""
        return any(name in each.found for each in (*self.scores, *self.times))


def view(known: Known, asked: int) -> View | None:
    """None where nothing was measured.

    Args:
      asked: the length that is asked about.
    """
    names = [name for name in known.kernels if known.is_told(name)]
    if not names:
        return None
    found = [each for own in known.scores if known.times and (each := fronts.front(own, known.times[0]))]
    columns = _columns(known)
    lines = [
        Line(
            naming.short(known.kernels[name]),
            _place(name, found),
            known.code[name],
            any(name in each.names for each in found),
            [cells[name] for _, cells in columns],
        )
        for name in sorted(names, key=lambda name: _order(name, found, known.times))
    ]
    header = [head for head, _ in columns]
    return View(
        known.is_causal, _notice(known.times, asked), _told(known), _takes(known, found), _refused(known), header, lines
    )


def _order(name: str, found: list[Front], times: list[Column]) -> tuple:
    seconds = times[0].found[name].value if times and name in times[0].found else float("inf")
    is_chosen = any(name in each.names for each in found)
    return name != EXACT, not is_chosen, -seconds if is_chosen else seconds


def _place(name: str, found: list[Front]) -> str:
    """By which scores none beats it, and which of those that none beats it cannot be told from."""
    labels = " and ".join(each.scores.label for each in found if name in each.names)
    like = dict.fromkeys(naming.short(each.times.found[x].kernel) for each in found for x in each.alike.get(name, []))
    told = f"unbeaten by {labels}" if labels else ""
    return words.joined(told, f"≈ {', '.join(like)}" if like else "")


def _notice(times: list[Column], asked: int) -> str:
    if times and times[0].length != asked:
        return f"Nothing was timed at {asked:,} tokens; these times are of {times[0].length:,}, the nearest."
    return "" if times else "Nothing was timed in these rows."


def _told(known: Known) -> list[tuple[str, str]]:
    """How each kind of number was measured, of each that there is."""
    told = [("Time and memory", known.times[0].told)] if known.times else []
    return [*told, *((each.label.capitalize(), each.told) for each in known.scores)]


def _takes(known: Known, found: list[Front]) -> list[tuple[str, str]]:
    """Which kernels to take, the slowest first: exact attention, where others were compared and none is faster."""
    if found:
        seconds = known.times[0].found
        chosen = {name for each in found for name in each.choices()}
        return [fronts.take(name, found) for name in sorted(chosen, key=lambda name: -seconds[name].value)]
    compared = [fronts.comparable(each, known.times[0]) for each in known.scores if known.times]
    if any(EXACT in names and len(names) > 1 for names in compared):
        return [
            (naming.short(known.kernels[EXACT]), "none of those that were trained as they were timed is seen faster")
        ]
    return []


def _refused(known: Known) -> list[tuple[str, str]]:
    """Kernels that were refused here, those of one reason together, and the reason."""
    found = {name: why for (name, _), why in known.why.items() if why.status == "refused"} | known.laws
    reasons: dict[str, list[str]] = {}
    for name, why in found.items():
        kernel = known.kernels[name]
        reasons.setdefault(why.reason.removeprefix(f"{kernel.partition('(')[0]} "), []).append(naming.short(kernel))
    return [(", ".join(kernels), reason) for reason, kernels in reasons.items()]


def _columns(known: Known) -> list[tuple[Head, dict[str, Cell]]]:
    """Each column's head, and what is below it, with a cell for each kernel: the first time, what is lost, other times,
    memory and state."""
    found = [_of_times(each, known) for each in known.times[:1]]
    found += [_of_scores(each, known) for each in known.scores]
    found += [_of_times(each, known) for each in known.times[1:]]
    found += [_of_memory(each, known.memories[1:], known) for each in known.memories[:1]]
    return [*found, *(_of_state(each, known) for each in known.state)]


def _cells(column: Column, known: Known, cell: Callable[[str], Cell], nothing: str = NOTHING) -> dict[str, Cell]:
    """Those of kernels that the column knows, with its best, and of others why they have none."""
    best = column.best()
    without = lambda name: Cell(*known.why.get((name, column.passed), Why(nothing)), is_empty=True)
    told = lambda name: cell(name)._replace(is_best=name in best) if name in column.found else without(name)
    return {name: told(name) for name in known.kernels}


def _of_times(column: Column, known: Known) -> tuple[Head, dict[str, Cell]]:
    is_told = EXACT in column.found
    ratio = lambda name: fronts.ratio_text(column.times_as_fast(name, EXACT))
    below = lambda name: ratio(name) if is_told and name != EXACT else ""
    cell = lambda name: Cell(column.found[name].text, below(name), column.found[name].value)
    head = f"time {PASSES.get(column.passed, column.passed)}", "times as fast as exact" * is_told
    return head, _cells(column, known, cell)


def _of_scores(column: Column, known: Known) -> tuple[Head, dict[str, Cell]]:
    """What is lost, and below it what is reached."""
    unit, percent = ("bits", "") if column.kind == "bits" else ("points, and % right", " %")

    def cell(name: str) -> Cell:
        own = column.found[name]
        is_compared = EXACT in column.found and not own.is_apart and name != EXACT
        lost = column.difference(name, EXACT) if is_compared else None
        note = words.joined(_form(own.kernel, known.kernels[name]), own.note)
        if lost is None:
            return Cell(f"{own.text}{percent}", note, 0.0 if name == EXACT else None)
        return Cell(sweep.mean_text(column.kind, lost, "+"), words.joined(f"{own.text}{percent}", note), lost.value)

    return (f"{column.label} minus exact", unit), _cells(column, known, cell, "not trained")


def _form(own: str, kernel: str) -> str:
    """The fields of the form that was trained, where that is not the one that was timed."""
    return naming.short(own).partition("(")[2].removesuffix(")") if own != kernel else ""


def _of_memory(column: Column, others: list[Column], known: Known) -> tuple[Head, dict[str, Cell]]:
    """That of one pass, and below it of others."""
    passed = lambda each: PASSES.get(each.passed, each.passed)
    starred = [(dict.fromkeys(each.best(), "★ "), each.found) for each in others]
    below = lambda name: ", ".join(f"{star.get(name, '')}{own[name].text}" for star, own in starred if name in own)
    cell = lambda name: Cell(column.found[name].text, below(name), column.found[name].value)
    return ("memory", "; ".join(map(passed, (column, *others)))), _cells(column, known, cell)


def _of_state(column: Column, known: Known) -> tuple[Head, dict[str, Cell]]:
    cell = lambda name: Cell(column.found[name].text, "", column.found[name].value)
    return ("state", "kept to decode"), _cells(column, known, cell, "does not decode")
