"""Pictures of 32 x 32 greys, read pixel by pixel, row after row: 1,024 tokens of 256 symbols."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from experiments.tasks.folder import FolderTask
from experiments.tasks.task import Examples, one_answer, visited, wrong_length

SIDE = 32
PIXELS = SIDE * SIDE


class Pictures(NamedTuple):
    """Pixels uint8 [N, PIXELS], and the class of each picture [N]."""

    pixels: np.ndarray
    answers: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pixels(FolderTask):
    """Classes of `Pictures`, which are what is stored of a split. A pass over it meets each once."""

    vocabulary = 256

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length != PIXELS:
            raise wrong_length(self, length, f"{PIXELS}, the pixels of a picture")
        pixels, answers = self.stored().splits[split]
        if not len(answers):
            raise ValueError(f"{self.folder} leaves no picture for the {split} split: expected more than a few")
        number = visited(seed, split, index, len(answers))
        return one_answer(pixels[number], answers[number])
