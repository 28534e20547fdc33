"""Recalling the beginning: a few symbols, then noise, then a cue for each, at which that symbol is to be said again.

    s_1 .. s_k   n_1 .. n_D   cue_1 .. cue_k   ->   ...   s_1 .. s_k

The distance D is what the length leaves between the symbols and the cues; what a state has kept of the beginning shows
as the share of symbols recalled. A string of symbols belongs to a split by its hash.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from attnzoo.contract import fields
from experiments.tasks.task import Examples, Task, answers_at_end, generator, of_split, wrong_length


@dataclasses.dataclass(frozen=True)
class Recall(Task):
    """`count` of `symbols`, and as many kinds of noise; the i-th cue asks for the i-th symbol."""

    count: int = 8
    symbols: int = 16

    def __post_init__(self):
        fields.positive_integer(self, "count")
        fields.positive_integer(self, "symbols")

    @property
    def vocabulary(self) -> int:
        return 2 * self.symbols + self.count

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def length(self, distance: int) -> int:
        """Tokens of an example with so much noise."""
        return distance + 2 * self.count

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length < self.length(0):
            raise wrong_length(self, length, f"at least {self.length(0)}, the symbols and their cues")
        rng = generator(seed, split, index)
        string = of_split(split, lambda: rng.integers(self.symbols, size=self.count))
        noise = rng.integers(self.symbols, 2 * self.symbols, size=length - self.length(0))
        cues = 2 * self.symbols + np.arange(self.count)
        return answers_at_end(np.concatenate([string, noise, cues]), string)
