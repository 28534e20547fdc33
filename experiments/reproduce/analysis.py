"""Rows to statements: what a step costs with each kernel, relative to softmax that keeps its scores."""

from __future__ import annotations

from experiments import tables
from experiments.reproduce import ledger, page, stepping, trainings
from experiments.reproduce.published import MEMORY, SPEED, results
from experiments.tables import Table
from experiments.wording import Shown

ACROSS = ("kernel", "length")


def summaries(rows: list[dict]) -> list[Table]:
    """Speed and memory: a line for each kernel, and then the verdicts."""
    return [
        tables.pivot("Speed: steps in a second, relative to softmax that keeps its scores", rows, *ACROSS, _speed),
        tables.pivot("Memory, relative to softmax that keeps its scores", rows, *ACROSS, _memory),
        *(_verdicts(table, rows) for table in (SPEED, MEMORY)),
    ]


def _verdicts(table: str, rows: list[dict]) -> Table:
    known = {ledger.STEPS: rows} | {setting: [] for setting in trainings.TRAININGS}
    entries = [ledger.entry(result, known, "") for result in results() if result.table == table]
    header, lines = page.table([entry for entry in entries if entry.faithful.value or entry.corrected.value])
    return Table(f"Published {table}, measured again", header[:-1], [line[:-1] for line in lines])


def _speed(group: list[dict]) -> str:
    found = stepping.speed(group[-1])
    return tables.range_text(*found) if found else tables.status_text(group[-1])


def _memory(group: list[dict]) -> str:
    found = stepping.memory(group[-1])
    return Shown(f"{found.value:.2f}", found.value) if found else tables.status_text(group[-1])
