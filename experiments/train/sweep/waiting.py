"""Cells of one program that are not done: one process takes them in turn, and one without work takes over the last."""

from __future__ import annotations

import threading

from experiments.train.sweep.cells import Cell


class Waiting:
    """Cells by their places, of which the first is at work."""

    def __init__(self, cells: dict[int, Cell]):
        self._cells, self._lock = dict(cells), threading.Lock()

    def __len__(self) -> int:
        return len(self._cells)

    def first(self) -> tuple[int, Cell]:
        """The one at work, which stays whatever is spared."""
        with self._lock:
            return next(iter(self._cells.items()))

    def done(self, place: int) -> None:
        """One is no longer among them."""
        with self._lock:
            del self._cells[place]

    def dropped(self) -> list[int]:
        """The places of all of them, of which none is left."""
        with self._lock:
            places = list(self._cells)
            self._cells.clear()
            return places

    def spared(self) -> dict[int, Cell]:
        """The later half of those that are not at work; no longer among them."""
        with self._lock:
            idle = list(self._cells)[1:]
            return {place: self._cells.pop(place) for place in idle[len(idle) - len(idle) // 2 :]}
