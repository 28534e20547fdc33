"""A phone book: many names with their numbers, and one of the names again, whose number is to be said.

    Ada Bell: 7483920156
    Ivan Moreau: 9021837465
    ..

    Ada Bell: 7483920156            two entries again, as examples
    Noor Castle: 6650912834

    Ivan Moreau:   ->   9021837465

In bytes. As many entries as the length holds, in any order, no name twice; before them stand line breaks. Numbers have
ten digits, of which the first is 6 to 9. Jelassi et al. 2024, arXiv:2402.01032, who ask models that were trained on
text, and take names from a package, of which one may come twice; here a model learns from phone books, and names are
made of the lists below. The number that is asked for belongs to a split by its hash.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.tasks.task import Examples, Task, answers_at_end, generator, of_split, wrong_length

DIGITS = 10
FIRST = """
Ada Alan Amir Anna Bela Carl Chen Dana Dora Elif Emil Erik Fatima Felix Femi Frida Gita Hana Hugo Ines Ivan Jana Jonas
Kofi Lena Lin Luca Maya Milo Nadia Noor Olga Omar Paul Pia Rosa Sven Tara Uma Yuki
""".split()
LAST = """
Abbott Aydin Baker Bell Berg Castle Cruz Dahl Diaz Evans Fischer Fox Garcia Gray Haas Hill Ito Jansen Kaya Kim Koch Lang
Lopez Meyer Moreau Nagy Novak Okoro Park Patel Quinn Rossi Sato Silva Stone Tan Vogel Weber Wong Young
""".split()
NAMES = [f"{first} {last}" for first in FIRST for last in LAST]
LONGEST = max(map(len, NAMES)) + len(": ") + DIGITS + 1  # characters of an entry


@dataclasses.dataclass(frozen=True)
class Phonebook(Task):
    """`examples` entries stand between the book and the question."""

    examples: int = 2

    vocabulary = 128
    chance = 0.1  # of each digit

    def __post_init__(self):
        if self.examples not in range(3):
            raise ValueError(f"Phonebook(examples={self.examples!r}): examples must be 0, 1 or 2")

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        told = (1 + self.examples) * LONGEST + 2  # the examples, the question and a line before each
        shortest = told + (1 + self.examples) * LONGEST
        if length < shortest:
            raise wrong_length(self, length, f"at least {shortest}, so that what is told again is in the book")
        rng = generator(seed, split, index)
        asked = of_split(split, lambda: _numbers(rng, 1)[0])
        names = [NAMES[place] for place in rng.permutation(len(NAMES))]
        ends = np.cumsum([len(_entry(name, asked)) + 1 for name in names])
        count = int(np.searchsorted(ends, length - told, side="right"))
        numbers = _numbers(rng, count)
        place, *shown = rng.permutation(count)[: 1 + self.examples]
        numbers[place] = asked
        book = list(map(_entry, names, numbers))
        again = ["", *(book[each] for each in shown)] if shown else []
        written = "\n".join([*book, *again, "", book[place]])[:-1]  # the last digit is no input
        inputs = np.frombuffer(written.rjust(length, "\n").encode(), np.uint8)
        return answers_at_end(inputs, ord("0") + asked)


def _numbers(rng, count):
    numbers = rng.integers(10, size=(count, DIGITS))
    numbers[:, 0] = rng.integers(6, 10, size=count)
    return numbers


def _entry(name, number):
    return f"{name}: {''.join(map(str, number))}"
