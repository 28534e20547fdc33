"""Real text that is on every machine: the source of Python's standard library, as bytes.

The list of modules is fixed, and every Python from 3.11 to 3.13 has them; their tests are left out. Files are split
by a hash of their names, so that training and held-out text never share a file. A window is a pure function of seed,
split and index. Contents differ a little between Python versions: rows record hash and version.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
import platform
import sysconfig
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from attnzoo.contract import fields
from experiments.tasks import task
from experiments.tasks.task import SPLITS, Examples, Task, generator

VOCABULARY = 257  # bytes, and one token that masks
MASK = 256

MODULES = """
abc argparse ast base64 bdb bisect calendar cmd code codecs codeop collections/__init__ colorsys compileall
concurrent/futures/_base concurrent/futures/process concurrent/futures/thread configparser contextlib copy copyreg
cProfile csv ctypes/util dataclasses datetime decimal difflib dis doctest email/_header_value_parser email/_parseaddr
email/charset email/contentmanager email/encoders email/feedparser email/generator email/header email/headerregistry
email/message email/policy email/utils enum filecmp fileinput fnmatch fractions ftplib functools genericpath getopt
getpass gettext glob graphlib gzip hashlib heapq hmac html/parser http/client http/cookiejar http/cookies http/server
imaplib importlib/_bootstrap importlib/_bootstrap_external importlib/abc importlib/util inspect io ipaddress
json/decoder json/encoder json/tool keyword linecache locale logging/__init__ logging/config logging/handlers lzma
mailbox mimetypes modulefinder multiprocessing/connection multiprocessing/context multiprocessing/managers
multiprocessing/pool multiprocessing/queues multiprocessing/shared_memory multiprocessing/synchronize netrc ntpath
numbers opcode operator optparse os pdb pickle pickletools pkgutil platform plistlib poplib posixpath pprint profile
pstats pty py_compile pyclbr pydoc queue quopri random reprlib rlcompleter runpy sched secrets selectors shelve shlex
shutil site smtplib socket socketserver ssl stat statistics string stringprep struct subprocess symtable sysconfig
tabnanny tarfile tempfile textwrap threading timeit token tokenize trace traceback tracemalloc types typing
unittest/case unittest/loader unittest/main unittest/mock unittest/result unittest/suite urllib/parse urllib/request
urllib/response urllib/robotparser uuid warnings wave weakref webbrowser wsgiref/handlers wsgiref/headers
wsgiref/simple_server wsgiref/validate xml/dom/expatbuilder xml/dom/minidom xml/dom/pulldom xml/etree/ElementPath
xml/etree/ElementTree xml/sax/expatreader xml/sax/handler xml/sax/saxutils xmlrpc/client xmlrpc/server zipapp zipfile
zipimport asyncio/base_events asyncio/events asyncio/futures asyncio/locks asyncio/queues asyncio/sslproto
asyncio/streams asyncio/subprocess asyncio/tasks asyncio/unix_events
""".split()


@dataclasses.dataclass(frozen=True)
class Text(Task):
    """The next byte of a window of text."""

    vocabulary = VOCABULARY
    chance = 1 / 256
    metric = "bits"

    def corpus(self) -> Corpus:
        """What windows are taken from."""
        return library()

    @property
    def digest(self) -> str:
        return self.corpus().digest

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        tokens = window(self.corpus(), split, generator(seed, split, index), length + 1).astype(np.int32)
        return Examples(tokens[:-1], tokens[1:], np.ones(length, np.float32))


@dataclasses.dataclass(frozen=True)
class MaskedText(Text):
    """Bytes that are hidden, a share `rate` of a window, from all others (Devlin et al. 2018, arXiv:1810.04805)."""

    rate: float = 0.15

    is_causal = False

    def __post_init__(self):
        if not (fields.is_number(self.rate) and 0 < self.rate <= 1):
            raise ValueError(f"MaskedText(rate={self.rate!r}): rate must be a number in (0, 1]")

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        rng = generator(seed, split, index)
        tokens = window(self.corpus(), split, rng, length).astype(np.int32)
        hidden = np.zeros(length, bool)
        hidden[rng.permutation(length)[: max(1, round(self.rate * length))]] = True
        return Examples(np.where(hidden, MASK, tokens).astype(np.int32), tokens, hidden.astype(np.float32))


class Corpus(NamedTuple):
    """The text of one split, files one after another, and where it came from.

    Attributes:
      splits: uint8 [bytes] for each of `SPLITS`.
      digest: SHA-256 over names and contents.
      python: the version of Python whose library it is, or empty.
    """

    splits: dict[str, np.ndarray]
    digest: str
    python: str = ""


def load(folder: str | None = None) -> Corpus:
    """Read the modules below `folder`, the standard library unless given.

    Raises:
      ValueError: too few of the listed files are there, as on a Python without its source.
    """
    root = pathlib.Path(folder) if folder else standard_library()
    files = {name: path for name in MODULES if (path := find(root, name)) is not None}
    if len(files) < 0.9 * len(MODULES):
        absent = ", ".join(name for name in MODULES if name not in files)[:200]
        raise ValueError(f"{root} has {len(files)} of {len(MODULES)} modules of the corpus as source; absent: {absent}")
    return corpus_of({name: path.read_bytes() for name, path in files.items()}, by_name, platform.python_version())


@functools.cache
def library() -> Corpus:
    """What `load` reads from the standard library, read once in a process."""
    return load()


def corpus_of(
    contents: dict[str, bytes], split: Callable[[dict[str, bytes]], dict[str, list[bytes]]], python: str = ""
) -> Corpus:
    """A corpus of files by name, in the order of names; `split` tells the texts of each split."""
    contents = dict(sorted(contents.items()))
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + text for name, text in contents.items())).hexdigest()
    splits = {name: np.frombuffer(b"\n".join(texts), np.uint8) for name, texts in split(contents).items()}
    return Corpus(splits, digest, python)


def by_name(contents: dict[str, bytes]) -> dict[str, list[bytes]]:
    """The texts of each split, by a hash of each name alone."""
    return {split: [text for name, text in contents.items() if split_of(name) == split] for split in SPLITS}


def split_of(name: str) -> str:
    """The split that a file belongs to, by its name."""
    return task.split_of(name.encode())


def windows(corpus: Corpus, split: str, seed: int, start: int, count: int, length: int) -> np.ndarray:
    """Windows number `start` .. `start + count` of a split: int32 [count, length]."""
    generators = (generator(seed, split, index) for index in range(start, start + count))
    return np.stack([window(corpus, split, rng, length) for rng in generators]).astype(np.int32)


def window(corpus: Corpus, split: str, rng: np.random.Generator, length: int) -> np.ndarray:
    """Bytes from anywhere in a split: uint8 [length].

    Raises:
      ValueError: the split has no more than that.
    """
    text = corpus.splits[split]
    if length >= len(text):
        raise ValueError(
            f"a window of {length:,} bytes: the files of the {split} split have {len(text):,}, expected more; as they "
            "are split 8 : 1 : 1, add some, or cut long ones, as by `split -C 64k --additional-suffix=.txt`"
        )
    offset = rng.integers(len(text) - length)
    return text[offset : offset + length]


def unigram_bits(corpus: Corpus, split: str = "test") -> float:
    """Bits per byte of a split, coded by the frequency of bytes in the training text."""
    counts = np.bincount(corpus.splits["train"], minlength=256) + 1.0
    return float(-np.log2(counts / counts.sum())[corpus.splits[split]].mean())


def standard_library() -> pathlib.Path:
    """The folder of this Python's own modules."""
    return pathlib.Path(sysconfig.get_paths()["stdlib"])


def find(root: pathlib.Path, name: str) -> pathlib.Path | None:
    """A module's file; some are packages in one Python and files in another."""
    for path in (root / f"{name}.py", root / name / "__init__.py"):
        if path.is_file():
            return path
    return None
