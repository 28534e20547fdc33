"""The word problem of a finite group: what is the product of all elements so far? It is said at each of them.

    g_1  g_2  g_3  ..   ->   g_1   g_1 g_2   g_1 g_2 g_3   ..

S5 and A5 are not solvable: their word problem is complete for NC1, which constant depth is thought not to reach, and
all others here are easier. Merrill, Petty and Sabharwal 2024, arXiv:2404.08819, ask for A5, A4 x Z5 and Z60, which have
60 elements each. Grazzi et al. 2024, arXiv:2411.12537, ask for S5, train on 32 elements, and limit what an element
moves: two of five leaves the identity and ten swaps.

Elements are numbered, S_n and A_n in the lexicographic order of permutations, the identity first; which product stands
on the left is a convention that changes no answer's difficulty. A word belongs to a split by its hash.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re

import numpy as np

from attnzoo.contract import fields
from experiments.tasks.draws import Drawn, Draws
from experiments.tasks.task import Examples

FACTOR = re.compile(r"([SAZ])([1-9]\d?)")
LARGEST = 720  # elements of a group


@dataclasses.dataclass(frozen=True)
class WordProblem(Drawn):
    """Elements of `group`, such as "S5", "A4xZ5" or "Z60", that move at most `moved` points each, all if it is None."""

    group: str = "S5"
    moved: int | None = None

    def __post_init__(self):
        fields.text(self, "group")
        if self.moved is not None:
            fields.positive_integer(self, "moved")
        found = self.elements()
        if len(found) < 2:
            raise ValueError(f"WordProblem(moved={self.moved!r}): {self.group} has no such element but the identity")

    @property
    def vocabulary(self) -> int:
        return len(table(self.group))

    @property
    def chance(self) -> float:
        return 1 / self.vocabulary

    def elements(self) -> np.ndarray:
        """Those that words are made of."""
        count = len(table(self.group))
        if self.moved is None:
            return np.arange(count)
        if not re.fullmatch("[SA].", self.group):
            raise ValueError(f"WordProblem(moved={self.moved!r}): expected None, or a group S_n or A_n, which permutes")
        points = permutations(self.group)
        return np.flatnonzero((points != np.arange(points.shape[1])).sum(axis=1) <= self.moved)

    def drawn(self, draws: Draws, split: str, length: int) -> Examples:
        elements, product = self.elements().astype(np.int32), table(self.group)
        words = draws.of_split(split, lambda own: elements[own.below(len(elements), length)])
        products = words.copy()
        for place in range(1, length):
            products[:, place] = product[products[:, place - 1], words[:, place]]
        return Examples(words, products, np.ones(words.shape, np.float32))


@functools.cache
def table(group: str) -> np.ndarray:
    """The product of each two elements, [elements, elements].

    Raises:
      ValueError: the text names no group, or too large a one.
    """
    parts = [FACTOR.fullmatch(part) for part in group.split("x")]
    if not all(parts):
        raise ValueError(f"group={group!r}: expected S, A or Z and a number, such as S5, or a product such as A4xZ5")
    factors = [_factor(part[0], part[1], int(part[2])) for part in parts if part]
    if np.prod([len(each) for each in factors]) > LARGEST:
        raise ValueError(f"group={group!r}: expected at most {LARGEST} elements")
    return functools.reduce(_product, factors)


def _factor(name, kind, order):
    if kind == "Z":
        return np.add.outer(np.arange(order), np.arange(order)) % order
    if order > 6:
        raise ValueError(f"group={name!r}: expected permutations of at most 6 points")
    points = permutations(name)
    number = {tuple(each): place for place, each in enumerate(points.tolist())}
    return np.array([[number[tuple(p[q])] for q in points] for p in points])


def _product(one, other):
    whole = one[:, None, :, None] * len(other) + other[None, :, None, :]
    return whole.reshape(len(one) * len(other), -1)


@functools.cache
def permutations(group: str) -> np.ndarray:
    """Those of S_n or A_n, [elements, points]."""
    every = list(itertools.permutations(range(int(group[1:]))))
    return np.array([each for each in every if group[0] == "S" or not _inversions(each) % 2])


def _inversions(points):
    return sum(a > b for a, b in itertools.combinations(points, 2))
