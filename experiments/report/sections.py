"""Which experiment wrote a row, and what its section of the page consists of.

A row tells whose it is. Rows of before they did are known by the columns that identify their cell: no other
experiment's rows have them all. So rows that were merged, moved or copied by hand are known wherever they lie. What is
said of rows is `summaries` of their experiment, which is found in `run` of its package; rows of one that is not there,
or of another schema, get a section with all their cells.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from typing import NamedTuple

import experiments
from experiments.bench import records
from experiments.bench.experiment import Experiment
from experiments.report import words
from experiments.show.tables import Table

# Of sections on the page; others come after these.
ORDER = (
    "scaling", "accuracy", "learnability", "peers", "decoding", "approximation", "swap", "alignment", "claims",
    "disputes", "reproduce", "tiles", "compiled", "conformance", "throughput",
)  # fmt: skip
NAMED = 3  # tasks, of which a heading names no more


@functools.cache
def known() -> tuple[Experiment, ...]:
    """The experiments that make rows, in the order of the page."""
    packages = (f"experiments.{each.name}.run" for each in pkgutil.iter_modules(experiments.__path__) if each.ispkg)
    modules = (importlib.import_module(name) for name in packages if importlib.util.find_spec(name))
    found = [module.EXPERIMENT for module in modules if hasattr(module, "EXPERIMENT")]
    order = lambda each: ORDER.index(each.name) if each.name in ORDER else len(ORDER)
    return tuple(sorted(found, key=order))


def place(experiment: Experiment | None) -> int:
    """Where a section stands on the page; what is unknown comes last."""
    return len(known()) if experiment is None else known().index(experiment)


def question(experiment: Experiment) -> str:
    """The first line of its package's docstring."""
    return importlib.import_module(f"experiments.{experiment.name}").__doc__.partition("\n")[0]


class Found(NamedTuple):
    """Rows of one experiment in one folder, the last of each cell; `experiment` is None for an unknown one."""

    experiment: Experiment | None
    rows: list[dict]

    def summaries(self) -> list[Table]:
        """What the experiment says of its rows, and where they are of a published setting, the verdict."""
        own = self.experiment.summaries(self.rows)
        if not self.experiment.has_models:
            return own
        from experiments.reproduce import analysis

        return [*own, *analysis.of_models(self.rows)]


def subject(rows: list[dict]) -> str:
    """What tells rows from others of their experiment, in words: tasks, or who sees whom at which lengths."""
    told = dict.fromkeys(words.task(row["task"]) for row in rows if isinstance(row.get("task"), str))
    if told:
        more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
        return ", ".join(list(told)[:NAMED]) + more
    forms = {row.get("is_causal") for row in rows if isinstance(row.get("is_causal"), bool)}
    form = "causal, " * (forms == {True}) + "every token seeing all, " * (forms == {False})
    found = sorted(_lengths(rows))
    return f"{form}{' to '.join(f'{each:,}' for each in dict.fromkeys((found[0], found[-1])))} tokens" if found else ""


def timed_at(rows: list[dict]) -> frozenset[int]:
    """Lengths, and those of what came before a token, at which something was timed."""
    return _lengths([row for row in rows if row["status"] == "measured" and "median" in row])


def _lengths(rows: list[dict]) -> frozenset[int]:
    told = (row.get(name) for row in rows for name in ("length", "context"))
    return frozenset(length for length in told if type(length) is int)


def split(rows: list[dict]) -> list[Found]:
    """The rows of each experiment."""
    groups: dict[Experiment | None, list[dict]] = {}
    for row in rows:
        groups.setdefault(_of(row), []).append(row)
    return [Found(experiment, _latest(experiment, own)) for experiment, own in groups.items()]


def _of(row: dict) -> Experiment | None:
    if row.get("schema", records.SCHEMA) != records.SCHEMA:
        return None
    return next((each for each in known() if each.wrote(row)), None)


def _latest(experiment: Experiment | None, rows: list[dict]) -> list[dict]:
    return rows if experiment is None else list(records.latest(rows, experiment.key).values())
