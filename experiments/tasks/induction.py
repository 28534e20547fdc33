"""Induction heads: what came after the sign, the first time? When the sign comes again, say so.

    a c d SIGN b a .. d SIGN   ->   b, at the last place

All other tokens are drawn alike; the first sign stands anywhere. Fu et al. 2023, arXiv:2212.14052; in the form of Gu
and Dao 2023, arXiv:2312.00752, with 16 tokens, who train on a length of 256 and test up to 2^20. A sequence belongs to
a split by its hash.
"""

from __future__ import annotations

import dataclasses

from attnzoo.contract import fields
from experiments.tasks.task import Examples, Task, answers_at_end, generator, of_split, wrong_length

PUBLISHED = 256, 2**20  # lengths of training and, at most, of tests


@dataclasses.dataclass(frozen=True)
class Induction(Task):
    """Tokens 0 .. `symbols` - 1, and the sign after them."""

    symbols: int = 15

    def __post_init__(self):
        fields.positive_integer(self, "symbols")

    @property
    def vocabulary(self) -> int:
        return self.symbols + 1

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length < 3:
            raise wrong_length(self, length, "at least 3: the sign, what comes after it, and the sign again")
        rng = generator(seed, split, index)

        def sequence():
            tokens = rng.integers(self.symbols, size=length)
            tokens[[rng.integers(length - 2), -1]] = self.symbols
            return tokens

        inputs = of_split(split, sequence)
        return answers_at_end(inputs, inputs[inputs.argmax() + 1 :][:1])
