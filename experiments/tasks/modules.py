"""Which module of the standard library is a passage from? Classification of bytes, on data that every machine has.

Ten long modules are cut into segments of `segment` bytes. Of every ten segments of a module, eight train, one validates
and one tests, and a passage lies inside a segment: no place that is tested was seen in training, at any length.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np

from attnzoo.contract import fields
from experiments.tasks import text
from experiments.tasks.task import Examples, Task, generator, one_answer, wrong_length

MODULES = (
    "argparse", "difflib", "doctest", "email/_header_value_parser", "inspect", "pickletools", "pydoc", "subprocess",
    "tarfile", "typing",
)  # fmt: skip
PLACES = {"train": range(8), "validation": (8,), "test": (9,)}  # among ten segments


@dataclasses.dataclass(frozen=True)
class Modules(Task):
    """Ten classes, as many passages of each; a passage is at most a `segment` long."""

    segment: int = 2048

    classes = len(MODULES)
    vocabulary = 256
    chance = 1 / len(MODULES)

    def __post_init__(self):
        fields.positive_integer(self, "segment")

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"\0".join(source.tobytes() for source in sources())).hexdigest()

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        if length > self.segment:
            raise wrong_length(self, length, f"at most its segment={self.segment}")
        rng = generator(seed, split, index)
        answer = int(rng.integers(len(MODULES)))
        source = sources()[answer]
        segments = [segment for segment in range(self._count(source)) if segment % 10 in PLACES[split]]
        start = self.segment * segments[rng.integers(len(segments))] + rng.integers(self.segment - length + 1)
        return one_answer(source[start : start + length], answer)

    def _count(self, source):
        shortest = min(len(source) for source in sources())
        if self.segment > shortest // 10:
            few = f"cuts the shortest module into {shortest // self.segment} segments: expected 10 or more"
            raise ValueError(f"{self!r} {few}, segment={shortest // 10} at most")
        return len(source) // self.segment


@functools.cache
def sources() -> list[np.ndarray]:
    """The bytes of each of `MODULES`.

    Raises:
      ValueError: one is not there as source.
    """
    paths = {name: text.find(text.standard_library(), name) for name in MODULES}
    absent = [name for name, path in paths.items() if path is None]
    if absent:
        raise ValueError(f"{text.standard_library()} lacks the source of {', '.join(absent)}")
    return [np.frombuffer(path.read_bytes(), np.uint8) for path in paths.values()]
