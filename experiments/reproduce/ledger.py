"""Rows to the ledger: for each published result what was measured here, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import attnzoo
from attnzoo import Kernel
from experiments.accuracy import analysis
from experiments.accuracy.cells import SHARED
from experiments.reproduce import stepping, trainings, verdict
from experiments.reproduce.presets import Preset, kernel, preset
from experiments.reproduce.published import REFERENCE, SPEED, Published, ratio
from experiments.reproduce.verdict import Judgement, Reason
from experiments.statistics import Mean
from experiments.tasks import parse_tasks

Rows = dict[str, list[dict]]  # of `STEPS`, and of each setting in `trainings.TRAININGS`
STEPS = "steps"


class Measured(NamedTuple):
    """What rows say of one kernel: a number, or else the reason why there is none."""

    value: Mean | None = None
    reason: Reason = Reason.NOT_RUN
    detail: str = ""


class Entry(NamedTuple):
    """A line of the ledger; `command` is empty where nothing here could measure the result."""

    result: Published
    preset: Preset
    command: str
    faithful: Measured
    corrected: Measured
    judgement: Judgement


def entry(result: Published, rows: Rows, out: str) -> Entry:
    """What is said of a result. `rows` are the last ones of each cell; `out` is where they are."""
    kernels = preset(result)
    measure = _step if result.is_ratio else _training
    faithful, corrected = (measure(result, kernel(text), rows) for text in kernels)
    return Entry(result, kernels, command(result, out), faithful, corrected, judged(result, faithful))


def judged(result: Published, ours: Measured) -> Judgement:
    """The rule of `verdict.py`, where there is something to apply it to."""
    if result.is_ratio and result.model == REFERENCE:
        return verdict.not_comparable(Reason.REFERENCE)
    if ours.value is None:
        return verdict.not_comparable(ours.reason, ours.detail)
    if result.is_ratio:
        return verdict.of_ratio(ratio(result), ours.value.value)
    return verdict.of_accuracy(result.value, ours.value)


def command(result: Published, out: str) -> str:
    """What measures the kernels of a result; empty where its task or all of its kernels are not here."""
    if result.is_ratio:
        chosen = f"--only={result.table} --models={result.model} --lengths={result.length}"
        return f"python -m experiments.reproduce {chosen} --out={out}"
    setting, texts = trainings.name(result), known(preset(result))
    return trainings.command(setting, texts, out) if setting and texts else ""


def known(kernels: Iterable[str | None]) -> list[str]:
    """Those of some kernels that the catalogue has."""
    return [text for text in kernels if kernel(text) is not None]


def _step(result: Published, which: Kernel | None, rows: Rows) -> Measured:
    if which is None:
        return Measured(reason=Reason.NO_KERNEL)
    found = [row for row in rows[STEPS] if (row["kernel"], row["length"]) == (repr(which), result.length)]
    if not found:
        return Measured()
    row = found[-1]
    value = (stepping.speed if result.table == SPEED else stepping.memory)(row)
    detail = row.get("reason", "the reference was not timed")
    return Measured(value, Reason.NO_NUMBER, "" if value else detail)


def _training(result: Published, which: Kernel | None, rows: Rows) -> Measured:
    setting = trainings.name(result)
    if setting is None:
        return Measured(reason=Reason.NO_TASK)
    if which is None:
        return Measured(reason=Reason.NO_KERNEL)
    own = [row for row in rows[setting] if row["kernel"] == repr(which) and _is_of(row, setting)]
    wanted = len(trainings.TRAININGS[setting]["learning_rates"].split(",")) * trainings.SEEDS
    if len(own) < wanted:
        return Measured(detail=f"{len(own)} of {wanted} models trained" if own else "")
    [found] = analysis.summarise(own)
    percent = found["score"] and Mean(*(x if x is None else 100 * x for x in found["score"]))
    return Measured(percent, Reason.NO_NUMBER, "" if percent else found["note"])


def _is_of(row: dict, setting: str) -> bool:
    """Whether a row was trained by a setting: its folder may hold others."""
    flags = trainings.TRAININGS[setting]
    given = {"length": flags["lengths"], "width": flags["widths"]}
    given |= {name: flags[name] for name in SHARED if name in flags}
    rates = {float(rate) for rate in flags["learning_rates"].split(",")}
    [task], [positions] = parse_tasks(flags["task"]), attnzoo.parse_positions(flags.get("positions", "learned"))
    is_same = all(row[name] == type(row[name])(value) for name, value in given.items())
    is_same &= (row["task"], row["positions"]) == (repr(task), repr(positions))
    return is_same and row["learning_rate"] in rates and row["seed"] < trainings.SEEDS
