"""Is a review of a film positive? The folder that people have on disk, read as bytes.

    aclImdb/
      train/pos/*.txt  train/neg/*.txt
      test/pos/*.txt   test/neg/*.txt

50,000 reviews of Maas et al. 2011, https://ai.stanford.edu/~amaas/data/sentiment; bytes of 1,000 to 4,000 are the text
task of Tay et al. 2021, arXiv:2011.04006. The published test reviews are the tests; of the others 1 in 10, by the hash
of its name, validates. A text that occurs again, as some do, counts once, as a test if it is one: no two splits share a
review, though they may share the beginning of one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
from typing import NamedTuple

import numpy as np

from experiments.tasks import corpus
from experiments.tasks.folder import FolderTask, Stored
from experiments.tasks.task import SPLITS, Examples, one_answer, split_of, visited

PAD = 256
CLASSES = ("neg", "pos")
PARTS = ("test", "train")  # tests first, so that they keep what occurs again


class Review(NamedTuple):
    """Bytes, and which of `CLASSES` they are of."""

    content: bytes
    answer: int


@dataclasses.dataclass(frozen=True)
class IMDb(FolderTask):
    """Two classes; of each review the first `length` bytes. A pass over a split meets each review once."""

    folder: str = "aclImdb"

    classes = len(CLASSES)
    vocabulary = PAD + 1
    chance = 1 / len(CLASSES)

    def stored(self) -> Stored:
        return load(self.folder)

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        reviews = self.stored().splits[split]
        if not reviews:
            raise ValueError(f"{self.folder} leaves no review for the {split} split: expected more than a few")
        content, answer = reviews[visited(seed, split, index, len(reviews))]
        tokens = np.frombuffer(content[:length], np.uint8)
        padded = np.full(length, PAD, np.int32)
        padded[: len(tokens)] = tokens
        return one_answer(padded, answer, len(tokens))


@functools.lru_cache(maxsize=2)
def load(folder: str) -> Stored:
    """Read all reviews, once in a process.

    Raises:
      ValueError: a folder is missing or has no reviews, or a review is empty or no text.
    """
    splits: dict[str, list[Review]] = {split: [] for split in SPLITS}
    seen, digest = set(), hashlib.sha256()
    for name, path in _files(pathlib.Path(folder)).items():
        content = corpus.read(path)
        digest.update(name.encode() + b"\0" + content)
        if content not in seen:
            splits[_split(name)].append(Review(content, CLASSES.index(path.parent.name)))
        seen.add(content)
    return Stored(splits, digest.hexdigest())


def _files(root):
    found = {}
    for part in PARTS:
        for name in CLASSES:
            folder = root / part / name
            if not folder.is_dir():
                expected = f"{root} with {{train,test}}/{{pos,neg}}/*.txt, as aclImdb_v1.tar.gz unpacks"
                raise ValueError(f"{folder} is no folder: expected {expected}")
            paths = sorted(folder.glob("*.txt"))
            if not paths:
                raise ValueError(f"{folder} has no reviews: expected files *.txt")
            found |= {f"{part}/{name}/{path.name}": path for path in paths}
    return found


def _split(name):
    if name.startswith("test/"):
        return "test"
    return "validation" if split_of(name.encode()) == "validation" else "train"
