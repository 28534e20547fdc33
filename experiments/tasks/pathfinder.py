"""Are two dots joined by a dashed path? Pictures from the folder that the Long Range Arena hands out.

    pathfinder32/
      curv_contour_length_14/
        imgs/*/*.png
        metadata/*.npy       text in spite of its name: a line for each picture, "imgs/0 sample_0.png 0 1 .."

The task is that of Linsley et al. 2018, arXiv:1805.08315, in the hard form of Tay et al. 2021, arXiv:2011.04006: paths
of 14 dashes among shorter ones. The fourth word of a line is 1 where a path joins the dots. Files without content are
left out, as in their public code, and of all others 8 in 10 train, 1 validates and 1 tests, cut from an order that a
hash of names decides: theirs is that of TensorFlow Datasets, ours SHA-256. No picture is in two splits.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import itertools
import pathlib

import numpy as np

from experiments.tasks import corpus
from experiments.tasks.folder import Stored
from experiments.tasks.pixels import SIDE, Pictures, Pixels
from experiments.tasks.task import SPLITS

LEVEL = "curv_contour_length_14"
PARTS = ("imgs", "metadata")
ANSWERS = {"0": 0, "1": 1}


@dataclasses.dataclass(frozen=True)
class Pathfinder(Pixels):
    """Two classes; examples are 1,024 tokens long."""

    folder: str = "pathfinder32"

    classes = len(ANSWERS)
    chance = 1 / len(ANSWERS)

    def stored(self) -> Stored:
        return load(self.folder)


@functools.lru_cache(maxsize=2)
def load(folder: str) -> Stored:
    """Read all pictures, once in a process.

    Raises:
      ValueError: a folder or a file is missing, a line tells no picture and its label, a picture is no grey PNG of 32 x
        32 pixels, or there is no library that reads PNG.
    """
    level, found, digest = pathlib.Path(folder) / LEVEL, [], hashlib.sha256()
    for name, answer in sorted(_listed(level).items(), key=lambda pair: hashlib.sha256(pair[0].encode()).digest()):
        content = _read(level / name)
        digest.update(f"{name} {answer}\0".encode() + content)
        if content:
            found.append((_pixels(level / name, content), answer))
    pixels = np.array([picture for picture, _ in found], np.uint8).reshape(-1, SIDE * SIDE)
    whole = Pictures(pixels, np.array([answer for _, answer in found], np.int32))
    cuts = [len(found) * share // 10 for share in (0, 8, 9, 10)]
    parts = [Pictures(*(x[start:end] for x in whole)) for start, end in itertools.pairwise(cuts)]
    return Stored(dict(zip(SPLITS, parts, strict=True)), digest.hexdigest())


def _listed(level: pathlib.Path) -> dict[str, int]:
    """The label of each picture, by its name below `level`."""
    for part in PARTS:
        if not (level / part).is_dir():
            expected = f"{level} with imgs/*/*.png and metadata/*.npy, as lra_release.gz unpacks"
            raise ValueError(f"{level / part} is no folder: expected {expected}")
    paths = sorted((level / "metadata").glob("*.npy"))
    if not paths:
        raise ValueError(f"{level / 'metadata'} lists no pictures: expected files *.npy")
    return dict(_told(path, number, line) for path in paths for number, line in _lines(path))


def _lines(path):
    text = corpus.read(path).decode()
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _told(path, number, line) -> tuple[str, int]:
    words = line.split()
    if len(words) < 4 or words[3] not in ANSWERS:
        expected = "a folder, a file, a number and a label, 0 or 1, such as 'imgs/0 sample_0.png 0 1'"
        raise ValueError(f"{path}, line {number} is {line[:80]!r}: expected {expected}")
    return f"{words[0]}/{words[1]}", ANSWERS[words[3]]


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; expected a picture, as the metadata say") from None


def _pixels(path: pathlib.Path, content: bytes) -> np.ndarray:
    """The greys of a PNG file: uint8 [SIDE * SIDE]."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(
            f"the pathfinder task reads PNG with Pillow, which cannot be imported ({error}): "
            "pip install 'attnzoo[experiments]'"
        ) from None
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            mode, size = picture.mode, picture.size
            pixels = np.asarray(picture, np.uint8) if size == (SIDE, SIDE) else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # of files that are damaged
        raise ValueError(f"{path} is no PNG picture: {error}; fetch it again") from None
    if mode != "L" or pixels is None:
        found = f"has {size[0]} x {size[1]} pixels of mode {mode}"
        raise ValueError(f"{path} {found}: expected {SIDE} x {SIDE} of mode L, 8 bits of grey")
    return pixels.reshape(-1)
