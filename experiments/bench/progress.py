"""Progress and tables: rich in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Collection, Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

KNOWN = 0.05  # of a job, from which on the time left is told: before, it is mostly that of imports and compilers
WIDTH = 160  # of what is no terminal, unless COLUMNS says another, which rich reads
console = Console(width=None if Console().is_terminal or os.environ.get("COLUMNS", "").isdigit() else WIDTH)


_interrupted = threading.Event()


def remember_interrupts() -> None:
    """Make Ctrl-C end a job after the item at hand even where it falls into a callback that swallows exceptions."""

    def interrupt(signum, frame):
        _interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


class Each:
    """The items of a job, with a line said about each."""

    def __init__(self, items: Iterable, progress: Progress, task):
        self._items, self._progress, self._task = items, progress, task
        self._begun, self._start = 0, time.monotonic()

    def __iter__(self) -> Iterator:
        for item in self._items:
            self._begun += 1
            yield item
            self._progress.update(self._task, completed=self._begun)
            if _interrupted.is_set():
                raise KeyboardInterrupt

    def reach(self, share: float) -> None:
        """Put the bar where so much of the item after the last one is done."""
        self._progress.update(self._task, completed=self._begun + share)

    def say(self, line: str) -> None:
        """Print a line above the bar, or with the time left where there is none."""
        self._progress.console.print(line + self._left(), highlight=False, markup=False, soft_wrap=True)

    def _left(self) -> str:
        [task] = self._progress.tasks
        share = max(task.completed, self._begun) / task.total if task.total else 1.0
        if console.is_terminal or not 0 < share < 1:
            return ""
        minutes = (time.monotonic() - self._start) * (1 / share - 1) / 60
        is_told = share >= KNOWN and minutes >= 1
        return f" ({share:.0%} done, about {minutes:,.0f} min left)" if is_told else f" ({share:.0%} done)"


@contextlib.contextmanager
def over(items: Iterable, title: str, total: int | None = None) -> Iterator[Each]:
    """Go over `items` with a bar, time spent and time left; `total` is needed where they have no length."""
    total = len(items) if isinstance(items, Collection) else total
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        console.print(title, highlight=False, markup=False)
        yield Each(items, progress, progress.add_task(title.partition(":")[0], total=total))


def table(title: str, header: list[str], lines: list[list[str]]) -> None:
    """Print a table."""
    drawn = Table(title=title, title_justify="left")
    for column, name in enumerate(header):
        text = column < 2 or column == len(header) - 1
        drawn.add_column(name, justify="left" if text else "right", overflow="fold")
    for line in lines:
        drawn.add_row(*line)
    console.print(drawn, markup=False)
