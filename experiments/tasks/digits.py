"""Which digit was written? Pictures of 8 x 8 pixels, read pixel by pixel, row after row: 64 tokens of 17 greys.

1,797 digits that scikit-learn brings along (`pip install attnzoo[digits]`): Alpaydin and Kaynak 1998, "Optical
recognition of handwritten digits", UCI. A picture belongs to a split by the hash of its number; a pass over a split
meets each once, so that as many tests as there are test all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np

from experiments.tasks.task import SPLITS, Examples, Task, one_answer, split_of, visited, wrong_length

PIXELS = 64


@dataclasses.dataclass(frozen=True)
class Digits(Task):
    """Ten classes; examples are 64 tokens long."""

    classes = 10
    vocabulary = 17
    chance = 0.1

    @property
    def digest(self) -> str:
        pixels, answers = pictures()
        return hashlib.sha256(pixels.tobytes() + answers.tobytes()).hexdigest()

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length != PIXELS:
            raise wrong_length(self, length, f"{PIXELS}, the pixels of a picture")
        pixels, answers = pictures()
        numbers = numbers_of(len(answers))[split]
        number = numbers[visited(seed, split, index, len(numbers))]
        return one_answer(pixels[number], answers[number])


@functools.cache
def numbers_of(count: int) -> dict[str, list[int]]:
    """The numbers of the pictures of each split."""
    splits = [split_of(str(number).encode()) for number in range(count)]
    return {split: [number for number, found in enumerate(splits) if found == split] for split in SPLITS}


@functools.cache
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Pixels int32 [1797, 64] and what they show [1797].

    Raises:
      ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            f"the digits task takes its pictures from scikit-learn, which cannot be imported ({error}): "
            "pip install 'attnzoo[digits]'"
        ) from None
    pixels, answers = load_digits(return_X_y=True)
    return pixels.astype(np.int32), answers.astype(np.int32)
