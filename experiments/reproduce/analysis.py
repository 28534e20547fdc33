"""Rows to statements: what a step costs with each kernel, relative to softmax that keeps its scores."""

from __future__ import annotations

from experiments import tables
from experiments.reproduce import stepping
from experiments.tables import Table
from experiments.wording import Shown

ACROSS = ("kernel", "length")


def summaries(rows: list[dict]) -> list[Table]:
    """Speed and memory, a line for each kernel; verdicts are in the ledger."""
    return [
        tables.pivot("Speed: steps in a second, relative to softmax that keeps its scores", rows, *ACROSS, _speed),
        tables.pivot("Memory, relative to softmax that keeps its scores", rows, *ACROSS, _memory),
    ]


def _speed(group: list[dict]) -> str:
    found = stepping.speed(group[-1])
    return tables.range_text(*found) if found else tables.status_text(group[-1])


def _memory(group: list[dict]) -> str:
    found = stepping.memory(group[-1])
    return Shown(f"{found.value:.2f}", found.value) if found else tables.status_text(group[-1])
