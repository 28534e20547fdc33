"""Formal languages: what a word comes to is said at its last symbol, and nothing before.

    parity                0 1 1 0 1              ->   1          the sum modulo 2
    cycle navigation      + + - 0 +              ->   2          where steps on a cycle of five end
    modular arithmetic    2 * 3 - 4 =            ->   2          modulo five, products before sums
    the same in brackets  ( ( 1 + 4 ) - ( - 3 ) ) =   ->   3

Words are of any size that a language has. Up to `trained` symbols, a model's sizes are all that fit its length, as in
training; of longer examples they start at `trained`, as in tests. After a word stands a symbol of padding. Deletang et
al. 2022, arXiv:2207.02098; Grazzi et al. 2024, arXiv:2411.12537, who train on 3 to 40 symbols and test on 40 to 256.

They count the answer as a symbol of the word, and here it is none: their sizes are ours and one more. Steps and
positions on the cycle have tokens of their own, as have numbers and operators. A word belongs to a split by its hash,
which takes some sizes from held-out splits where a language has few words of them.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import numpy as np

from attnzoo.contract import fields
from experiments.tasks.task import Examples, Task, answers_at, generator, of_split, wrong_length

TRAINED = 39  # 40 with the answer


@dataclasses.dataclass(frozen=True)
class Language(Task):
    """Words, and what each comes to; answers are tokens 0 .. `answers` - 1, and the last token is the padding."""

    trained: int = TRAINED

    shortest: ClassVar[int] = 2
    step: ClassVar[int] = 1  # between sizes

    def __post_init__(self):
        fields.positive_integer(self, "trained")

    @property
    @abc.abstractmethod
    def answers(self) -> int:
        """How many there are."""

    @property
    def chance(self) -> float:
        return 1 / self.answers

    @abc.abstractmethod
    def word(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Any word of so many symbols."""

    @abc.abstractmethod
    def worth(self, word: np.ndarray) -> int:
        """What a word comes to."""

    def sizes(self, length: int) -> range:
        """Those of the words of examples of a length."""
        first = self.shortest if length <= self.trained else self.trained
        first += (self.shortest - first) % self.step
        found = range(first, length + 1, self.step)
        if not found:
            raise wrong_length(self, length, f"at least {first}, the shortest word")
        return found

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        rng, sizes = generator(seed, split, index), self.sizes(length)
        word = of_split(split, lambda: self.word(rng, sizes[rng.integers(len(sizes))]))
        inputs = np.full(length, self.vocabulary - 1)
        inputs[: len(word)] = word
        return answers_at(inputs, np.array([len(word) - 1]), np.array([self.worth(word)]))


@dataclasses.dataclass(frozen=True)
class Parity(Language):
    """Bits, and their sum modulo 2."""

    vocabulary = 3
    answers = 2

    def word(self, rng, size):
        return rng.integers(2, size=size)

    def worth(self, word):
        return int(word.sum()) % 2


@dataclasses.dataclass(frozen=True)
class CycleNavigation(Language):
    """Steps of 0, 1 and -1 on a cycle of `size` positions, tokens `size`, `size` + 1 and `size` + 2; where they end."""

    size: int = 5

    def __post_init__(self):
        super().__post_init__()
        _modulus(self, "size")

    @property
    def vocabulary(self) -> int:
        return self.size + 4

    @property
    def answers(self) -> int:
        return self.size

    def word(self, rng, size):
        return self.size + rng.integers(3, size=size)

    def worth(self, word):
        return int(np.array([0, 1, -1])[word - self.size].sum()) % self.size


@dataclasses.dataclass(frozen=True)
class ModularArithmetic(Language):
    """Numbers 0 .. `modulus` - 1 between +, - and *, and "=" after them."""

    modulus: int = 5

    symbols: ClassVar[str] = "+-*="
    step = 2

    def __post_init__(self):
        super().__post_init__()
        _modulus(self, "modulus")

    @property
    def vocabulary(self) -> int:
        return self.modulus + len(self.symbols) + 1

    @property
    def answers(self) -> int:
        return self.modulus

    def token(self, symbol: str) -> int:
        """That of an operator, a bracket or "="."""
        return self.modulus + self.symbols.index(symbol)

    def word(self, rng, size):
        word = rng.integers(self.modulus, size=size)
        word[1::2] = self.modulus + rng.integers(3, size=size // 2)
        word[-1] = self.token("=")
        return word

    def worth(self, word):
        return _sum(self, list(word[:-1]))


@dataclasses.dataclass(frozen=True)
class BracketedArithmetic(ModularArithmetic):
    """Numbers, their negatives, and sums and differences of two such in brackets, also products with `has_products`.

    What is left of a size beside brackets and operator is cut at any place alike.
    """

    has_products: bool = False

    symbols = "+-*=()"
    step = 1

    def __post_init__(self):
        super().__post_init__()
        fields.truth_value(self, "has_products")

    def word(self, rng, size):
        return np.array([*self._expression(rng, size - 1), self.token("=")])

    def _expression(self, rng, size):
        opened, closed, minus = map(self.token, "()-")
        if size >= 5:
            left = int(rng.integers(1, size - 3))
            operator = self.modulus + int(rng.integers(2 + self.has_products))
            return [opened, *self._expression(rng, left), operator, *self._expression(rng, size - 3 - left), closed]
        signed = [minus] * (size % 2 == 0) + [int(rng.integers(self.modulus))]
        return [opened, *signed, closed] if size >= 3 else signed

    def worth(self, word):
        opened, closed = map(self.token, "()")
        stack: list[list[int]] = [[]]
        for token in word[:-1].tolist():
            if token == opened:
                stack.append([])
            elif token == closed:
                inside = _sum(self, stack.pop())
                stack[-1].append(inside)
            else:
                stack[-1].append(token)
        return _sum(self, stack[0])


def _sum(language: ModularArithmetic, tokens: list[int]) -> int:
    """What numbers between operators come to, products first; a minus where a number is due is a sign."""
    minus, times = map(language.token, "-*")
    numbers, operators, sign = [], [], 1
    for token in map(int, tokens):
        if token < language.modulus:
            numbers.append(sign * token)
            sign = 1
        elif len(numbers) > len(operators):
            operators.append(token)
        else:
            sign = -sign
    total, product = 0, numbers[0]
    for operator, number in zip(operators, numbers[1:], strict=True):
        if operator == times:
            product = product * number % language.modulus
        else:
            total, product = total + product, -number if operator == minus else number
    return (total + product) % language.modulus


def _modulus(owner, name):
    value = getattr(owner, name)
    fields.positive_integer(owner, name)
    if value < 2:
        raise ValueError(f"{type(owner).__name__}({name}={value!r}): {name} must be an integer >= 2")
