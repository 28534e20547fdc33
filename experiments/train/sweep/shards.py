"""Cells dealt to shards in rounds, so that each is about as long as another, and a lost one loses no kernel or rate."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.train.sweep.cells import Cell


def dealt(cells: Iterable[Cell], count: int) -> list[list[Cell]]:
    """All cells in `count` lists, whose lengths differ by one at most.

    The next cells of a seed go to the shards with the fewest, one to each, so that these have had least of what they
    are. Nothing of a later seed decides, so that more seeds, which come last, leave all others where they were.
    """
    shards: list[list[Cell]] = [[] for _ in range(count)]
    had: list[Counter] = [Counter() for _ in shards]
    for _, of_seed in itertools.groupby(cells, key=lambda cell: cell.seed):
        left = list(of_seed)
        while left:
            fewest = min(map(len, shards))
            free = [shard for shard in range(count) if len(shards[shard]) == fewest]
            dealing, left = left[: len(free)], left[len(free) :]
            costs = [[_had(had[shard], cell) for shard in free] for cell in dealing]
            for cell, place in zip(dealing, _places(costs), strict=False):
                shards[free[place]].append(cell)
                had[free[place]].update(_traits(cell).keys())
    return shards


def _traits(cell: Cell) -> dict[tuple, int]:
    """What shards have about as often as each other, and how much each counts."""
    size = cell.task, cell.length, cell.width
    rate = "rate", cell.learning_rate
    whole = dict.fromkeys([("kernel", cell.kernel), size, ("seed", cell.seed), (cell.kernel, rate)], 100)
    return whole | {(cell.kernel, *size): 10, rate: 1}


def _had(counts: Counter, cell: Cell) -> int:
    """How much of what a cell is a shard has had."""
    return sum(counts[trait] * weight for trait, weight in _traits(cell).items())


def _places(costs: list[list[int]]) -> list[int]:
    """A column for each row of costs, all different: the cheapest that is left, until no two gain by an exchange."""
    columns = range(len(costs[0]))
    costs = costs + [[0] * len(columns)] * (len(columns) - len(costs))  # rows of what is left over
    places: list[int] = []
    for row in costs:
        places.append(min((column for column in columns if column not in places), key=row.__getitem__))
    while any(_exchanged(costs, places, *pair) for pair in itertools.combinations(columns, 2)):
        pass
    return places


def _exchanged(costs: list[list[int]], places: list[int], one: int, other: int) -> bool:
    """Whether two rows gained by an exchange of their columns, which is then made."""
    mine, theirs = places[one], places[other]
    gains = costs[one][theirs] + costs[other][mine] < costs[one][mine] + costs[other][theirs]
    if gains:
        places[one], places[other] = theirs, mine
    return gains
