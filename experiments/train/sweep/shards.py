"""Cells dealt to shards one by one, so that each shard is about as long as another, and a lost one loses no kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.train.sweep.cells import Cell


def dealt(cells: Iterable[Cell], count: int) -> list[list[Cell]]:
    """All cells in `count` lists, whose lengths differ by one at most.

    Each goes to a shard with the fewest cells, and of these to the one that has had least of what it is: its kernel,
    its size, both together, and its seed. Nothing that comes after it decides, so that more seeds, which come last,
    leave all others where they were.
    """
    shards: list[list[Cell]] = [[] for _ in range(count)]
    had: list[Counter] = [Counter() for _ in shards]
    for cell in cells:
        size = cell.task, cell.length, cell.width
        traits = ("kernel", cell.kernel), (cell.kernel, *size), size, ("seed", cell.seed)
        least = min(range(count), key=lambda shard: (len(shards[shard]), sum(map(had[shard].__getitem__, traits))))
        shards[least].append(cell)
        had[least].update(traits)
    return shards
