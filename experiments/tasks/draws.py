"""Random numbers of many examples at once, each a pure function of the number of its example.

A number is a hash: seed, split and index make a key for each example, and key and place make the number, as SplitMix64
does (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"). NumPy's generators are begun one by
one, for each example, and drawing little from each takes longer than a small model's step.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from experiments.tasks.task import SPLITS, TRIES, Batched, Examples, none_of, split_of

MANY = 8  # times as many to choose from as are chosen, from which hardly any is drawn twice
# One number each, as arrays, whose products wrap without a warning.
GOLDEN, FIRST, SECOND = np.array([[0x9E3779B97F4A7C15], [0xBF58476D1CE4E5B9], [0x94D049BB133111EB]], np.uint64)


class Draws:
    """Random numbers of each of some examples, by their `keys`, uint64 [B].

    Numbers of one are the same whenever they are asked for: what is independent is asked of another `stream`.
    """

    def __init__(self, keys: np.ndarray):
        self._keys = keys

    @classmethod
    def of(cls, seed: int, split: str, indices: Sequence[int]) -> Draws:
        """Those of examples with these numbers; a seed may have any number of digits."""
        keys = np.zeros(1, np.uint64)
        for limb in (*_limbs(seed), SPLITS.index(split)):
            keys = _hashed(keys, np.uint64(limb))
        return cls(_hashed(keys, np.fromiter(indices, np.uint64)))

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, rows: np.ndarray) -> Draws:
        """Those of some of the examples."""
        return Draws(self._keys[rows])

    def stream(self, number: int) -> Draws:
        """Others of the same examples, independent of these and of those of any other number."""
        return Draws(_hashed(self._keys, np.uint64(number)))

    def uniform(self, count: int) -> np.ndarray:
        """Float64 [B, count], at least 0 and less than 1."""
        return (self._words(count) >> np.uint64(11)) * 2.0**-53

    def below(self, limit: int, count: int) -> np.ndarray:
        """Int64 [B, count], less than a `limit` that is far from the 2^53 numbers which are drawn from."""
        return (self.uniform(count) * limit).astype(np.int64)

    def chosen(self, size: int, count: int) -> np.ndarray:
        """Int64 [B, count], of 0 .. size - 1 without replacement, in any order."""
        return self._rejected(size, count) if size > MANY * count else self._sorted(size, count)

    def _sorted(self, size: int, count: int) -> np.ndarray:
        """Those of all that have the smallest numbers."""
        return np.argsort(self._words(size), axis=1)[:, :count]

    def _rejected(self, size: int, count: int) -> np.ndarray:
        """Any, of which those that an earlier one equals are drawn anew until none is: names play no part in that, so
        that all choices are as likely."""
        found, rows = self.stream(0).below(size, count), np.arange(len(self))
        for tried in itertools.count(1):
            is_again = _repeated(found[rows])
            some = is_again.any(axis=1)
            rows, is_again = rows[some], is_again[some]
            if not len(rows):
                break
            found[rows] = np.where(is_again, self[rows].stream(tried).below(size, count), found[rows])
        return found

    def of_split(self, split: str, draw: Callable[[Draws], np.ndarray]) -> np.ndarray:
        """For each example the first of what `draw` gives, [B, ...] int32, that belongs to a split by its hash.

        Raises:
          ValueError: there seems to be none, because there are so few things to draw.
        """
        found, missing = draw(self.stream(0)), np.arange(len(self))
        for tried in range(1, TRIES):
            missing = missing[[split_of(found[row].astype("<i4").tobytes()) != split for row in missing]]
            if not len(missing):
                return found
            found[missing] = draw(self[missing].stream(tried))
        raise none_of(split)

    def _words(self, count: int) -> np.ndarray:
        return _hashed(~self._keys[:, None], np.arange(count, dtype=np.uint64))


class Drawn(Batched):
    """A task that makes examples of the random numbers of all of them."""

    @abc.abstractmethod
    def drawn(self, draws: Draws, split: str, length: int) -> Examples:
        """Examples of a split, by their random numbers."""

    def numbered(self, split: str, seed: int, indices: Sequence[int], length: int) -> Examples:
        return self.drawn(Draws.of(seed, split, indices), split, length)


def _repeated(rows: np.ndarray) -> np.ndarray:
    """Whether each number of a row stands before it there, too."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    found = np.zeros(rows.shape, bool)
    np.put_along_axis(found, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return found


def _limbs(seed: int) -> list[int]:
    """Its digits to base 2^64, the last first."""
    higher, limb = divmod(seed, 2**64)
    return [limb, *(_limbs(higher) if higher else ())]


def _hashed(keys: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Each number is mixed into a key: keys that differ, or numbers that do, have nothing to do with each other."""
    mixed = keys + GOLDEN * (number + np.uint64(1))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * SECOND
    return mixed ^ (mixed >> np.uint64(31))
