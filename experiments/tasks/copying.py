"""Copying: a string is to be said again, whole, or what is left of it without the blanks.

    copy             x_1 .. x_n  copy  x_1 .. x_{n-1}            ->   x_1 .. x_n at the last n places
    selective copy   . x_1 . . x_2 .. x_n .  cue .. cue          ->   x_1 .. x_n at the n cues

Copy gives the string while it is said, as a language model meets it: Jelassi et al. 2024, arXiv:2402.01032, who train
on strings of up to 50 letters and test up to 1,000. Selective copying is that of Gu and Dao 2023, arXiv:2312.00752,
with 16 symbols to copy in 4,096 tokens; the blanks are what makes places useless. A string belongs to a split by its
hash: none that is tested was seen in training.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from attnzoo.contract import fields
from experiments.tasks.task import Examples, Task, answers_at_end, generator, of_split, wrong_length

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
