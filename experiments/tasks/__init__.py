"""Where data comes from: one generator a file, a pure function of seed, split and index.

`TASKS` is the catalogue, for text such as `mqar(pairs=8)`. Those that have a `folder` need it on disk, and `digits`
needs scikit-learn; all others work everywhere.
"""

from __future__ import annotations

from attnzoo.catalogue.parsing import Catalogue
from experiments.tasks.copying import Copy, PackedCopy, SelectiveCopy
from experiments.tasks.corpus import PlainText
from experiments.tasks.digits import Digits
from experiments.tasks.flipflop import FlipFlop
from experiments.tasks.formal import BracketedArithmetic, CycleNavigation, ModularArithmetic, Parity
from experiments.tasks.image import Image
from experiments.tasks.imdb import IMDb
from experiments.tasks.induction import Induction
from experiments.tasks.listops import ListOps
from experiments.tasks.mad import MADCompression, MADFuzzyRecall, MADMemorization, MADRecall, MADSelectiveCopy
from experiments.tasks.modules import Modules
from experiments.tasks.mqar import MQAR, MixedMQAR
from experiments.tasks.needle import Needle
from experiments.tasks.pathfinder import Pathfinder
from experiments.tasks.phonebook import Phonebook
from experiments.tasks.recall import Recall
from experiments.tasks.retrieval import Retrieval
from experiments.tasks.task import Task
from experiments.tasks.text import MaskedText, Text
from experiments.tasks.words import WordProblem
from experiments.tasks.wrapped import Denoised, Epochs, Shuffled, TwoSided

TASKS: dict[str, type[Task]] = {
    "text": Text,
    "masked_text": MaskedText,
    "corpus": PlainText,
    "listops": ListOps,
    "mqar": MQAR,
    "mixed_mqar": MixedMQAR,
    "copy": Copy,
    "packed_copy": PackedCopy,
    "selective_copy": SelectiveCopy,
    "induction": Induction,
    "needle": Needle,
    "recall": Recall,
    "phonebook": Phonebook,
    "flip_flop": FlipFlop,
    "parity": Parity,
    "cycle_navigation": CycleNavigation,
    "modular_arithmetic": ModularArithmetic,
    "bracketed_arithmetic": BracketedArithmetic,
    "word_problem": WordProblem,
    "mad_recall": MADRecall,
    "mad_fuzzy_recall": MADFuzzyRecall,
    "mad_selective_copy": MADSelectiveCopy,
    "mad_memorization": MADMemorization,
    "mad_compression": MADCompression,
    "modules": Modules,
    "digits": Digits,
    "imdb": IMDb,
    "image": Image,
    "pathfinder": Pathfinder,
    "retrieval": Retrieval,
    "epochs": Epochs,
    "shuffled": Shuffled,
    "denoised": Denoised,
    "two_sided": TwoSided,
}

_TASKS = Catalogue("task", TASKS, Task, "text, mqar(pairs=8)")


def parse_tasks(text: str, imports: bool = True) -> list[Task]:
    """Tasks from text such as `"listops, mqar(pairs=8)"`, as `attnzoo.parse` does for kernels.

    Raises:
      ValueError: an unknown task or field (the message has the nearest name), or text that is no list of calls.

    Example:
      >>> parse_tasks("mqar(pairs=4)")
      [MQAR(pairs=4, vocabulary=8192)]
    """
    return _TASKS.parse(text, imports)


def name_of(task: Task) -> str:
    """The catalogue's name of a task's class, or the class's own where it is not in the catalogue."""
    return _TASKS.name_of(task)


def spelled(task: Task) -> str:
    """Text that `parse_tasks` reads as this task."""
    return _TASKS.spelled(task)
