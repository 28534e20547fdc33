"""What a task is: parameters as fields of a frozen dataclass, and examples as a pure function of their number.

Example `index` of a split is decided by the task's fields, the seed, the split, the index and the length, and by
nothing else: not by the batch that it comes in, nor by what was asked before. So a run that goes on where it was
stopped sees what it would have seen. No example of one split is in another; each task says how.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from attnzoo.contract import fields

SPLITS = ("train", "validation", "test")
TRIES = 10_000  # of drawing something that belongs to a split, before it is said that there is none


class Examples(NamedTuple):
    """What a model sees, and what it should say: a batch, or, without the axes of the batch, a single example.

    Attributes:
      inputs: int32 [B, T], or [B, 2, T] where an example is a pair of documents.
      targets: int32, [B, T] where every position has its own, [B] where an example has one.
      weights: float32 as `targets`: 1 where the answer counts, 0 elsewhere.
      lengths: int32 [B], or [B, 2], tokens before the padding, or None where there is no padding.
      places: int32 [B, n], where the answers that count stand, so that a model says nothing elsewhere; None where it is
        to speak everywhere, or examples differ in how many there are.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray | None = None
    places: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """A source of examples, which equal tasks share.

    Attributes:
      classes: how many answers there are to a whole example; None where tokens are predicted.
      is_pair: whether an example is two documents, each of up to `length` tokens.
      is_causal: whether they are predicted from those before alone; without meaning where there are classes.
      is_compressed: whether all tokens are told from what a causal model keeps at the last one.
      metric: what is told of a model, "accuracy" of answers or "bits" of each.
      folder: of data that the user supplies; None where there are none.
    """

    classes: ClassVar[int | None] = None
    is_pair: ClassVar[bool] = False
    is_causal: ClassVar[bool] = True
    is_compressed: ClassVar[bool] = False
    metric: ClassVar[str] = "accuracy"
    folder: ClassVar[str | None] = None

    @property
    @abc.abstractmethod
    def vocabulary(self) -> int:
        """Tokens of inputs and targets are less than this."""

    @property
    @abc.abstractmethod
    def chance(self) -> float:
        """The accuracy of guessing among all answers that the task allows, of one token where there are several."""

    def probes(self) -> dict[str, Task]:
        """Parts of the task that a model which has learned it is tested on apart, by name; none for most."""
        return {}

    @property
    def digest(self) -> str:
        """SHA-256 of the data that examples are taken from; empty where they are made up."""
        return ""

    @abc.abstractmethod
    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        """One example, without the axis of the batch."""

    def batch(self, split: str, seed: int, start: int, count: int, length: int) -> Examples:
        """Examples number `start` .. `start + count` of a split, each of `length` tokens.

        Raises:
          ValueError: there is no such split, a number is out of range, or the task has no example of that length.
        """
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)}")
        given = {"seed": (seed, 0), "start": (start, 0), "count": (count, 1), "length": (length, 1)}
        for name, (value, smallest) in given.items():
            if not fields.is_integer(value) or value < smallest:
                raise ValueError(f"{name}={value!r}: expected an integer >= {smallest}")
        return self.numbered(split, seed, range(start, start + count), length)

    def numbered(self, split: str, seed: int, indices: Sequence[int], length: int) -> Examples:
        """The examples of these numbers as a batch; a task that makes many at once is `Batched`."""
        made = [self.example(split, seed, index, length) for index in indices]
        return Examples(*(None if parts[0] is None else np.stack(parts) for parts in zip(*made, strict=True)))

    def batches(self, split: str, seed: int, total: int, size: int, length: int) -> Iterator[Examples]:
        """The first `total` examples of a split in batches of `size`, the last of which may be smaller."""
        for start in range(0, total, size):
            yield self.batch(split, seed, start, min(size, total - start), length)

    def majority(self, length: int, seed: int = 0, count: int = 512) -> float:
        """The accuracy, on `count` test examples, of always giving the commonest answer of as many training ones."""
        train, test = (self.batch(split, seed, 0, count, length) for split in ("train", "test"))
        commonest = np.bincount(train.targets[train.weights > 0]).argmax()
        return accuracy(test, np.full_like(test.targets, commonest))


class Batched(Task):
    """A task that makes examples many at once, of which one is a batch of one."""

    @abc.abstractmethod
    def numbered(self, split: str, seed: int, indices: Sequence[int], length: int) -> Examples:
        """The examples of these numbers as a batch."""

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        return Examples(*(None if part is None else part[0] for part in self.numbered(split, seed, [index], length)))


def accuracy(examples: Examples, said: np.ndarray) -> float:
    """The share of answers that are right, among those that count; `said` is shaped as `targets`."""
    right = (said == examples.targets) * examples.weights
    return float(right.sum() / examples.weights.sum())


def exact_match(examples: Examples, said: np.ndarray) -> float:
    """The share of examples whose every answer that counts is right.

    Where each target is also the next input, this is the accuracy of greedy decoding: an example is right if its
    first token is, and its second after that, and so on.
    """
    right = (said == examples.targets) | (examples.weights == 0)
    return float(right.reshape(len(right), -1).all(axis=1).mean())


def answers_at_end(inputs: np.ndarray, answers: np.ndarray) -> Examples:
    """One example whose last positions are to be answered, and no others."""
    targets, weights = np.zeros(len(inputs), np.int32), np.zeros(len(inputs), np.float32)
    targets[len(inputs) - len(answers) :] = answers
    weights[len(inputs) - len(answers) :] = 1
    return Examples(inputs.astype(np.int32), targets, weights)


def answers_at(inputs: np.ndarray, places: np.ndarray, answers: np.ndarray) -> Examples:
    """One example of which some places are to be answered, as many in each example of its task."""
    targets, weights = np.zeros(len(inputs), np.int32), np.zeros(len(inputs), np.float32)
    targets[places], weights[places] = answers, 1
    return Examples(inputs.astype(np.int32), targets, weights, places=np.sort(places).astype(np.int32))


def told_on(tokens: np.ndarray, is_answer: np.ndarray) -> Examples:
    """One example in which every token is the answer to those before it, and some of them count, both [T + 1]."""
    tokens = tokens.astype(np.int32)
    return Examples(tokens[:-1], tokens[1:], is_answer[1:].astype(np.float32))


def one_answer(inputs: np.ndarray, answer: int, length: int | list[int] | None = None) -> Examples:
    """One example with one answer, the class that it is of; a pair of documents has two lengths."""
    tokens = None if length is None else np.asarray(length, np.int32)
    return Examples(inputs.astype(np.int32), np.asarray(answer, np.int32), np.ones((), np.float32), tokens)


def generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The random numbers of one example."""
    words = seed, SPLITS.index(split), index
    # The same stream either way; NumPy takes a list apart number by number, which takes as long as all else here.
    return np.random.default_rng(np.array(words, np.uint32) if max(words) < 2**32 else words)


def visited(seed: int, split: str, index: int, size: int) -> int:
    """Which of `size` stored examples is number `index`: each comes once in a pass, in another order each time."""
    passes, place = divmod(index, size)
    return int(_order(seed, split, passes, size)[place])


@functools.lru_cache(maxsize=16)
def _order(seed, split, passes, size):
    return generator(seed, split, passes).permutation(size)


def split_of(content: bytes) -> str:
    """The split that something belongs to, by its hash: 8 in 10 train, 1 in 10 each validate and test."""
    place = hashlib.sha256(content).digest()[0] % 10
    return SPLITS[0] if place < 8 else SPLITS[place - 7]


def of_split(split: str, draw: Callable[[], np.ndarray]) -> np.ndarray:
    """The first of what `draw` gives that belongs to a split by its hash, so that no other split can have it.

    Raises:
      ValueError: there seems to be none, because there are so few things to draw.
    """
    for _ in range(TRIES):
        drawn = draw()
        if split_of(drawn.astype("<i4").tobytes()) == split:
            return drawn
    raise none_of(split)


def none_of(split: str) -> ValueError:
    """The error of a task that has too few examples for all splits."""
    return ValueError(
        f"nothing of the {split} split in {TRIES:,} tries: too few different examples; use more symbols or tokens"
    )


def wrong_length(task: Task, length: int, expected: str) -> ValueError:
    """The error of a length that a task cannot have."""
    return ValueError(f"length={length}: {task!r} expects {expected}")
