"""One runner for every experiment that makes rows: what is missing is measured, kept, told, and drawn.

An experiment says what its cells are, how they are measured, and what their rows look like to people; all else is
here, once: the folder's lock, which cells are tried again, rows on the disk as they come, and the exit code.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import importlib
import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

from experiments.bench import compile_cache, locks, optional, outcome, processes, progress, provenance, records


class Cell(NamedTuple):
    """What is measured at once: `row` identifies it and takes what is found, `subject` is what JSON does not hold."""

    row: dict
    subject: Any = None


class Run(NamedTuple):
    """What measuring may know of a run: the folder's rows so far, and how to tell the share done of a cell."""

    known: list[dict]
    reach: Callable[[float], None]


class Experiment(abc.ABC):
    """A question that is put to cells, each of which becomes a row.

    Attributes:
      name: its package in `experiments`, which its rows tell.
      key: columns that make two rows the same cell.
      columns: what rows without a name have, and those of no other experiment.
      caveats: what its numbers do not support, whatever they are.
      noun: what its cells are called.
      leaves: what is in its folder.
      listing: the setting that asks for a list of cells in place of a run.
      is_cumulative: whether what earlier runs have left in the folder is drawn, too.
      has_models: whether rows are of trained models, which a published accuracy may be about.
      keeps_programs: whether compiled programs stay in the folder; not where a question is how long compiling takes.
    """

    name: ClassVar[str]
    key: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[str, ...]]
    caveats: ClassVar[tuple[str, ...]] = ()
    noun: ClassVar[str] = "cells"
    leaves: ClassVar[str] = "rows and figures"
    listing: ClassVar[str] = "dry_run"
    is_cumulative: ClassVar[bool] = False
    has_models: ClassVar[bool] = False
    keeps_programs: ClassVar[bool] = False

    @classmethod
    def wrote(cls, row: dict) -> bool:
        """Whether a row is of this experiment: by its name, or by columns where it is of before rows had one."""
        return row["experiment"] == cls.name if "experiment" in row else set(cls.columns) <= row.keys()

    @abc.abstractmethod
    def cells(self, settings) -> Iterable[list[Cell]]:
        """All cells, in lists that are measured one after another; a list is asked for when those before it are."""

    @abc.abstractmethod
    def measure(self, settings, todo: list[Cell], run: Run) -> Generator[dict, None, None]:
        """The rows of cells, in any order; `one_by_one` and `timing.in_turns` keep those that raise from the others.

        It is closed where the run breaks off, and ends what it has at work.
        """

    @abc.abstractmethod
    def describe(self, row: dict) -> str:
        """A line on a row."""

    def draw(self, settings, rows: list[dict], out: pathlib.Path) -> None:
        """Write figures of rows, by `plot` of the package; an ImportError costs them alone."""
        self._own("plot").draw(rows, out)

    def summaries(self, rows: list[dict]) -> list:
        """Rows to statements, by `analysis` of the package: tables, as the page shows them."""
        return self._own("analysis").summaries(rows)

    def list_cells(self, settings) -> int:
        """Print cells and what they should cost; run none."""
        raise NotImplementedError(f"experiments.{self.name} has no list of cells")

    def title(self, cells: list[Cell]) -> str:
        """What the progress of a list of cells is called."""
        return self.name

    def part(self, settings) -> str:
        """Which part of the folder a run has; empty for the whole."""
        return ""

    def identity(self, row: dict) -> tuple:
        """What makes two rows the same cell."""
        return records.cell(row, self.key)

    def missing(self, settings, cells: list[Cell], rows: list[dict]) -> list[Cell]:
        """Cells without a row, and those that are tried again."""
        found = self.last(rows)
        budget = lambda cell: cell.row.get("cell_budget")
        is_missing = lambda cell, row: row is None or outcome.is_to_repeat(row, budget(cell))
        return [cell for cell in cells if is_missing(cell, found.get(self.identity(cell.row)))]

    def read(self, out: pathlib.Path) -> list[dict]:
        """The rows of a folder that are this experiment's, or do not tell whose they are."""
        return [row for row in records.read(out) if row.get("experiment", self.name) == self.name]

    def last(self, rows: Iterable[dict]) -> dict[tuple, dict]:
        """The last row of each cell."""
        return {self.identity(row): row for row in rows}

    def shown(self, settings, rows: list[dict], own: list[dict]) -> list[dict]:
        """Which of the folder's rows are drawn; `own` are those of the cells that settings name."""
        return list(self.last(rows).values()) if self.is_cumulative else own

    def show(self, settings, rows: list[dict]) -> None:
        """Draw rows, and say where they are."""
        out = pathlib.Path(settings.out)
        optional.draw(functools.partial(self.draw, settings), rows, out)
        print(f"{self.leaves}: {out}")

    def more(self, settings) -> int:
        """Do what comes between measuring and showing; its exit code, of which others than 0 and 1 end the run."""
        return 0

    def stated(self, settings) -> Iterator[list[Cell]]:
        """`cells`, with rows that tell the experiment and where they are made."""
        given = dict(zip(records.OWNER, (self.name, records.SCHEMA), strict=True)) | provenance.environment()
        for cells in self.cells(settings):
            yield [cell._replace(row=given | cell.row) for cell in cells]

    def todo(self, settings) -> tuple[list[Cell], list[Cell]]:
        """All cells, and those that a run would measure."""
        cells = [cell for some in self.stated(settings) for cell in some]
        return cells, self.missing(settings, cells, self.read(pathlib.Path(settings.out)))

    def run(self, settings) -> int:
        """Measure what is missing, and show it.

        Returns:
          1 where a cell of these settings failed, diverged or broke a law, or all were refused; `outcome.STOPPED` where
          the run was asked to end, and the same command goes on from there; 0 otherwise.
        """
        out = pathlib.Path(settings.out)
        if getattr(settings, self.listing, False):
            locks.refuse(out)
            return self.list_cells(settings)
        if isinstance(settings, processes.Settings):
            processes.join(settings)
        if self.keeps_programs:
            compile_cache.keep(out)
        identities = []
        with locks.writing(out, self.part(settings)) if processes.is_first() else contextlib.nullcontext():
            for cells in self.stated(settings):
                identities += [self.identity(cell.row) for cell in cells]
                if not self._fill(settings, cells, out):
                    return outcome.STOPPED
            processes.agree("the end of the run", None)  # by then the first has written all rows
            rows = self.read(out)
        found = self.last(rows)
        own = [found[identity] for identity in identities if identity in found]
        if not processes.is_first():
            return outcome.code(own)
        further = self.more(settings)
        if further not in (0, 1):
            return further
        self.show(settings, self.shown(settings, rows, own))
        return max(outcome.code(own), further)

    def _own(self, module: str):
        """A module of the package, imported when it is needed."""
        return importlib.import_module(f"experiments.{self.name}.{module}")

    def _fill(self, settings, cells: list[Cell], out: pathlib.Path) -> bool:
        """Measure what is missing; whether it came to its end."""
        known = self.read(out)
        todo = self.missing(settings, cells, known)
        processes.agree("what is to do", [str(self.identity(cell.row)) for cell in todo])
        run = Run(known, lambda share: each.reach(share))
        title = f"{self.title(cells)}: {len(todo)} of {len(cells)} {self.noun} to do" if cells else self.name
        measured = contextlib.closing(self.measure(settings, todo, run))
        with measured as rows, progress.over(rows, title, len(todo)) as each:
            try:
                for row in each:
                    if processes.is_first():
                        records.append(out, row, self.part(settings))
                    known.append(row)
                    each.say(self.describe(row))
            except outcome.Stopped:
                each.say("stopped: the same command goes on from here")
                return False
        return True


def one_by_one(todo: Iterable[Cell], found: Callable[[Cell], dict]) -> Iterator[dict]:
    """The row of each cell with what is found of it; one that raises is a row that says so, and the others go on."""
    for cell in todo:
        try:
            yield cell.row | found(cell)
        except outcome.Stopped:
            raise
        except Exception as error:  # one cell that fails must not take the others with it
            yield cell.row | outcome.of(error)
