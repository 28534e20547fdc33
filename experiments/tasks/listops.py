"""ListOps: the value of a nested list of operations on digits, such as `[MAX 4 [MIN 7 2 ] [SM 5 6 ] ]`, which is 4.

A tree grows from its root: a node above `max_depth` is an operation with probability `branching`, else a digit; an
operation is MIN, MAX, MED (the median, truncated) or SM (the sum modulo 10) of 2 to `max_arguments` nodes. Trees are
drawn until one has a length strictly between `min_length` and `max_length`, where an operation counts 2, itself and its
bracket, and a digit 1. Nangia and Bowman 2018, arXiv:1804.06028; these parameters, Tay et al. 2021, arXiv:2011.04006,
of whose trees 8.3% are as long as that, 1,035 on average.

The operation at the root alone is worth twice the majority (`root_operator`), and no accuracy up to that shows more.
Trees are drawn level by level, which has the same distribution as depth first. Then labels are drawn until the whole
expression belongs to the split by its hash: no two splits share one.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from attnzoo.contract import fields
from experiments.tasks.task import Examples, Task, accuracy, generator, of_split, one_answer, wrong_length

OPERATORS = ("MIN", "MAX", "MED", "SM")
PAD, DIGIT, OPERATOR, END = 0, 1, 11, 15  # the first token of each kind
WORDS = ("", *map(str, range(10)), *(f"[{name}" for name in OPERATORS), "]")
TREES = 100_000  # drawn before it is said that there is none of such a length


class Level(NamedTuple):
    """Nodes of one depth, in order; the children of the operations are the next level, in order.

    Attributes:
      is_operation: bool [nodes].
      arguments: how many each operation has, [operations].
    """

    is_operation: np.ndarray
    arguments: np.ndarray

    @property
    def firsts(self) -> np.ndarray:
        """Where the children of each operation start in the next level."""
        return np.cumsum(self.arguments) - self.arguments


@dataclasses.dataclass(frozen=True)
class ListOps(Task):
    """Ten classes. Without `min_length` and `max_length`, expressions fill a quarter to the whole of `length`."""

    min_length: int | None = 500
    max_length: int | None = 2000
    max_depth: int = 10
    max_arguments: int = 10
    branching: float = 0.25

    classes = 10
    vocabulary = END + 1
    chance = 0.1

    def __post_init__(self):
        for name in ("min_length", "max_length"):
            if getattr(self, name) is not None:
                fields.positive_integer(self, name)
        fields.positive_integer(self, "max_depth")
        if not fields.is_integer(self.max_arguments) or self.max_arguments < 2:
            raise ValueError(f"ListOps(max_arguments={self.max_arguments!r}): max_arguments must be an integer >= 2")
        if not fields.is_number(self.branching) or not 0 < self.branching <= 1:
            raise ValueError(f"ListOps(branching={self.branching!r}): branching must be a number > 0 and <= 1")

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        levels, rng = self._accepted(seed, split, index, length)
        is_operation = np.concatenate([level.is_operation for level in levels])
        starts, ends = placed(levels)

        def expression():
            tokens = np.empty(ends[0] + 1, np.int32)
            tokens[starts[is_operation]] = OPERATOR + rng.integers(len(OPERATORS), size=is_operation.sum())
            tokens[starts[~is_operation]] = DIGIT + rng.integers(10, size=(~is_operation).sum())
            tokens[ends[is_operation]] = END
            return tokens

        tokens = of_split(split, expression)
        padded = np.full(length, PAD, np.int32)
        padded[: len(tokens)] = tokens
        return one_answer(padded, value(levels, tokens[starts]), len(tokens))

    def tree(self, rng: np.random.Generator, shortest: int, longest: int) -> list[Level] | None:
        """One tree, without labels; None if its length is not from `shortest` to `longest`, as of most."""
        levels, width, length = [], 1, 1
        while width:
            may_branch = len(levels) + 1 < self.max_depth
            is_operation = rng.random(width) < self.branching if may_branch else np.zeros(width, bool)
            arguments = rng.integers(2, self.max_arguments + 1, size=np.count_nonzero(is_operation))
            levels.append(Level(is_operation, arguments))
            width = int(arguments.sum())
            length += len(arguments) + width
            if length > longest:
                return None
        return levels if length >= shortest else None

    def root_operator(self, length: int, seed: int = 0, count: int = 2000) -> float:
        """The accuracy, on `count` test examples, of the commonest value of each root operation in training ones."""
        train, test = (self.batch(split, seed, 0, count, length) for split in ("train", "test"))
        best = np.zeros(self.vocabulary, np.int32)
        for root in np.unique(train.inputs[:, 0]):
            best[root] = np.bincount(train.targets[train.inputs[:, 0] == root]).argmax()
        return accuracy(test, best[test.inputs[:, 0]])

    def bounds(self, length: int) -> tuple[int, int]:
        """The shortest and the longest expression in an input of `length` tokens."""
        shortest = max(length // 4, 2) if self.min_length is None else self.min_length + 1
        longest = length if self.max_length is None else self.max_length - 1
        if longest > length:
            least = f" and a min_length below {length}" if shortest > length else ", or None"
            room = f"at least {longest}, room for its longest expression; or give it max_length={length + 1}{least}"
            raise wrong_length(self, length, room)
        if shortest > longest:
            none = f"expressions of {shortest} to {longest} tokens, and there are none"
            raise wrong_length(self, length, f"{none}; give it a min_length below {longest}")
        return shortest, longest

    def _accepted(self, seed, split, index, length):
        shortest, longest = self.bounds(length)
        rng = generator(seed, split, index)
        for _ in range(TREES):
            levels = self.tree(rng, shortest, longest)
            if levels is not None:
                return levels, rng
        raise wrong_length(self, length, f"trees of {shortest} to {longest} tokens, and in {TREES:,} there was none")


def placed(levels: list[Level]) -> tuple[np.ndarray, np.ndarray]:
    """First and last place of each node among the tokens of the expression, nodes in the order of levels."""
    sizes = [np.ones(len(level.is_operation), int) for level in levels]
    for level, size, below in reversed(list(zip(levels[:-1], sizes[:-1], sizes[1:], strict=True))):
        size[level.is_operation] = 2 + np.add.reduceat(below, level.firsts)
    starts = [np.zeros(1, int)]
    for level, below in zip(levels[:-1], sizes[1:], strict=True):
        before = np.cumsum(below) - below
        parents = starts[-1][level.is_operation] + 1 - before[level.firsts]
        starts.append(np.repeat(parents, level.arguments) + before)
    starts, sizes = np.concatenate(starts), np.concatenate(sizes)
    return starts, starts + sizes - 1


def value(levels: list[Level], labels: np.ndarray) -> int:
    """What the expression is worth, level by level from below; `labels` are tokens of nodes in the order of levels."""
    below = np.zeros(0, int)
    ends = np.cumsum([len(level.is_operation) for level in levels])
    for level, label in reversed(list(zip(levels, np.split(labels, ends[:-1]), strict=True))):
        worth = label.astype(int) - DIGIT
        if len(level.arguments):
            worth[level.is_operation] = _applied(label[level.is_operation] - OPERATOR, below, level)
        below = worth
    return int(below[0])


def _applied(operators, x, level):
    firsts, owner = level.firsts, np.repeat(np.arange(len(level.arguments)), level.arguments)
    ordered = x[np.lexsort((x, owner))]
    middles = ordered[firsts + (level.arguments - 1) // 2] + ordered[firsts + level.arguments // 2]
    each = (np.minimum.reduceat(x, firsts), np.maximum.reduceat(x, firsts), middles // 2, np.add.reduceat(x, firsts))
    return np.choose(operators, each) % 10


def text_of(tokens: np.ndarray) -> str:
    """Tokens as a person writes them, without the padding."""
    return " ".join(WORDS[token] for token in tokens if token != PAD)
