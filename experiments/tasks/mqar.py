"""Multi-query associative recall: pairs of a key and a value, then some of the keys again, each to be answered.

    k_1 v_1 ... k_n v_n   ...  k_i  ...  k_j  ...    ->    v_i at k_i, v_j at k_j

With V tokens, keys are 1 .. V/2 - 1 and values V/2 .. V - 1, drawn without replacement. After the pairs, every key is
asked for once, at an even distance 2g from their end, where g + 1 is drawn without replacement with a weight of
(g + 1)^(-0.99): as in text, most repetitions are near. All else is token 0, as in the published runs, or noise: any
token, and then a model learns much later what to look at. Only queries count, and only there does a model speak: with
8,192 tokens, saying something everywhere would be nearly all of its work. Arora et al. 2023, "Zoology",
arXiv:2312.04927; their code keeps splits apart by seeds, here the pairs belong to a split by a hash.

In its setting of 2026 (HazyResearch/zoology, `original_mqar_configs.py`) one model learns from several lengths and
numbers of pairs, and is tested on others, up to four times as long: `MixedMQAR`. There a batch is of one setting; here
examples of all are mixed in a batch, the shorter followed by token 0, and the model speaks everywhere.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from attnzoo.contract import fields
from experiments.tasks.draws import Drawn, Draws
from experiments.tasks.task import Examples, wrong_length

PUBLISHED = ((64, 4), (128, 8), (256, 16), (512, 64))  # lengths and pairs, with 8,192 tokens
TRAINED = ((64, 4, 5), (128, 8, 1), (256, 16, 1), (256, 32, 1), (256, 64, 1))  # and of how many in nine examples
TESTED = ((64, 4), (64, 8), (64, 16), (128, 32), (256, 64), (512, 128), (1024, 256))
POWER = -0.99


@dataclasses.dataclass(frozen=True)
class MQAR(Drawn):
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

    def drawn(self, draws: Draws, split: str, length: int) -> Examples:
        if length < 4 * self.pairs or length % 2:
            raise wrong_length(self, length, f"an even length, at least 4 * pairs = {4 * self.pairs}")
        pairs, gaps, noise = (draws.stream(number) for number in range(3))
        bound = pairs.of_split(split, self._bound)
        queries = 2 * (self.pairs + _gaps(gaps, length // 2 - self.pairs, self.pairs))
        shape = len(draws), length
        inputs = noise.below(self.vocabulary, length) if self.is_noisy else np.zeros(shape)
        targets, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        inputs[:, : 2 * self.pairs] = bound.reshape(len(draws), -1)
        for filled, values in ((inputs, bound[..., 0]), (targets, bound[..., 1]), (weights, 1)):
            np.put_along_axis(filled, queries, values, axis=1)
        places = np.sort(queries, axis=1).astype(np.int32)
        return Examples(inputs.astype(np.int32), targets, weights, places=places)

    def _bound(self, draws: Draws) -> np.ndarray:
        """Keys and their values, int32 [B, pairs, 2]."""
        half = self.vocabulary // 2
        keys, values = draws.stream(0).chosen(half - 1, self.pairs), draws.stream(1).chosen(half, self.pairs)
        return np.stack([1 + keys, half + values], axis=-1).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class MixedMQAR(Drawn):
    """Training examples are of the `trained` settings, (tokens, pairs, parts of all examples). Those of other splits
    are of the `tested` settings, (tokens, pairs), whose length they have.

    Chance is that of the fewest pairs which are tested.
    """

    vocabulary: int = 8192
    is_noisy: bool = True
    trained: tuple[tuple[int, int, int], ...] = TRAINED
    tested: tuple[tuple[int, int], ...] = TESTED

    def __post_init__(self):
        for name, size in (("trained", 3), ("tested", 2)):
            _check_settings(self, name, size)
        for _, pairs, *_ in (*self.trained, *self.tested):
            MQAR(pairs, self.vocabulary, self.is_noisy)

    @property
    def chance(self) -> float:
        return 1 / min(pairs for _, pairs in self.tested)

    def drawn(self, draws: Draws, split: str, length: int) -> Examples:
        own, setting = draws.stream(0), draws.stream(1)
        settings = self._trained(length) if split == "train" else self._tested(length)
        parts = np.cumsum([parts for *_, parts in settings])
        drawn = np.searchsorted(parts, setting.below(parts[-1], 1)[:, 0], side="right")
        shape = len(draws), length
        found = Examples(np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32))
        for place in np.unique(drawn):
            tokens, pairs, _ = settings[place]
            rows = np.flatnonzero(drawn == place)
            made = MQAR(pairs, self.vocabulary, self.is_noisy).drawn(own[rows], split, tokens)
            for whole, part in zip(found[:3], made[:3], strict=True):
                whole[rows, :tokens] = part
        return found

    def _trained(self, length):
        longest = max(tokens for tokens, *_ in self.trained)
        if length < longest:
            raise wrong_length(self, length, f"at least {longest}, the longest setting that is trained")
        return self.trained

    def _tested(self, length):
        """Those of that length, as often each."""
        found = [(*setting, 1) for setting in self.tested if setting[0] == length]
        if not found:
            lengths = ", ".join(map(str, sorted({tokens for tokens, _ in self.tested})))
            raise wrong_length(self, length, f"one of those that are tested, {lengths}")
        return found


def _check_settings(owner, name, size):
    value = getattr(owner, name)
    is_right = (
        isinstance(value, tuple) and value and all(isinstance(each, tuple) and len(each) == size for each in value)
    )
    if not is_right or not all(fields.is_integer(x) and x > 0 for each in value for x in each):
        expected = f"tuples of {size} integers >= 1, such as {((64, 4, 1), (64, 8, 1))[0][:size]}"
        raise ValueError(f"{type(owner).__name__}({name}={value!r}): {name} must be {expected}")


def _gaps(draws: Draws, room: int, count: int) -> np.ndarray:
    """[B, count], of 0 .. room - 1 one after another without replacement, by the order of exponential clocks."""
    rates = np.arange(1, room + 1) ** POWER
    return np.argsort(-np.log1p(-draws.uniform(room)) / rates, axis=1)[:, :count]
