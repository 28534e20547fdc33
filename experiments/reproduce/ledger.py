"""Rows to the ledger: for each published result what was measured here, and what is said of it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from attnzoo import Kernel
from experiments.bench import records
from experiments.reproduce import stepping, trainings, verdict
from experiments.reproduce.presets import Preset, kernel, preset
from experiments.reproduce.published import REFERENCE, SPEED, Published, ratio
from experiments.reproduce.verdict import Judgement, Reason
from experiments.show import statistics
from experiments.show.statistics import Mean
from experiments.train.sweep import analysis

Rows = dict[str, list[dict]]  # of `STEPS`, and of each setting in `trainings.TRAININGS`
STEPS = "steps"


class Measured(NamedTuple):
    """What rows say of one kernel: a number, or else the reason why there is none."""

    value: Mean | None = None
    reason: Reason = Reason.NOT_RUN
    detail: str = ""


class Entry(NamedTuple):
    """A line of the ledger."""

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
    return Entry(result, kernels, command(result, rows, out), faithful, corrected, judged(result, faithful))


def judged(result: Published, ours: Measured) -> Judgement:
    """The rule of `verdict.py`, where there is something to apply it to."""
    if result.is_ratio and result.model == REFERENCE:
        return verdict.not_comparable(Reason.REFERENCE)
    if ours.value is None:
        return verdict.not_comparable(ours.reason, ours.detail)
    if result.is_ratio:
        return verdict.of_ratio(ratio(result), ours.value.value)
    return verdict.of_accuracy(result.value, ours.value)._replace(detail=trainings.DEVIATIONS[result.group])


def command(result: Published, rows: Rows, out: str) -> str:
    """What measures a result, as its rows were measured."""
    if result.is_ratio:
        chosen = f"--only={result.table} --models={result.model} --lengths={result.length}"
        timed = [row for row in rows[STEPS] if row["length"] == result.length][-1:]
        chosen += "".join(f" --batch={row['batch']} --repeats={row['repeats']}" for row in timed)
        return f"python -m experiments.reproduce {chosen} --out={out}"
    return trainings.command(trainings.name(result), known(preset(result)), out)


def known(kernels: Iterable[str | None]) -> list[str]:
    """Those of some kernels that the catalogue has."""
    return [text for text in kernels if kernel(text) is not None]


def _step(result: Published, which: Kernel | None, rows: Rows) -> Measured:
    if which is None:
        return Measured(reason=Reason.OTHER_FORM)
    found = [row for row in rows[STEPS] if (row["kernel"], row["length"]) == (repr(which), result.length)]
    if not found:
        return Measured()
    row = found[-1]
    value = (stepping.speed if result.table == SPEED else stepping.memory)(row)
    detail = row.get("reason", "the reference was not timed")
    return Measured(value, Reason.NO_NUMBER, "" if value else detail)


def _training(result: Published, which: Kernel | None, rows: Rows) -> Measured:
    if which is None:
        return Measured(reason=Reason.OTHER_FORM)
    setting = trainings.name(result)
    wanted = trainings.cells(setting, which)
    of_kernel = (row for row in rows[setting] if row["kernel"] == repr(which))
    own = [row for row in of_kernel if records.cell(row, trainings.SAME) in wanted]
    own = [row for row in own if row["digest"] == own[-1]["digest"]]  # of the data as they were last
    if len(own) < len(wanted):
        folder = trainings.folder(setting)
        reason = Reason.NOT_RUN if folder is None or pathlib.Path(folder).is_dir() else Reason.NO_DATA
        return Measured(reason=reason, detail=f"{len(own)} of {len(wanted)} models trained" if own else "")
    [found] = analysis.summarise(own)
    if found["seeds"] < trainings.SEEDS:
        lost = trainings.SEEDS - found["seeds"]
        return Measured(reason=Reason.NO_NUMBER, detail=f"{lost} of {trainings.SEEDS} seeds: {found['note']}")
    value, low, high = statistics.mean([100 * score for score in found["scores"]])
    return Measured(Mean(value, max(low, 0.0), min(high, 100.0)))  # no published share is beyond: no verdict moves
