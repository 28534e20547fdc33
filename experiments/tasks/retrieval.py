"""Does one paper cite the other? Pairs of documents as bytes, from the folder that the Long Range Arena hands out.

    tsv_data/
      new_aan_pairs.{train,eval,test}.tsv       label  name  name  document  document

Pairs of the ACL Anthology Network, Radev et al. 2009; up to 4,000 bytes of each document are the retrieval task of Tay
et al. 2021, arXiv:2011.04006, with 147,086, 18,090 and 17,437 pairs. A line is a pair in five columns between tabs. As
in their public code, quotes mean nothing, and a document is taken as it is written: what is escaped stays escaped.
Splits are the files, as they are handed out; a document may be in several.

Documents are left on the disk, where a pass over the files finds each pair's place: whole papers take gigabytes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
from typing import NamedTuple

import numpy as np

from experiments.tasks.folder import FolderTask, Stored
from experiments.tasks.task import Examples, one_answer, visited

PAD = 256
FILES = {"train": "train", "validation": "eval", "test": "test"}
COLUMNS = ("a label", "a name", "a name", "a document", "a document")
ANSWERS = {b"0": 0, b"1": 1, b"0.0": 0, b"1.0": 1}


class Lines(NamedTuple):
    """Where the pairs of a split are, and the label of each."""

    path: pathlib.Path
    places: np.ndarray
    answers: np.ndarray


@dataclasses.dataclass(frozen=True)
class Retrieval(FolderTask):
    """Two classes; of each document the first `length` bytes. A pass over a split meets each pair once."""

    folder: str = "tsv_data"

    classes = 2
    is_pair = True
    vocabulary = PAD + 1
    chance = 0.5

    def stored(self) -> Stored:
        return load(self.folder)

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        path, places, answers = self.stored().splits[split]
        number = visited(seed, split, index, len(places))
        inputs, lengths = np.full((2, length), PAD, np.int32), []
        for row, content in zip(inputs, _documents(path, places[number]), strict=True):
            tokens = np.frombuffer(content[:length], np.uint8)
            row[: len(tokens)] = tokens
            lengths.append(len(tokens))
        return one_answer(inputs, answers[number], lengths)


@functools.lru_cache(maxsize=2)
def load(folder: str) -> Stored:
    """Find all pairs, once in a process.

    Raises:
      ValueError: a file is missing or empty, or a line is no pair with its label.
    """
    digest = hashlib.sha256()
    splits = {
        split: _lines(pathlib.Path(folder) / f"new_aan_pairs.{name}.tsv", digest) for split, name in FILES.items()
    }
    return Stored(splits, digest.hexdigest())


def _lines(path: pathlib.Path, digest) -> Lines:
    if not path.is_file():
        expected = f"{path.parent} with new_aan_pairs.{{train,eval,test}}.tsv, as lra_release.gz unpacks"
        raise ValueError(f"{path} is no file: expected {expected}")
    digest.update(f"{path.name}\0".encode())
    place, places, answers = 0, [], []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            digest.update(line)
            answers.append(_label(path, number, line))
            places.append(place)
            place += len(line)
    if not places:
        raise ValueError(f"{path} is empty: expected a pair in each line; fetch it again")
    return Lines(path, np.array(places), np.array(answers, np.int32))


def _label(path, number, line) -> int:
    columns = _columns(line)
    if len(columns) != len(COLUMNS) or not all(columns) or columns[0] not in ANSWERS:
        found = f"{len(columns)} columns, the first {columns[0][:20].decode(errors='replace')!r}"
        expected = f"{', '.join(COLUMNS)} between tabs, none of them empty, and the label 0 or 1"
        raise ValueError(f"{path}, line {number} has {found}: expected {expected}")
    return ANSWERS[columns[0]]


def _documents(path, place) -> list[bytes]:
    with path.open("rb") as file:
        file.seek(place)
        return _columns(file.readline())[3:]


def _columns(line: bytes) -> list[bytes]:
    return line.rstrip(b"\r\n").split(b"\t")
