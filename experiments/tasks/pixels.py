"""Pictures of 32 x 32 greys, read pixel by pixel, row after row: 1,024 tokens of 256 symbols."""

from __future__ import annotations

import abc
import dataclasses
from typing import NamedTuple

import numpy as np

from attnzoo import fields
from experiments.tasks.task import Examples, Task, one_answer, visited, wrong_length

SIDE = 32
PIXELS = SIDE * SIDE


class Pictures(NamedTuple):
    """Pixels uint8 [N, PIXELS], and the class of each picture [N]."""

    pixels: np.ndarray
    answers: np.ndarray


class Stored(NamedTuple):
    """The pictures of each split, and the SHA-256 of what they were read from."""

    splits: dict[str, Pictures]
    digest: str


@dataclasses.dataclass(frozen=True)
class Pixels(Task):
    """Classes of the pictures in a folder. A pass over a split meets each once."""

    folder: str

    vocabulary = 256

    def __post_init__(self):
        fields.text(self, "folder")

    @abc.abstractmethod
    def stored(self) -> Stored:
        """What the folder holds, read once in a process."""

    @property
    def digest(self) -> str:
        return self.stored().digest

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length != PIXELS:
            raise wrong_length(self, length, f"{PIXELS}, the pixels of a picture")
        pixels, answers = self.stored().splits[split]
        if not len(answers):
            raise ValueError(f"{self.folder} leaves no picture for the {split} split: expected more than a few")
        number = visited(seed, split, index, len(answers))
        return one_answer(pixels[number], answers[number])
