"""A needle in a haystack: a number, said once in a long text, is asked for at the end.

    text .. "# the number is 48213" .. text "# the number is " -> "48213"

The haystack is the source of Python's standard library (`text`), whose files are split, and a number belongs to a split
by its hash. The depth is where the needle stands: 0 at the beginning, 1 next to the question. A figure of exact match
(`task.exact_match`) over depths and lengths: `dataclasses.replace(task, depth=...)` for each of `DEPTHS`, which asks of
the same text for the same number, further down. Kamradt 2023, "Needle in a haystack: pressure testing LLMs".
"""

from __future__ import annotations

import dataclasses

import numpy as np

from attnzoo.contract import fields
from experiments.tasks import text
from experiments.tasks.task import Examples, Task, answers_at_end, generator, of_split, wrong_length

DEPTHS = tuple(tenth / 10 for tenth in range(11))
QUESTION = b"\n# the number is "


@dataclasses.dataclass(frozen=True)
class Needle(Task):
    """A number of so many `digits` at `depth`, or anywhere if it is None, as in training."""

    depth: float | None = None
    digits: int = 5

    vocabulary = text.VOCABULARY
    chance = 0.1  # of each digit

    def __post_init__(self):
        fields.positive_integer(self, "digits")
        if self.depth is not None and not (fields.is_number(self.depth) and 0 <= self.depth <= 1):
            raise ValueError(f"Needle(depth={self.depth!r}): depth must be a number from 0 to 1, or None for anywhere")

    @property
    def digest(self) -> str:
        return text.library().digest

    def probes(self) -> dict[str, Task]:
        return (
            {} if self.depth is not None else {f"{depth:g}": dataclasses.replace(self, depth=depth) for depth in DEPTHS}
        )

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        around = 2 * (len(QUESTION) + self.digits)  # the line break after the needle is as long as what is not given
        if length < around:
            raise wrong_length(self, length, f"at least {around}, the needle and the question")
        rng = generator(seed, split, index)
        number = of_split(split, lambda: rng.integers(10, size=self.digits)) + ord("0")
        hay = text.window(text.library(), split, rng, length - around)
        place = rng.integers(len(hay) + 1) if self.depth is None else round(self.depth * len(hay))
        question = np.frombuffer(QUESTION, np.uint8)
        parts = (hay[:place], question, number, [ord("\n")], hay[place:], question, number[:-1])
        return answers_at_end(np.concatenate(parts), number)
