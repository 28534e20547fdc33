"""Short examples before long ones: three quarters of the steps at the shortest length, and the rest in equal parts.

Lengths double up to a cell's own, as far down as its task has examples. What is found in short sequences, where it is
found sooner and costs less, is then stretched.
"""

from __future__ import annotations

from experiments import tasks
from experiments.tasks.task import Task

SHORTEST = 16
FIRST = 0.75  # of the steps


def lengths(task: Task, longest: int) -> list[int]:
    """Those that are learned, one after another."""
    found = [longest]
    while found[0] % 2 == 0 and found[0] >= 2 * SHORTEST and _has(task, found[0] // 2):
        found.insert(0, found[0] // 2)
    return found


def _has(task, length) -> bool:
    try:
        task.batch("train", 0, 0, 1, length)
    except ValueError:
        return False
    return True


def at(step: int, steps: int, learned: list[int]) -> int:
    """The length of a step of so many."""
    first = round(FIRST * steps) if len(learned) > 1 else steps
    if step < first:
        return learned[0]
    later = learned[1:]
    return later[(step - first) * len(later) // (steps - first)]


def of(row: dict) -> list[int] | None:
    """The lengths that the model of a row has learned; None where neither the row nor the catalogue of tasks tells."""
    if not row.get("curriculum"):
        return [row["length"]]
    if "learned_lengths" in row:
        return row["learned_lengths"]
    try:
        [task] = tasks.parse_tasks(f"{row['task_name']}({row['task'].partition('(')[2]}", imports=False)
    except ValueError:
        return None
    return lengths(task, row["length"])
