"""Shards: together all cells once, and each with its share of every kernel, length, seed and rate."""

import itertools
from collections import Counter

import pytest

from attnzoo import BigBird, LearnedPositions, Linear, Performer, Rotary, SlidingWindow, Softmax
from experiments.tasks.text import Text
from experiments.train.sweep.cells import cells
from tests.test_accuracy import settings

KERNELS = Softmax(), Linear(), SlidingWindow(), Performer(), BigBird()


def grid(kernels=4, seeds=1, lengths=(16,), positions=1, rates=(1e-2,), widths=(8,)):
    chosen = {"tasks": (Text(),), "kernels": KERNELS[:kernels], "seeds": seeds, "lengths": lengths, "widths": widths}
    return chosen | {"tokens": 128, "positions": (LearnedPositions(), Rotary())[:positions], "learning_rates": rates}


# Each with how many cells a shard may have more than another of a kernel, of a length, and of a seed.
GRIDS = {
    "as many kernels as shards": (grid(seeds=5), 4, (1, 0, 0)),
    "twice as many": (grid(seeds=4), 2, (0, 0, 0)),
    "a factor is shared": (grid(seeds=3, positions=2, lengths=(16, 32)), 6, (0, 0, 1)),
    "no factor is": (grid(5, seeds=3, lengths=(16, 32, 64)), 4, (1, 1, 1)),
    "one kernel, as many lengths as shards": (grid(1, seeds=4, lengths=(16, 32, 64, 128)), 4, (0, 0, 0)),
    "rates": (grid(2, seeds=2, rates=(1e-3, 1e-2), lengths=(16, 32), widths=(8, 16)), 4, (0, 0, 0)),
    "fewer cells than shards": (grid(3), 8, (1, 1, 1)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_cells_are_dealt_evenly_and_each_once(name):
    chosen, count, allowed = GRIDS[name]
    whole = list(cells(settings("", **chosen)))
    parts = [list(cells(settings("", **chosen, shard=(index, count)))) for index in range(count)]
    assert Counter(itertools.chain(*parts)) == Counter(whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for trait, most in zip(("kernel", "length", "seed"), allowed, strict=True):
        counts = [Counter(getattr(cell, trait) for cell in part) for part in parts]
        for value in {getattr(cell, trait) for cell in whole}:
            had = [each[value] for each in counts]
            assert max(had) - min(had) <= most, (trait, value, had)


@pytest.mark.parametrize(
    ("rates", "count", "changes"),
    [(3, 3, {"seeds": 5}), (3, 3, {"lengths": (16, 32, 64)}), (4, 2, {"seeds": 5}), (3, 4, {"seeds": 4}),
     (2, 4, {"seeds": 3, "lengths": (16, 32)})],
)  # fmt: skip
def test_a_lost_shard_loses_no_rate_of_a_kernel(rates, count, changes):
    """Each has about as many cells of a rate as another, of every kernel and of all."""
    chosen = grid(**changes, rates=[10.0**-power for power in range(rates)])
    parts = [list(cells(settings("", **chosen, shard=(index, count)))) for index in range(count)]
    for of in (lambda cell: (cell.kernel, cell.learning_rate), lambda cell: cell.learning_rate):
        counts = [Counter(map(of, part)) for part in parts]
        for value in {of(cell) for part in parts for cell in part}:
            had = [each[value] for each in counts]
            assert max(had) - min(had) <= 1, (value, had)


def test_more_seeds_leave_cells_in_their_shards():
    few, many = (grid(3, seeds=seeds, lengths=(16, 32), rates=(1e-3, 1e-2, 1e-1)) for seeds in (3, 5))
    for index in range(4):
        before = list(cells(settings("", **few, shard=(index, 4))))
        assert list(cells(settings("", **many, shard=(index, 4))))[: len(before)] == before
