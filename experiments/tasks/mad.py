"""Mechanistic architecture design: six small tasks whose mean accuracy told which models would scale.

    recall           k v  k' v'  ..  k          ->   v            keys that come again, and what they are bound to
    noisy recall     k v  n n  k' v'  ..  k     ->   v            among pairs of noise: `mad_recall` with `noise`
    fuzzy recall     kk vvv  k'k'k' v'  ..  kk  ->   v v v        keys and values of several tokens
    selective copy   . x . . y z COPY . . .     ->   x y z
    memorisation     k ?  k' ?  ..              ->   v  v'        a table that is the same in all examples
    compression      x y z ..  SUM              ->   x y z ..     read off the last token alone

Poli et al. 2024, arXiv:2403.17844, as in their code (athms/mad-lab): `vocabulary` counts all tokens, special ones and
noise included, and defaults are the baseline of each task. Where a language model is trained, on recall, it learns all
that comes next, and is tested on values of keys that have come before. They keep splits apart by seeds and warn of what
both have; here an example belongs to a split by its hash. What differs beside that is said where it does.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from attnzoo.contract import fields
from experiments.tasks.task import (
    Examples,
    Task,
    answers_at,
    answers_at_end,
    generator,
    of_split,
    told_on,
    wrong_length,
)

TABLE = 12345  # the seed of the table that is to be memorised


@dataclasses.dataclass(frozen=True)
class MADTask(Task):
    """Tokens are symbols, then noise, then special ones."""

    vocabulary: int = 16

    def __post_init__(self):
        fields.positive_integer(self, "vocabulary")

    def _at_least(self, smallest):
        if self.vocabulary < smallest:
            name = type(self).__name__
            raise ValueError(f"{name}(vocabulary={self.vocabulary!r}): vocabulary must be an integer >= {smallest}")


@dataclasses.dataclass(frozen=True)
class MADRecall(MADTask):
    """Keys are one half of the symbols, values the other; a share `noise` of pairs is of `noise_symbols` others.

    A key is bound to any value, in each example anew. The last pair is of a key that was there; a pair before it is not
    of noise, whatever the share, where theirs may leave none. Theirs are 128 tokens of which the last is no input.
    """

    noise: float = 0.0
    noise_symbols: int = 0

    def __post_init__(self):
        super().__post_init__()
        fields.natural_number(self, "noise_symbols")
        if not fields.is_number(self.noise) or not 0 <= self.noise < 1:
            raise ValueError(f"MADRecall(noise={self.noise!r}): noise must be a number >= 0 and < 1")
        if self.noise and not self.noise_symbols:
            raise ValueError(f"MADRecall(noise={self.noise!r}): expected noise_symbols >= 1, such as 16")
        self._at_least(self.noise_symbols + 2)

    @property
    def keys(self) -> int:
        """Tokens 0 .. keys - 1 are keys."""
        return (self.vocabulary - self.noise_symbols) // 2

    @property
    def chance(self) -> float:
        return 1 / (self.vocabulary - self.noise_symbols - self.keys)

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length < 3 or not length % 2:
            raise wrong_length(self, length, "an odd length, at least 3: pairs, of which the last value is no input")
        rng, count = generator(seed, split, index), (length + 1) // 2
        symbols = self.vocabulary - self.noise_symbols

        def pairs():
            keys, values = rng.integers(self.keys, size=count), rng.integers(self.keys, symbols, size=self.keys)
            is_noise = rng.random(count) < self.noise
            is_noise[[rng.integers(count - 1), -1]] = False
            keys[-1] = rng.choice(np.unique(keys[:-1][~is_noise[:-1]]))
            found = np.stack([keys, values[keys]], axis=1)
            if self.noise:
                found[is_noise] = rng.integers(symbols, self.vocabulary, size=(is_noise.sum(), 2))
            return found

        found = of_split(split, pairs)
        firsts = np.unique(found[:, 0], return_index=True)[1]
        is_again = found[:, 0] < self.keys
        is_again[firsts] = False
        is_answer = np.stack([np.zeros(count, bool), is_again], axis=1).ravel()
        return told_on(found.ravel(), np.ones_like(is_answer) if split == "train" else is_answer)


@dataclasses.dataclass(frozen=True)
class MADFuzzyRecall(MADTask):
    """Keys of 1 to `key_size` tokens and values of 1 to `value_size`, none twice in one; the last token fills up.

    In tests all keys are as long as can be. The pair that is asked for at the end stands at any place among the others;
    theirs is put at any token, and where that is past the last pair, it is in none.
    """

    key_size: int = 3
    value_size: int = 3

    def __post_init__(self):
        super().__post_init__()
        fields.positive_integer(self, "key_size")
        fields.positive_integer(self, "value_size")
        self._at_least(2 * max(self.key_size, self.value_size) + 1)

    @property
    def keys(self) -> int:
        """Tokens 0 .. keys - 1 are those of keys."""
        return (self.vocabulary - 1) // 2

    @property
    def chance(self) -> float:
        return 1 / (self.vocabulary - 1 - self.keys)

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        shortest = 2 * (self.key_size + self.value_size) - 1
        if length < shortest:
            raise wrong_length(self, length, f"at least {shortest}, a pair and the same again")
        rng, drawn = generator(seed, split, index), []

        def sequence():
            drawn[:] = self._pairs(rng, split, length)
            return np.concatenate([np.concatenate(pair) for pair in drawn])

        tokens, seen, counts = of_split(split, sequence), set(), []
        for key, value in drawn:
            counts += [False] * len(key) + [split == "train" or key in seen] * len(value)
            seen.add(key)
        is_answer = np.array(counts) | (split == "train")
        before = length + 1 - len(tokens)
        filled = np.concatenate([np.full(before, self.vocabulary - 1), tokens])
        return told_on(filled, np.concatenate([np.full(before, split == "train"), is_answer]))

    def _pairs(self, rng, split, length):
        """As many as there is room for, the last of which is one of the others."""
        smallest = 1 if split == "train" else self.key_size
        key_of = lambda: self._motif(rng, 0, self.keys, rng.integers(smallest, self.key_size + 1))
        value_of = lambda: self._motif(rng, self.keys, self.vocabulary - 1, rng.integers(1, self.value_size + 1))
        asked = key_of(), value_of()
        bound, pairs = dict([asked]), []
        room = length + 1 - 2 * len(sum(asked, ()))
        while room >= self.key_size + self.value_size:
            key, value = key_of(), value_of()
            pairs.append((key, bound.setdefault(key, value)))
            room -= len(sum(pairs[-1], ()))
        pairs.insert(rng.integers(len(pairs) + 1), asked)
        return [*pairs, asked]

    def _motif(self, rng, first, end, size):
        return tuple((first + rng.permutation(end - first)[:size]).tolist())


@dataclasses.dataclass(frozen=True)
class MADSelectiveCopy(MADTask):
    """`count` symbols, blanks before each of them, a sign after the last, and as many blanks, at which to say them.

    Blanks fall to symbols one by one, as there. `SelectiveCopy` is the task of Mamba, with blanks at any places.
    """

    count: int = 16

    def __post_init__(self):
        super().__post_init__()
        fields.positive_integer(self, "count")
        self._at_least(3)

    @property
    def chance(self) -> float:
        return 1 / (self.vocabulary - 2)

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        blanks = length - 2 * self.count - 1
        if blanks < 0:
            raise wrong_length(self, length, f"at least 2 * count + 1 = {2 * self.count + 1}")
        rng, sign = generator(seed, split, index), self.vocabulary - 1
        string = of_split(split, lambda: rng.integers(self.vocabulary - 2, size=self.count))
        inputs = np.full(length, sign - 1)
        inputs[np.cumsum(1 + rng.multinomial(blanks, np.full(self.count, 1 / self.count))) - 1] = string
        inputs[length - self.count - 1] = sign
        return answers_at_end(inputs, string)


@dataclasses.dataclass(frozen=True)
class MADMemorization(MADTask):
    """Keys, each with a sign after it, at which to say what the key is bound to in the one table that there is.

    Keys are one half of the other tokens, and values as many of the rest. The table is the same for all seeds and
    splits, which share no sequence of keys; theirs is another one.
    """

    vocabulary: int = 256

    def __post_init__(self):
        super().__post_init__()
        self._at_least(3)

    @property
    def chance(self) -> float:
        return 1 / (self.vocabulary // 2)

    @property
    def table(self) -> np.ndarray:
        """The value of each key."""
        return _table(self.vocabulary - 1)

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length < 2 or length % 2:
            raise wrong_length(self, length, "an even length, at least 2: keys and signs")
        rng = generator(seed, split, index)
        keys = of_split(split, lambda: rng.integers(len(self.table), size=length // 2))
        inputs = np.stack([keys, np.full(length // 2, self.vocabulary - 1)], axis=1).ravel()
        return answers_at(inputs, np.arange(1, length, 2), self.table[keys])


@dataclasses.dataclass(frozen=True)
class MADCompression(MADTask):
    """Any symbols, and a sign at the end, at which a model has to keep them all. The sign itself is no answer here."""

    is_compressed = True

    def __post_init__(self):
        super().__post_init__()
        self._at_least(2)

    @property
    def chance(self) -> float:
        return 1 / (self.vocabulary - 1)

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length < 2:
            raise wrong_length(self, length, "at least 2, a symbol and the sign")
        rng, sign = generator(seed, split, index), self.vocabulary - 1
        string = of_split(split, lambda: rng.integers(sign, size=length - 1))
        targets = np.append(string, 0).astype(np.int32)
        return Examples(
            np.append(string, sign).astype(np.int32), targets, (np.arange(length) < length - 1).astype(np.float32)
        )


@functools.cache
def _table(symbols):
    keys = symbols // 2
    return keys + np.random.default_rng(TABLE).permutation(symbols - keys)[:keys]
