"""Settings to rows: the models of a sweep, and the step at which each has solved its task."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from experiments.bench import progress
from experiments.bench.experiment import Cell, Run
from experiments.learnability import analysis
from experiments.learnability.settings import Settings
from experiments.show import caveats
from experiments.train.sweep.run import Sweep


class Learnability(Sweep):
    """A model at each rate by each seed."""

    name = "learnability"
    key = (*Sweep.key, "solved")
    columns = ("learning_rate", "solved")
    caveats = (
        caveats.SMALL,
        "Bands are of these rates, this many steps and this optimiser.",
        "Within equal operations a model is looked at earlier: its schedule of rates is that of all its steps.",
    )
    summaries = staticmethod(analysis.summaries)

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        for cells in super().cells(settings):
            yield [cell._replace(row=cell.row | {"solved": settings.solved}) for cell in cells]

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        for row in super().measure(settings, todo, run):
            yield row | {"solved_at": analysis.solved_at(row)}

    def shown(self, settings: Settings, rows: list[dict], own: list[dict]) -> list[dict]:
        return own

    def draw(self, settings: Settings, rows: list[dict], out: pathlib.Path) -> None:
        from experiments.learnability import plot

        plot.draw(rows, out)

    def show(self, settings: Settings, rows: list[dict]) -> None:
        for table in analysis.summaries(rows):
            progress.table(table.title, table.header, table.lines)
        super(Sweep, self).show(settings, rows)


EXPERIMENT = Learnability()
run = EXPERIMENT.run
