"""What trains the models behind published accuracies: flags of `python -m experiments.accuracy`, one command a setting.

Every setting has five seeds. Where a source says nothing, what is chosen here is said, and what is not as published
stands in the ledger (`DEVIATIONS`):

- listops, text, retrieval: the public configurations of LRA. Their rate, 0.05 / sqrt(max(step, warm-up)), is given by
  its peak. Positions are sinusoidal, the answer is read at a learned first token. The paper's text is 4,000 bytes long,
  the configuration's 1,000: the paper's is taken. Retrieval warms up for 8,000 steps and ends after 5,000, and its
  training script joins the two documents' vectors without comparing them.
- image, pathfinder: from there as well. Rates fall along a cosine, and each model has a size of its own (`SIZES`), and
  so a setting, such as image-local. Two public configurations of image cannot run: bigbird's misspells its four heads,
  and sinkhorn's asks for a first token, which its model has not. Four heads and the mean are taken.
- the small ones: Nystromformer's configurations, two layers of width 64, whose documents are compared. Its rate falls
  linearly, ours along a cosine.
- mqar: 64 tokens, 4 pairs, 8,192 symbols, two layers, one head, width 64, logits tied to embeddings, as published.
  Published models see 12,500 batches of 512 examples at four rates. Ours learn from a sixtieth at one, which takes
  embeddings that start large and positions as large as they, chosen in trials with one seed: keys and values are told
  apart by where they stand.

All but listops and mqar want a folder: aclImdb, cifar-10-batches-bin, and pathfinder32 and tsv_data of lra_release.gz
(`experiments/tasks/` says what is in them).
"""

from __future__ import annotations

import functools
import pathlib
import shlex
from collections.abc import Iterable

from attnzoo import Kernel, catalogue
from experiments.bench import records
from experiments.bench.settings import parsed
from experiments.reproduce.published import Published
from experiments.train.sweep.cells import KEY
from experiments.train.sweep.cells import cells as every
from experiments.train.sweep.settings import Settings

MODULE = "experiments.accuracy"
SEEDS = 5
LRA = {"dropout": "0.1", "embedding_stddev": 1, "seeds": SEEDS}
RSQRT = LRA | {"positions": "sinusoidal", "pooling": "cls", "schedule": "rsqrt", "weight_decay": "0.1"}
COSINE = LRA | {"schedule": "cosine"}
TWO_LAYERS = {
    "positions": "learned",
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
RETRIEVAL = {
    "task": 'retrieval(folder="tsv_data")',
    "lengths": 4000,
    "tokens": 32 * 4000,
    "test_examples": 17_437,
}
IMAGE = {
    "task": 'image(folder="cifar-10-batches-bin")',
    "lengths": 1024,
    "tokens": 256 * 1024,
    "test_examples": 10_000,
    "steps": 35_000,
    "warmup": 175,
}
PATHFINDER = {
    "task": 'pathfinder(folder="pathfinder32")',
    "lengths": 1024,
    "test_examples": 20_000,
    "steps": 62_400,
    "warmup": 312,
}
# What LRA's models of pictures differ in.
SIZED = ("widths", "layers", "heads", "feed_forward", "dropout", "pooling", "weight_decay")
SIZES = {
    ("image", "softmax"): (32, 1, 1, 64, "0.3", "cls", "0"),
    ("image", "local"): (128, 1, 2, 128, "0.3", "mean", "0"),
    ("image", "sparse_transformer"): (128, 1, 8, 128, "0.3", "cls", "0"),
    ("image", "longformer"): (128, 4, 4, 128, "0.3", "mean", "0"),
    ("image", "linformer"): (128, 1, 8, 128, "0.3", "cls", "0"),
    ("image", "reformer"): (64, 4, 8, 64, "0.3", "cls", "0"),
    ("image", "sinkhorn"): (32, 1, 1, 64, "0.1", "mean", "0.7"),
    ("image", "synthesizer"): (128, 1, 8, 128, "0.3", "cls", "0"),
    ("image", "bigbird"): (128, 1, 4, 128, "0.3", "cls", "0"),
    ("image", "linear"): (128, 1, 8, 128, "0.3", "cls", "0"),
    ("image", "performer"): (128, 1, 8, 128, "0.3", "cls", "0"),
    ("pathfinder", "softmax"): (128, 1, 4, 128, "0.2", "mean", "0"),
    ("pathfinder", "local"): (64, 2, 4, 64, "0.1", "mean", "0"),
    ("pathfinder", "sparse_transformer"): (32, 1, 8, 32, "0.2", "mean", "0"),
    ("pathfinder", "longformer"): (32, 2, 2, 32, "0.1", "mean", "0"),
    ("pathfinder", "linformer"): (32, 1, 2, 32, "0.2", "mean", "0"),
    ("pathfinder", "reformer"): (64, 2, 8, 64, "0.2", "mean", "0"),
    ("pathfinder", "sinkhorn"): (32, 2, 4, 64, "0.2", "mean", "0"),
    ("pathfinder", "synthesizer"): (64, 2, 4, 64, "0.2", "mean", "0"),
    ("pathfinder", "bigbird"): (64, 4, 2, 64, "0.2", "mean", "0"),
    ("pathfinder", "linear"): (128, 1, 2, 128, "0.2", "mean", "0"),
    ("pathfinder", "performer"): (32, 4, 8, 32, "0.2", "mean", "0"),
}
PICTURES = {
    "image": IMAGE | COSINE | {"positions": "learned", "learning_rates": "5e-4"},
    "pathfinder": PATHFINDER | COSINE | {"positions": "sinusoidal", "tokens": 512 * 1024, "learning_rates": "1e-3"},
}
TRAININGS = {
    "listops": LISTOPS
    | RSQRT
    | {"widths": 512, "layers": 6, "heads": 8, "feed_forward": 2048, "learning_rates": "1.58e-3"},
    "text": TEXT | RSQRT | {"widths": 256, "layers": 4, "heads": 4, "feed_forward": 1024, "learning_rates": "5.59e-4"},
    "retrieval": RETRIEVAL
    | RSQRT
    | {"widths": 128, "layers": 4, "heads": 4, "feed_forward": 512, "learning_rates": "5.59e-4"}
    | {"steps": 5000, "warmup": 8000, "pairing": "joined"},
    **{
        f"{task}-{model}": PICTURES[task] | dict(zip(SIZED, sizes, strict=True))
        for (task, model), sizes in SIZES.items()
    },
    "listops-small": LISTOPS | TWO_LAYERS,
    "text-small": TEXT | TWO_LAYERS,
    "retrieval-small": RETRIEVAL
    | TWO_LAYERS
    | {"steps": 30_000, "warmup": 800, "validate_every": 300, "pairing": "compared"},
    "image-small": IMAGE | TWO_LAYERS | {"validate_every": 175},
    "pathfinder-small": PATHFINDER | TWO_LAYERS | {"tokens": 256 * 1024, "validate_every": 312},
    "mqar": {
        "task": "mqar(pairs=4)",
        "lengths": 64,
        "tokens": 64 * 64,
        "test_examples": 1024,
        "steps": 1700,
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
# Of all models but mqar's, which are small and predict tokens.
CLIPPED = "ours: gradients clipped to a norm of 1, no dropout of attention's weights"
PLAIN = f"{CLIPPED}, no hidden layer before the classes"
PICTURED = (
    f"{PLAIN}; heads that are as wide as the model together, not half as wide as most of theirs; rates to a tenth; "
    "black pixels are seen, which theirs take for padding"
)
SMALLER = f"{PLAIN}; rates along a cosine"
DEVIATIONS = {
    "listops": PLAIN,
    "text": PLAIN,
    "retrieval": f"{CLIPPED}, one hidden layer before the classes for two; the answer at a learned token, no byte",
    "image": PICTURED,
    "pathfinder": PICTURED,
    "listops-small": SMALLER,
    "text-small": SMALLER,
    "retrieval-small": f"{CLIPPED}; rates along a cosine",
    "image-small": SMALLER,
    "pathfinder-small": SMALLER,
    "mqar": (
        "ours: sinusoidal positions for learned ones, feed-forward networks of width 1 for none, embeddings that start "
        "at 0.3, one rate for the best of four, and 1 example for 60"
    ),
}
# What identifies a model; not the digest of its data, which a ledger can be written without.
SAME = tuple(name for name in KEY if name != "digest")


def name(result: Published) -> str:
    """The setting of a published accuracy: that of its group, or of its model where models have sizes of their own."""
    own = f"{result.group}-{result.model}"
    return own if own in TRAININGS else result.group


def folder(setting: str) -> str | None:
    """Where a setting's data are that one has to bring; None where there are none."""
    [task] = _asked(tuple(TRAININGS[setting].items())).tasks
    return task.folder


def cells(setting: str, kernel: Kernel) -> frozenset[tuple]:
    """What identifies each model of a setting with a kernel, in every field of `SAME`."""
    return _cells(tuple((TRAININGS[setting] | {"kernels": catalogue.spelled(kernel)}).items()))


# A page asks for every published result in every folder of rows.
@functools.cache
def _cells(flags: tuple[tuple[str, str], ...]) -> frozenset[tuple]:
    settings = _asked(flags)
    return frozenset(records.cell(cell.asked(settings), SAME) for cell in every(settings))


@functools.cache
def _asked(flags: tuple[tuple[str, str], ...]) -> Settings:
    return parsed(Settings, **dict(flags))


def arguments(setting: str, kernels: Iterable[str], out: str) -> list[str]:
    """The words of the command that trains kernels by a setting, into a folder of its own under `out`."""
    given = TRAININGS[setting] | {"kernels": ", ".join(dict.fromkeys(kernels)), "out": pathlib.Path(out) / setting}
    return ["-m", MODULE, *(f"--{flag}={value}" for flag, value in given.items())]


def command(setting: str, kernels: Iterable[str], out: str) -> str:
    """The same, as one writes it."""
    return shlex.join(["python", *arguments(setting, kernels, out)])
