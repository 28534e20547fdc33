"""Rows to statements: how wide the band of rates is at which a kernel learns a task, and what learning takes there.

Twice: within the steps that all kernels were given, and within equal operations, the least that all steps of any kernel
beside it take, so that one whose step is dearer has fewer of them.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from experiments.bench import records
from experiments.show import tables, units
from experiments.show.tables import Table
from experiments.show.units import Shown
from experiments.train.sweep import analysis as sweep
from experiments.train.sweep import convergence

HALF = 0.5  # of the seeds, from which a rate is in the band
SETTING = (*sweep.GROUP, "solved")
BESIDE = tuple(name for name in SETTING if name not in ("kernel", "positions"))  # what is set alike where kernels meet
SIZES = ("length", "width")
HEADER = ["kernel", *SIZES, "within", "band", "best rate", "seeds there", "steps", "operations", "parameters", "state"]


class Rate(NamedTuple):
    """What seeds did at one learning rate.

    Attributes:
      rate: of learning.
      share: of the seeds that solved the task; NaN where no seed came to an end.
      steps: in which half of the seeds had solved it, infinite where fewer did.
      operations: of training until then.
      seeds: how many there are, of those that came to an end.
    """

    rate: float
    share: float
    steps: float
    operations: float
    seeds: int


class Band(NamedTuple):
    """Decades of learning rate in which at least half of the seeds solve the task.

    Attributes:
      decades: between the places at its ends where the share of seeds is `HALF`, on straight lines between rates.
      least: between the first and the last rate in it, which is what the rates show; 0 where it has one.
      most: between the rates next to these, which are not in it; infinite where one of them is not known, at the end of
        those that were tried or where all seeds failed.
      count: of bands that others part, of which this is the widest; 0 where no rate is in one.
    """

    decades: float
    least: float
    most: float
    count: int = 1

    @property
    def is_open(self) -> bool:
        """Whether it may be wider than any rates that were tried tell."""
        return math.isinf(self.most)


def solved_at(row: dict) -> int | None:
    """The step at which validation first reached what counts as solved."""
    return convergence.solved_at(row.get("validations") or [], row["solved"])


def groups(rows: list[dict]) -> dict[tuple, list[dict]]:
    """Rows that differ in rate and seed alone, in the order of rates, by task, name, length and width.

    A name is that of the kernel, or of positions, and of all else that is set where that is not the same in all rows
    of the task.
    """
    found: dict[tuple, list[dict]] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        own = sweep.captioned(
            sorted((row for row in rows if row["task"] == task), key=lambda row: row["learning_rate"])
        )
        others = [name for name in BESIDE if name not in SIZES and len({records.cell(row, (name,)) for row in own}) > 1]
        for row in own:
            told = [f"{name.replace('_', ' ')} {tables.text(name, row[name])}" for name in others if row.get(name)]
            name = ", ".join([row["label"], *told])
            found.setdefault((task, name, *(row[size] for size in SIZES)), []).append(row)
    return found


def budgets(rows: list[dict]) -> dict[tuple, int]:
    """Operations at which each of `groups` is compared: the least that all steps of any kernel beside it take.

    Those whose operations are not counted have none.
    """
    found = {key: own for key, own in groups(rows).items() if step_operations(own)}
    least: dict[tuple, int] = {}
    for own in found.values():
        place = records.cell(own[0], BESIDE)
        each = own[0]["steps"] * step_operations(own)
        least[place] = min(each, least.get(place, each))
    return {key: least[records.cell(own[0], BESIDE)] for key, own in found.items()}


def step_operations(rows: list[dict]) -> int:
    """Of one step of a group; 0 where they are not counted."""
    return int(next((row["step_flops"] for row in rows if row.get("step_flops")), 0))


def by_rate(rows: list[dict], steps: int | None = None) -> list[Rate]:
    """What seeds did at each rate within so many steps, or all; one that diverged did not solve the task."""
    limit, each, found = steps or rows[0]["steps"], step_operations(rows) or math.nan, []
    for rate in dict.fromkeys(row["learning_rate"] for row in rows):
        own = [row for row in rows if row["learning_rate"] == rate and row["status"] in ("measured", "diverged")]
        solved = sorted(row["solved_at"] for row in own if (row.get("solved_at") or math.inf) <= limit)
        share = len(solved) / len(own) if own else math.nan
        middle = solved[(len(own) - 1) // 2] if share >= HALF else math.inf
        found.append(Rate(rate, share, middle, middle * each, len(own)))
    return found


def band(rates: list[Rate]) -> Band:
    """The widest run of neighbouring rates at which half of the seeds solve the task."""
    inside = itertools.groupby(range(len(rates)), lambda place: rates[place].share >= HALF)
    runs = [list(places) for is_inside, places in inside if is_inside]
    found = [_around(rates, run[0], run[-1]) for run in runs]
    widest = max(found, key=lambda each: each.decades, default=Band(0.0, 0.0, 0.0))
    return widest._replace(count=len(runs))


def _around(rates: list[Rate], first: int, last: int) -> Band:
    """The band from one rate to another, both of which are in it."""
    within = math.log10(rates[last].rate / rates[first].rate)
    (low, lowest), (high, highest) = _beyond(rates, first, first - 1), _beyond(rates, last, last + 1)
    return Band(low + within + high, within, lowest + within + highest)


def _beyond(rates: list[Rate], inside: int, outside: int) -> tuple[float, float]:
    """Decades from a rate in a band to where the share is `HALF`, and to the rate outside."""
    if not 0 <= outside < len(rates) or not rates[outside].seeds:
        return 0.0, math.inf
    own, other = rates[inside], rates[outside]
    gap = abs(math.log10(other.rate / own.rate))
    return gap * (own.share - HALF) / (own.share - other.share), gap


def summaries(rows: list[dict]) -> list[Table]:
    """A table for each task: a line for each kernel within the steps that it was given, and one within operations that
    are equal for all."""
    found, equal = groups(rows), budgets(rows)
    made: dict[str, list[list[str]]] = {}
    for key, own in found.items():
        steps = own[0]["steps"]
        made.setdefault(own[0]["subject"], []).append(_line(key, own, steps, f"{steps:,} steps"))
    for key, operations in equal.items():
        steps = operations // step_operations(found[key])
        line = _line(key, found[key], steps, f"{operations:.2g} operations: {steps:,} steps")
        made[found[key][0]["subject"]].append(line)
    title = f"Learnability: rates at which at least {HALF:.0%} of seeds solve"
    return [Table(f"{title} {subject}", HEADER, lines) for subject, lines in made.items()]


def _line(key: tuple, own: list[dict], steps: int, within: str) -> list[str]:
    _, name, *sizes = key
    head, rates = [name, *map(units.count_text, sizes), within], by_rate(own, steps)
    known = [each for each in rates if each.seeds]
    if not known:
        return [*head, own[0].get("reason", own[0]["status"]), *[""] * 6]
    best = _best(rates)
    share = Shown(f"{best.share:.0%} of {best.seeds}", best.share)
    taken = Shown(f"{best.steps:,}", best.steps) if math.isfinite(best.steps) else "never"
    operations = Shown(f"{best.operations:.2g}", best.operations) if math.isfinite(best.operations) else ""
    of_model = _model_texts(next((row for row in own if row["status"] == "measured"), {}))
    return [*head, band_text(band(rates)), Shown(f"{best.rate:g}", best.rate), share, taken, operations, *of_model]


def _best(rates: list[Rate]) -> Rate:
    """The rate at which most seeds solve the task, and of several that with the fewest steps."""
    return min(rates, key=lambda each: (not each.seeds, -each.share, each.steps))


def labels(name: str, own: list[dict]) -> tuple[str, str]:
    """What a figure says at the ends of a group's lines: its band, and the steps and the state with which it learns."""
    rates = by_rate(own)
    steps = _best(rates).steps
    _, state = _model_texts(next((row for row in own if row["status"] == "measured"), {}))
    of_model = [f"{steps:,} steps at best" if math.isfinite(steps) else "", state.partition(",")[0]]
    return f"{name}: {band_text(band(rates))}", f"{name}: {', '.join(filter(None, of_model))}"


def held(rows: list[dict]) -> str:
    """What all rows of a figure have alike: their steps, and what counts as solved."""
    words = {"steps": "{:,} steps", "solved": "solved from {:.0%} of validation"}
    found = {name: {row[name] for row in rows} for name in words}
    return "; ".join(words[name].format(*values) for name, values in found.items() if len(values) == 1)


def band_text(found: Band) -> Shown:
    """A band and what it is between, such as `1.5 decades (1.0 to 2.0)`."""
    if not found.count:
        return Shown("none", 0)
    if found.is_open:
        text = f"at least {found.least:.1f} decades" if found.least else "one rate, next to what is not known"
    elif found.least:
        text = f"{found.decades:.1f} decades ({found.least:.1f} to {found.most:.1f})"
    else:
        text = f"less than {found.most:.1f} decades, one rate"
    return Shown(text + f", the widest of {found.count} bands" * (found.count > 1), found.decades)


def _model_texts(row: dict) -> list[str]:
    """Parameters and state of a model, and by which heads it is how near to what is wanted."""
    count, kept, missed = row.get("parameters"), row.get("state_bytes"), sweep.state_missed(row)
    near = "" if missed is None else f" ({missed:+.1%}), {row['matched']}"
    state = "" if kept is None else Shown(f"{units.size_text(kept)}{near}", kept)
    return ["" if count is None else units.count_text(count), state]
