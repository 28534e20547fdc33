"""Text of one's own: a folder of plain-text files, as bytes, in the windows of `text`.

    corpus/
      anything/below/it.txt

Files are put into the order of a hash of their names below the folder; the first tenth is for tests, the next for
validation, at least one file each, and the others are for training: no file is in two splits, and none is empty. Fewer
than three files are each cut into a beginning for training, a tenth for validation, and a last tenth for tests.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib

import numpy as np

from attnzoo.contract import fields
from experiments.tasks import text
from experiments.tasks.task import SPLITS


@dataclasses.dataclass(frozen=True)
class PlainText(text.Text):
    """The next byte of the files below `folder` whose names end with `suffix`."""

    folder: str = "corpus"
    suffix: str = ".txt"

    def __post_init__(self):
        fields.text(self, "folder")
        fields.text(self, "suffix")

    def corpus(self) -> text.Corpus:
        return load(self.folder, self.suffix)


@functools.lru_cache(maxsize=4)
def load(folder: str, suffix: str = ".txt") -> text.Corpus:
    """Read a folder, once in a process.

    Raises:
      ValueError: there is no such folder, no such file in it, or a file is empty or no text.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder: expected one with text files, *{suffix}, in it or below")
    paths = sorted(path for path in root.rglob("*") if path.name.endswith(suffix) and not path.is_dir())
    if not paths:
        raise ValueError(f"{root} has no files *{suffix}, also none below: expected text files, or another suffix")
    return text.corpus_of({path.relative_to(root).as_posix(): read(path) for path in paths}, split)


def split(contents: dict[str, bytes]) -> dict[str, list[bytes]]:
    """The texts of each split, from those of files by name."""
    if len(contents) < len(SPLITS):
        cuts = [_cut(content) for content in contents.values()]
        return {name: [cut[name] for cut in cuts] for name in SPLITS}
    order = sorted(contents, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = max(1, round(len(order) / 10))
    places = dict(zip(("test", "validation", "train"), np.split(np.array(order), [count, 2 * count]), strict=True))
    return {name: [contents[each] for each in sorted(places[name].tolist())] for name in SPLITS}


def _cut(content: bytes) -> dict[str, bytes]:
    """A text by place."""
    tenth = max(1, len(content) // 10)
    parts = content[: -2 * tenth], content[-2 * tenth : -tenth], content[-tenth:]
    return dict(zip(SPLITS, parts, strict=True))


def read(path: pathlib.Path) -> bytes:
    """The bytes of a text file.

    Raises:
      ValueError: it cannot be read, is empty, or its bytes are no UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; expected a text file, or a link to one") from None
    if not content.strip():
        raise ValueError(f"{path} is empty: expected text in it; remove it, or fetch it again")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text: byte {content[error.start]:#04x} at {error.start}; expected UTF-8, to which "
            "`iconv -t utf-8` turns other encodings"
        ) from None
    if b"\0" in content:
        raise ValueError(f"{path} is no text: it has a zero byte at {content.index(0)}; expected UTF-8")
    return content
