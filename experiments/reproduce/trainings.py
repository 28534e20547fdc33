"""What trains the models behind published accuracies: flags of `python -m experiments.accuracy`, one command a setting.

Every setting has five seeds. Where a source says nothing, what is chosen here is said, and what is not as published
stands in the ledger (`DEVIATIONS`):

- listops, text: the public configurations of LRA. Their rate, 0.05 / sqrt(max(step, warm-up)), is given by its peak.
  Positions are sinusoidal, the answer is read at a learned first token. The paper's text is 4,000 bytes long, the
  configuration's 1,000: the paper's is taken.
- listops-small, text-small: Nystromformer's configuration, two layers of width 64. Its rate falls linearly, ours along
  a cosine.
- mqar: 64 tokens, 4 pairs, 8,192 symbols, two layers, one head, width 64, logits tied to embeddings, as published.
  Published models see 12,500 batches of 512 examples at four rates. Ours learn from a fiftieth at one, which takes
  embeddings that start large and positions as large as they, chosen in trials with one seed: keys and values are told
  apart by where they stand.

`imdb` wants the folder aclImdb (`experiments/tasks/imdb.py`).
"""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Iterable

from attnzoo import Kernel, catalogue
from experiments import records
from experiments.accuracy import flags
from experiments.accuracy.cells import KEY
from experiments.accuracy.cells import cells as every
from experiments.reproduce.published import ACCURACY, MQAR, SMALL, Published

MODULE = "experiments.accuracy"
SEEDS = 5
LRA = {
    "positions": "sinusoidal",
    "dropout": "0.1",
    "pooling": "cls",
    "schedule": "rsqrt",
    "weight_decay": "0.1",
    "seeds": SEEDS,
}
TWO_LAYERS = {
    "widths": 64,
    "layers": 2,
    "heads": 2,
    "feed_forward": 128,
    "dropout": "0.1",
    "learning_rates": "1e-4",
    "weight_decay": "0",
    "validate_every": 500,
    "seeds": SEEDS,
}
LISTOPS = {
    "task": "listops",
    "lengths": 2000,
    "tokens": 32 * 2000,
    "test_examples": 2000,
    "steps": 5000,
    "warmup": 1000,
}
TEXT = {
    "task": 'imdb(folder="aclImdb")',
    "lengths": 4000,
    "tokens": 32 * 4000,
    "test_examples": 25_000,
    "steps": 20_000,
    "warmup": 8000,
}
TRAININGS = {
    "listops": LISTOPS
    | LRA
    | {"widths": 512, "layers": 6, "heads": 8, "feed_forward": 2048, "learning_rates": "1.58e-3"},
    "text": TEXT | LRA | {"widths": 256, "layers": 4, "heads": 4, "feed_forward": 1024, "learning_rates": "5.59e-4"},
    "listops-small": LISTOPS | TWO_LAYERS,
    "text-small": TEXT | TWO_LAYERS,
    "mqar": {
        "task": "mqar(pairs=4)",
        "lengths": 64,
        "tokens": 64 * 64,
        "test_examples": 1024,
        "steps": 2000,
        "warmup": 50,
        "positions": "sinusoidal(scale=0.3)",
        "tied": True,
        "embedding_stddev": "0.3",
        "widths": 64,
        "layers": 2,
        "heads": 1,
        "feed_forward": 1,
        "learning_rates": "5e-3",
        "weight_decay": "0.1",
        "validate_every": 1000,
        "seeds": SEEDS,
    },
}
NAMES = {
    (ACCURACY, "listops"): "listops",
    (ACCURACY, "text"): "text",
    (SMALL, "listops"): "listops-small",
    (SMALL, "text"): "text-small",
    (MQAR, "mqar"): "mqar",
}

DEVIATIONS = {
    "listops": "",
    "text": "",
    "listops-small": "ours: rates along a cosine",
    "text-small": "ours: rates along a cosine",
    "mqar": (
        "ours: sinusoidal positions for learned ones, feed-forward networks of width 1 for none, embeddings that start "
        "at 0.3, one rate for the best of four, and 1 example for 50"
    ),
}
# What identifies a model; not the digest of its data, which a ledger can be written without.
SAME = tuple(name for name in KEY if name != "digest")


def name(result: Published) -> str | None:
    """The setting of a published result, None where its task is not here."""
    return NAMES.get((result.table, result.task))


def cells(setting: str, kernel: Kernel) -> set[tuple]:
    """What identifies each model of a setting with a kernel, in every field of `SAME`."""
    settings = flags.parsed(**TRAININGS[setting] | {"kernels": catalogue.spelled(kernel)})
    return {records.cell(cell.asked(settings), SAME) for cell in every(settings)}


def arguments(setting: str, kernels: Iterable[str], out: str) -> list[str]:
    """The words of the command that trains kernels by a setting, into a folder of its own under `out`."""
    given = TRAININGS[setting] | {"kernels": ", ".join(dict.fromkeys(kernels)), "out": pathlib.Path(out) / setting}
    return ["-m", MODULE, *(f"--{flag}={value}" for flag, value in given.items())]


def command(setting: str, kernels: Iterable[str], out: str) -> str:
    """The same, as one writes it."""
    return shlex.join(["python", *arguments(setting, kernels, out)])
