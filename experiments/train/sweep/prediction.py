"""How long a cell should take, before it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from experiments.bench import processor
from experiments.train.sweep import convergence, models
from experiments.train.sweep.cells import Cell
from experiments.train.sweep.settings import Settings

RATE = 1e10  # operations in a second of one core, where nothing has been measured


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Hours of a cell; None where its operations cannot be counted."""

    hours: Callable[[Cell], float | None]
    basis: str

    def __call__(self, cell: Cell) -> float | None:
        return self.hours(cell)


def of(settings: Settings, rows: list[dict]) -> Prediction:
    """Operations counted from each program, at the rate that measured rows have reached, or at a guess.

    Those of a step are of examples of the cell's own length. Where a curriculum makes them shorter, rows reach a rate
    that is too high by as much, which the cells of that curriculum are then given too.
    """
    reached, basis = rate(rows)

    def hours(cell: Cell) -> float | None:
        counted = models.step_flops(settings, cell.program)
        return None if counted is None else counted * settings.steps / reached / 3600

    return Prediction(hours, basis)


def rate(rows: list[dict]) -> tuple[float, str]:
    """Operations in a second, as measured rows have reached or as guessed, and which of both it is."""
    rates = [
        row["step_flops"] * convergence.trained(row) / row["train_seconds"]
        for row in rows
        if row.get("status") == "measured" and row.get("step_flops") and row.get("train_seconds")
    ]
    found = float(np.median(rates)) if rates else RATE * processor.cores()
    return found, f"at {found / 1e9:.3g} GFLOP/s, " + (
        "as rows here have reached" if rates else "a guess: none is measured"
    )
