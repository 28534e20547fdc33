"""Copying: a string is to be said again, whole, or what is left of it without the blanks.

    copy             x_1 .. x_n  copy  x_1 .. x_{n-1}            ->   x_1 .. x_n at the last n places
    packed copy      $ x_1 .. x_n | x_1 .. x_n .  $ y_1 .. y_m | ..   ->   what stands between | and . and that
    selective copy   . x_1 . . x_2 .. x_n .  cue .. cue          ->   x_1 .. x_n at the n cues

Copy gives the string while it is said, as a language model meets it: Jelassi et al. 2024, arXiv:2402.01032, who train
on strings of up to 50 letters and test up to 1,000. Packed copy is as in their code: a context is filled with strings
of any lengths in a range, of which the last is cut off and does not count, and a test is one string. Selective copying
is that of Gu and Dao 2023, arXiv:2312.00752, with 16 symbols to copy in 4,096 tokens; the blanks are what makes places
useless. A string belongs to a split by its hash: none that is tested was seen in training.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from attnzoo.contract import fields
from experiments.tasks.task import Examples, Task, answers_at_end, generator, of_split, told_on, wrong_length

BLANK = 0
PUBLISHED = 4096, 16  # length and symbols of selective copying


@dataclasses.dataclass(frozen=True)
class Copy(Task):
    """Strings of `length // 2` symbols, each of them 1 .. `symbols`; the token after them says: now copy."""

    symbols: int = 26

    def __post_init__(self):
        fields.positive_integer(self, "symbols")

    @property
    def vocabulary(self) -> int:
        return self.symbols + 2

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length < 2:
            raise wrong_length(self, length, "at least 2, a symbol and the sign to copy it")
        string = _string(split, generator(seed, split, index), self.symbols, length // 2)
        padding, sign = np.full(length % 2, BLANK), [self.symbols + 1]
        return answers_at_end(np.concatenate([padding, string, sign, string[:-1]]), string)


@dataclasses.dataclass(frozen=True)
class PackedCopy(Copy):
    """Strings of `shortest` to `longest` symbols, one after another; held-out examples have one, as long as fits.

    After the symbols come `$`, `|` and `.`, and a token that fills up.
    """

    shortest: int = 20
    longest: int = 50

    def __post_init__(self):
        super().__post_init__()
        fields.positive_integer(self, "shortest")
        fields.positive_integer(self, "longest")
        if self.longest < self.shortest:
            raise ValueError(f"PackedCopy(longest={self.longest!r}): longest must be an integer >= {self.shortest}")

    @property
    def vocabulary(self) -> int:
        return self.symbols + 5

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        rng, parts = generator(seed, split, index), []
        sizes = (self.shortest, self.longest) if split == "train" else (((length - 2) // 2,) * 2)
        if not 1 <= sizes[1] <= (length - 2) // 2:
            raise wrong_length(self, length, f"at least {2 * max(sizes[1], 1) + 2}, the longest string and its copy")
        room = length + 1
        while room > 0 and (split == "train" or not parts):
            string = _string(split, rng, self.symbols, rng.integers(sizes[0], sizes[1] + 1))
            parts.append(self._copied(string, room))
            room -= len(parts[-1][0])
        filled = np.full(room, self.vocabulary - 1)
        tokens, is_answer = (np.concatenate(part) for part in zip(*parts, (filled, filled < 0), strict=True))
        return told_on(tokens, is_answer)

    def _copied(self, string, room):
        """A string and its copy, and which of its tokens count; none does where there is no room for all."""
        first, again, last = self.symbols + 1 + np.arange(3)
        tokens = np.concatenate([[first], string, [again], string, [last]])
        is_answer = (np.arange(len(tokens)) > len(string) + 1) & (len(tokens) <= room)
        return tokens[:room], is_answer[:room]


@dataclasses.dataclass(frozen=True)
class SelectiveCopy(Task):
    """`count` symbols, each of them 1 .. `symbols`, among blanks; then as many cues."""

    count: int = 16
    symbols: int = 15

    def __post_init__(self):
        fields.positive_integer(self, "count")
        fields.positive_integer(self, "symbols")

    @property
    def vocabulary(self) -> int:
        return self.symbols + 2

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length < 2 * self.count:
            raise wrong_length(self, length, f"at least 2 * count = {2 * self.count}, the symbols and their cues")
        rng = generator(seed, split, index)
        string = _string(split, rng, self.symbols, self.count)
        inputs = np.full(length, BLANK)
        inputs[np.sort(rng.choice(length - self.count, self.count, replace=False))] = string
        inputs[length - self.count :] = self.symbols + 1
        return answers_at_end(inputs, string)


def _string(split, rng, symbols, count):
    return of_split(split, lambda: rng.integers(1, symbols + 1, size=count))
