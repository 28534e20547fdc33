"""What does a photograph show? CIFAR-10 in grey, from the folder that people have on disk.

    cifar-10-batches-bin/
      data_batch_1.bin .. data_batch_5.bin  test_batch.bin

60,000 pictures of Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html, in the binary version: records of 3,073
bytes, a class and then 1,024 pixels each of red, green and blue. In grey they are the image task of Tay et al. 2021,
arXiv:2011.04006, whose public code has TensorFlow mix the colours:

    grey = floor(255.5 (0.2989 red + 0.587 green + 0.114 blue) / 255)

The published test pictures are the tests. As there, the first nine in ten of the others train and the rest validate,
45,000 and 5,000; theirs come in the order of TensorFlow Datasets, ours in that of the files. No record is in two
splits, though some test pictures look like training pictures (Barz and Denzler 2020, arXiv:1902.00423).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib

import numpy as np

from experiments.tasks.folder import Stored
from experiments.tasks.pixels import PIXELS, Pictures, Pixels

TRAINING = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * PIXELS
WEIGHTS = np.array([0.2989, 0.587, 0.114], np.float32)  # of red, green and blue


@dataclasses.dataclass(frozen=True)
class Image(Pixels):
    """Ten classes; examples are 1,024 tokens long."""

    folder: str = "cifar-10-batches-bin"

    classes = len(CLASSES)
    chance = 1 / len(CLASSES)

    def stored(self) -> Stored:
        return load(self.folder)


@functools.lru_cache(maxsize=2)
def load(folder: str) -> Stored:
    """Read all pictures, once in a process.

    Raises:
      ValueError: a file is missing, is not made of whole records, or has a class that there is not.
    """
    contents = {name: _read(pathlib.Path(folder) / name) for name in (*TRAINING, TEST)}
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + content for name, content in contents.items())).hexdigest()
    known = [_pictures(contents[name]) for name in TRAINING]
    known = Pictures(*(np.concatenate(parts) for parts in zip(*known, strict=True)))
    count = len(known.answers) * 9 // 10
    train, validation = (Pictures(*(x[part] for x in known)) for part in (slice(count), slice(count, None)))
    return Stored({"train": train, "validation": validation, "test": _pictures(contents[TEST])}, digest)


def _read(path: pathlib.Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        expected = (
            f"{path.parent} with data_batch_1.bin to data_batch_5.bin and {TEST}, as cifar-10-binary.tar.gz unpacks"
        )
        raise ValueError(f"{path} cannot be read: {error.strerror}; expected {expected}") from None
    if not content or len(content) % RECORD:
        raise ValueError(f"{path} has {len(content):,} bytes: expected records of {RECORD:,} each; fetch it again")
    worst = max(content[::RECORD])
    if worst >= len(CLASSES):
        raise ValueError(f"{path} has a picture of class {worst}: expected 0 to {len(CLASSES) - 1}, as in CIFAR-10")
    return content


def _pictures(content: bytes) -> Pictures:
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    return Pictures(grey(records[:, 1:].reshape(-1, 3, PIXELS)), records[:, 0].astype(np.int32))


def grey(colours: np.ndarray) -> np.ndarray:
    """Red, green and blue uint8 [N, 3, P] -> uint8 [N, P]."""
    shares = colours.astype(np.float32) * np.float32(1 / 255)
    return (np.einsum("c,ncp->np", WEIGHTS, shares) * np.float32(255.5)).astype(np.uint8)
