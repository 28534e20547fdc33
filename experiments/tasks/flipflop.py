"""The flip-flop language: a bit is written, others are to be ignored, and what was written last is to be read.

    w 0  i 1  i 0  r 0  w 1  i 0  r   ->   1

Pairs of an instruction and a bit: write, ignore, read, of which the first writes and the last reads; others ignore with
probability p, and write or read alike otherwise. A model learns all that comes next, and is tested on the bits that
are read, which alone are decided. Liu et al. 2023, arXiv:2306.00946, who train with p = 0.8 in 512 tokens, and test
with 0.98 and 0.1, too: these are the parts. The last bit is no input, so that 511 tokens are theirs. A sequence belongs
to a split by its hash.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from attnzoo.contract import fields
from experiments.tasks.task import Examples, Task, generator, of_split, told_on, wrong_length

WRITE, READ, IGNORE = 2, 3, 4  # after the two bits
TESTED = (0.1, 0.8, 0.98)


@dataclasses.dataclass(frozen=True)
class FlipFlop(Task):
    """Instructions are ignored with probability `ignored`; `is_part` is said of what a model is tested on apart."""

    ignored: float = 0.8
    is_part: bool = False

    vocabulary = 5
    chance = 0.5

    def __post_init__(self):
        fields.truth_value(self, "is_part")
        if not fields.is_number(self.ignored) or not 0 <= self.ignored < 1:
            raise ValueError(f"FlipFlop(ignored={self.ignored!r}): ignored must be a number >= 0 and < 1")

    def probes(self) -> dict[str, Task]:
        return {} if self.is_part else {f"{ignored:g}": FlipFlop(ignored, is_part=True) for ignored in TESTED}

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length < 3 or not length % 2:
            raise wrong_length(self, length, "an odd length, at least 3: pairs, of which the last bit is no input")
        rng, pairs = generator(seed, split, index), (length + 1) // 2
        shares = [(1 - self.ignored) / 2, (1 - self.ignored) / 2, self.ignored]

        def sequence():
            instructions = rng.choice([WRITE, READ, IGNORE], size=pairs, p=shares)
            instructions[0], instructions[-1] = WRITE, READ
            bits, is_read = rng.integers(2, size=pairs), instructions == READ
            written = np.maximum.accumulate(np.where(instructions == WRITE, np.arange(pairs), 0))
            return np.stack([instructions, np.where(is_read, bits[written], bits)], axis=1).ravel()

        tokens = of_split(split, sequence)
        is_read = np.concatenate([[False], tokens[:-1] == READ])
        return told_on(tokens, np.ones_like(is_read) if split == "train" else is_read)
