"""Rows to statements: what a step costs with each kernel, relative to softmax that keeps its scores, and verdicts."""

from __future__ import annotations

from experiments.reproduce import ledger, page, stepping, trainings
from experiments.reproduce.published import TABLES, results
from experiments.show import tables
from experiments.show.tables import Table
from experiments.show.units import Shown

ACROSS = ("kernel", "length")


def summaries(rows: list[dict]) -> list[Table]:
    """Speed and memory: a line for each kernel, and then the verdicts."""
    return [
        tables.pivot("Speed: steps in a second, relative to softmax that keeps its scores", rows, *ACROSS, _speed),
        tables.pivot("Memory, relative to softmax that keeps its scores", rows, *ACROSS, _memory),
        *_verdicts({ledger.STEPS: rows}, are_ratios=True),
    ]


def of_models(rows: list[dict]) -> list[Table]:
    """Verdicts on published accuracies, by models of `experiments.accuracy`; none where no setting is published."""
    return _verdicts(dict.fromkeys(trainings.TRAININGS, rows), are_ratios=False)


def _verdicts(rows: ledger.Rows, *, are_ratios: bool) -> list[Table]:
    """The lines of the ledger with a number, a table for each published one."""
    entries = [ledger.entry(result, rows, "") for result in results() if result.is_ratio is are_ratios]
    measured = [entry for entry in entries if entry.faithful.value or entry.corrected.value]
    found = []
    for table in TABLES:
        header, lines = page.table([entry for entry in measured if entry.result.table == table])
        if lines:
            without_command = header[:-1], [line[:-1] for line in lines]
            found.append(Table(f"Published {table}, measured again", *without_command))
    return found


def _speed(group: list[dict]) -> str:
    found = stepping.speed(group[-1])
    return tables.range_text(*found) if found else tables.status_text(group[-1])


def _memory(group: list[dict]) -> str:
    found = stepping.memory(group[-1])
    return Shown(f"{found.value:.2f}", found.value) if found else tables.status_text(group[-1])
