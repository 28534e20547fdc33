"""Multi-query associative recall: pairs of a key and a value, then some of the keys again, each to be answered.

    k_1 v_1 ... k_n v_n   ...  k_i  ...  k_j  ...    ->    v_i at k_i, v_j at k_j

With V tokens, keys are 1 .. V/2 - 1 and values V/2 .. V - 1, drawn without replacement. After the pairs, every key is
asked for once, at an even distance 2g from their end, where g + 1 is drawn without replacement with a weight of
(g + 1)^(-0.99): as in text, most repetitions are near. All else is token 0, as in the published runs, or noise: any
token, and then a model learns much later what to look at. Only queries count, and only there does a model speak: with
8,192 tokens, saying something everywhere would be nearly all of its work. Arora et al. 2023, "Zoology",
arXiv:2312.04927; their code keeps splits apart by seeds, here the pairs belong to a split by a hash.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from attnzoo.contract import fields
from experiments.tasks.task import Examples, Task, generator, of_split, wrong_length

PUBLISHED = ((64, 4), (128, 8), (256, 16), (512, 64))  # lengths and pairs, with 8,192 tokens
POWER = -0.99


@dataclasses.dataclass(frozen=True)
class MQAR(Task):
    """`pairs` keys and values among `vocabulary` tokens, perhaps in noise. Chance is any one of the values there."""

    pairs: int = 8
    vocabulary: int = 8192
    is_noisy: bool = False

    def __post_init__(self):
        fields.positive_integer(self, "pairs")
        fields.truth_value(self, "is_noisy")
        fields.positive_integer(self, "vocabulary")
        if self.vocabulary % 2 or self.vocabulary < 2 * self.pairs + 2:
            expected = f"an even integer >= 2 * pairs + 2 = {2 * self.pairs + 2}"
            raise ValueError(f"MQAR(vocabulary={self.vocabulary!r}): vocabulary must be {expected}")

    @property
    def chance(self) -> float:
        return 1 / self.pairs

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length < 4 * self.pairs or length % 2:
            raise wrong_length(self, length, f"an even length, at least 4 * pairs = {4 * self.pairs}")
        rng, half = generator(seed, split, index), self.vocabulary // 2

        def pairs():
            keys = rng.choice(half - 1, self.pairs, replace=False) + 1
            return np.stack([keys, rng.choice(half, self.pairs, replace=False) + half], axis=1)

        bound = of_split(split, pairs)
        gaps = _gaps(rng, length // 2 - self.pairs, self.pairs)
        inputs = rng.integers(self.vocabulary if self.is_noisy else 1, size=length, dtype=np.int32)
        inputs[: 2 * self.pairs] = bound.ravel()
        queries = 2 * (self.pairs + gaps)
        inputs[queries] = bound[:, 0]
        targets, weights = np.zeros(length, np.int32), np.zeros(length, np.float32)
        targets[queries], weights[queries] = bound[:, 1], 1
        return Examples(inputs, targets, weights, places=np.sort(queries).astype(np.int32))


def _gaps(rng, room, count):
    """`count` of 0 .. room - 1, one after another without replacement, by the order of exponential clocks."""
    rates = np.arange(1, room + 1) ** POWER
    return np.argsort(rng.exponential(size=room) / rates)[:count]
