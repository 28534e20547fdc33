"""What is known at one length: which kernel to use, and of each its time, memory and state, and what it loses.

All numbers of a column are of one length, the measured one that is nearest to what was asked for. There is a view where
tokens see the past, as they do in most models that are scored, and one where they see all, and a table of every column.
The best number of a column is starred, beside those that cannot be told from it: where models have the same seeds, the
interval of differences holds 0, and of times that of their ratio 1; sizes are those that read alike. Nothing is starred
where seeds are too few for a claim, or the baseline is not where it ends. A kernel that was refused anywhere because it
breaks a law has no number in any column.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from attnzoo import KERNELS, Dims
from experiments.accuracy import run as accuracy
from experiments.bench import records
from experiments.report import refusals, timed, trained, view
from experiments.report.columns import Column
from experiments.report.refusals import NOTHING, Why
from experiments.report.view import Known, View
from experiments.show import calls, naming
from experiments.show.tables import Table
from experiments.show.units import Shown

BEST = "★ "


class Opening(NamedTuple):
    """What is known at the length that is asked about, of each form of attention, and in one table of all columns."""

    asked: int
    views: list[View]
    table: Table


def opening(rows: Iterable[dict], length: int | None = None) -> Opening | None:
    """What is known at `length`, or at the longest that was timed; None where nothing is measured.

    Args:
      rows: of any experiments, of which those of `scaling` and `accuracy` are looked at.
    """
    every = list(rows)
    broken = refusals.broken(every)
    rows = [row for row in every if row.get("kernel") not in broken]
    of_time, of_models = timed.chosen(rows), [row for row in rows if accuracy.EXPERIMENT.wrote(row)]
    asked = length or max((row["length"] for row in of_time or of_models), default=None)
    if asked is None:
        return None
    every = [*of_time, *of_models, *broken.values()]
    shared = {
        "kernels": _kernels(every),
        "laws": {row["name"]: Why("refused", f"breaks `{row['law']}`") for row in broken.values()},
        "state": timed.state(of_time, asked),
    }
    scores = trained.columns(of_models, asked)
    forms = [_known(of_time, scores, asked, is_causal, every, shared) for is_causal in (True, False)]
    views = [found for known in forms if (found := view.view(known, asked))]
    return Opening(asked, views, _table(forms)) if views else None


def _known(
    rows: list[dict], scores: list[Column], asked: int, is_causal: bool, every: list[dict], shared: dict
) -> Known:
    """What is known where tokens see the past alone, or all; `every` row tells how a kernel is called."""
    times, memories = timed.in_one_form(rows, asked, is_causal)
    alike = [each for each in scores if each.is_causal is is_causal]
    lawful = {name: kernel for name, kernel in shared["kernels"].items() if name not in shared["laws"]}
    why = refusals.timed(rows, lawful, asked, is_causal)
    scored = lambda name: {each.found[name].kernel for each in alike if name in each.found}
    code = {name: _code(kernel, every, scored(name), is_causal) for name, kernel in shared["kernels"].items()}
    return Known(is_causal, alike, times, memories, why, code=code, **shared)


def _kernels(rows: list[dict]) -> dict[str, str]:
    """The first form of each kernel by its name, those of the catalogue first and in its order: a table has one line of
    each, whose cells name another form."""
    found: dict[str, str] = {}
    for row in rows:
        found.setdefault(row["name"], row["kernel"])
    return {name: found[name] for name in dict.fromkeys((*KERNELS, *found)) if name in found}


def _code(kernel: str, rows: list[dict], scored: set[str], is_causal: bool) -> str:
    """The line that runs a kernel as its rows of one form did, or of the other where there are none; which says what
    other forms scores are of.
    """
    own = [row for row in rows if row["kernel"] == kernel]
    alike = [row for row in own if bool(row.get("is_causal")) is is_causal] or own
    measured = [row for row in alike if row["status"] == "measured"] or alike
    heads, length = measured[0].get("heads") or 1, max(row["length"] for row in measured)
    width = measured[0].get("head_dim") or max(1, (measured[0].get("width") or 0) // heads)
    dims = Dims(1, length, length, heads, measured[0].get("num_kv_heads") or heads, width, width)
    is_causal = bool(measured[0].get("is_causal"))
    line = calls.attending(kernel, dims, measured[0].get("dtype") or "float32", is_causal=is_causal)
    others = " and ".join(map(naming.short, sorted(scored - {kernel})))
    return f"{line}  # scores are of {others}" if others else line


def _table(forms: list[Known]) -> Table:
    """Every column of both forms, and why kernels are not in some."""
    of = lambda name: [(column, known) for known in forms for column in getattr(known, name)]
    columns = [*of("scores"), *of("state")[:1], *of("times"), *of("memories")]
    filled = [_cells(column, known) for column, known in columns]
    known = forms[0]
    lines = [
        [naming.short(kernel), *(cells[name] for cells in filled), _why(name, forms), known.code[name]]
        for name, kernel in known.kernels.items()
    ]
    return Table("", ["kernel", *(column.head for column, _ in columns), NOTHING, "code"], lines)


def _cells(column: Column, known: Known) -> dict[str, str]:
    """What a column says of each kernel, or how its cell ended; starred where nothing is better beyond its interval."""
    best = column.best()
    status = lambda name: known.why[name, column.passed].status if (name, column.passed) in known.why else ""
    return {
        name: _cell(column, name, kernel, name in best) if name in column.found else status(name)
        for name, kernel in known.kernels.items()
    }


def _cell(column: Column, name: str, kernel: str, is_best: bool) -> str:
    """A number; with the form that was measured, where that is not the kernel's."""
    own = column.found[name]
    _, opened, arguments = naming.short(own.kernel).partition("(")
    form = f" {opened}{arguments}" if own.kernel != kernel else ""
    return Shown(f"{BEST * is_best}{own.text}{form}{f', {own.note}' * bool(own.note)}", own.value)


def _why(name: str, forms: list[Known]) -> str:
    """Why a kernel was not timed: each reason once, after the passes that it is of."""
    if name in forms[0].laws:
        return forms[0].laws[name].text
    reasons: dict[str, list[str]] = {}
    for known in forms:
        for (own, passed), why in known.why.items():
            if own == name:
                reasons.setdefault(why.text, []).append(f"{passed}{', causal' * known.is_causal}")
    return "; ".join(f"{', '.join(passes)}: {reason}" for reason, passes in reasons.items())


def of_folder(places: Iterable, length: int | None) -> Opening | None:
    """That of all rows of some folders."""
    return opening((row for place in places for row in records.whole(place)[0]), length)
