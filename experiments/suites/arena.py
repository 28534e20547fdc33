"""The Long Range Arena, and again: how much of it is near, and what a model learns from its inputs first."""

from __future__ import annotations

from experiments.reproduce import presets
from experiments.reproduce.trainings import SIZES, TRAININGS
from experiments.suites.kinds import named, others
from experiments.suites.suite import Suite, Training

WINDOWS = (4, 16, 64, 256)  # on each side
BLOCKS = (1, 16, 256)
SMALL = {
    "isolate": "false", "save_every": 0, "tokens": 2048, "test_examples": 256, "widths": 64, "layers": 2, "heads": 2,
    "steps": 400, "learning_rates": "1e-3", "lengths": 128, "positions": "learned",
}  # fmt: skip
SHORT = "listops(min_length=None, max_length=None)"
DIGITS = {"task": "digits", "lengths": 64}
FULL, NAMES = "softmax", {"longformer": "sliding_window"}  # where a kernel's name is another one than its model's
HIDDEN = {"listops": 0.1, "text": 0.15, "image": 0.5, "pathfinder": 0.5}  # of the inputs of a task


def _windows(windows):
    return ", ".join(["softmax", *(f"sliding_window(left={side}, right={side})" for side in windows)])


def _near(name, flags, windows, blocks):
    """Windows on the task as it is, and all kernels on shuffled blocks of its input."""
    task = flags["task"]
    shuffled = [
        Training(f"{name}-blocks-{block}", dict(flags) | {"task": f"shuffled(task={task!r}, block={block})"})
        for block in blocks
    ]
    return [Training(f"{name}-windows", dict(flags) | {"kernels": _windows(windows), "layers": 1}), *shuffled]


def _restored(name, flags, hidden):
    """A model learns the inputs, then answers from there, and beside it one that has not."""
    first = Training(f"{name}-inputs", dict(flags) | {"task": f"denoised(task={flags['task']!r}, hidden={hidden})"})
    return [
        first,
        Training(f"{name}-after", dict(flags) | {"start_from": f"{{out}}/{first.name}"}),
        Training(name, flags),
    ]


def _own(setting):
    """A training by a setting, with the seeds that are asked for."""
    return {flag: value for flag, value in TRAININGS[setting].items() if flag != "seeds"}


def _sized(task):
    """A training of each model that has a size of its own there; all others have that of exact attention."""
    models = {model: NAMES.get(model, model) for of, model in SIZES if of == task}
    rest = others(*(kernel for model, kernel in models.items() if model != FULL))
    return [
        Training(f"{task}-{model}", _own(f"{task}-{model}"), task, rest if model == FULL else named(kernel))
        for model, kernel in models.items()
    ]


LRA = Suite(
    source="Long Range Arena, Tay et al. 2021, arXiv:2011.04006; configurations of google-research/long-range-arena",
    kernels=", ".join(model.corrected for model in presets.LRA.values()),
    published=(
        *(Training(task, _own(task), task) for task in ("listops", "text", "retrieval")),
        *_sized("image"),
        *_sized("pathfinder"),
    ),
    small=(
        Training("listops", SMALL | {"task": SHORT}, "listops"),
        Training("text", SMALL | {"task": "modules"}, "text"),
        Training("image", SMALL | DIGITS, "image"),
    ),
    differs=(
        "what `experiments.reproduce` tells of these trainings, which are its own; kernels are what the paper means, "
        "where its code is another function, with the blocks of text for pictures, too; kernels that it has not have "
        "the size of exact attention's model. text, retrieval, image and pathfinder want the folders aclImdb, "
        "tsv_data, cifar-10-batches-bin and pathfinder32"
    ),
    scaled=(
        "ListOps of 32 to 128 tokens, the modules that passages are from in place of sentiment, digits in place of "
        "pictures, and no retrieval or pathfinder, which want folders; learned positions, two layers of width 64, 400 "
        "steps"
    ),
    is_scored=True,
    models=("kernel",),
)
LISTOPS = Suite(
    source="ListOps, Nangia and Bowman 2018, arXiv:1804.06028; Tay et al. 2021, arXiv:2011.04006",
    kernels="softmax, local(block_size=64), linear, performer(features=256), linformer(rank=64), nystrom(landmarks=64)",
    published=(Training("listops", TRAININGS["listops"]), Training("listops-small", TRAININGS["listops-small"])),
    small=(Training("listops-128", SMALL | {"task": SHORT}),),
    differs="what `experiments.reproduce` tells of these two trainings, which are its own",
    scaled="expressions of 32 to 128 tokens, width 64, learned positions, 400 steps",
)
LOCALITY = Suite(
    source="Locality of the Long Range Arena, Miralles-Gonzalez et al. 2025, arXiv:2501.14850",
    kernels="softmax",
    published=tuple(
        training
        for name in ("listops", "text")
        for training in _near(name, TRAININGS[f"{name}-small"], WINDOWS, BLOCKS)
    ),
    small=tuple(
        training
        for name, task in (("listops", SHORT), ("modules", "modules"))
        for training in _near(name, SMALL | {"task": task}, (4, 16), (1, 16))
    ),
    differs=(
        "they bound convolutions and attention of their own models; here models are Nystromformer's small ones, one "
        "layer of windows, so that no token sees farther, and blocks in any order, which are ours. text wants aclImdb"
    ),
    scaled="128 tokens, passages of modules for text, learned positions, 400 steps",
)
PRETRAINING = Suite(
    source="Self-pretraining, Amos et al. 2023, arXiv:2310.02980; shares that are hidden are theirs",
    kernels="softmax, linear, local(block_size=64)",
    published=tuple(
        training for name, hidden in HIDDEN.items() for training in _restored(name, TRAININGS[f"{name}-small"], hidden)
    ),
    small=tuple(
        training
        for name, flags, hidden in (
            ("listops", {"task": SHORT}, 0.1),
            ("digits", DIGITS, 0.5),
        )
        for training in _restored(name, SMALL | flags, hidden)
    ),
    differs=(
        "models are Nystromformer's small ones, trained as long on inputs as on answers; pixels are told as tokens, "
        "by cross-entropy, and by theirs as numbers, by distance; text, image and pathfinder want folders of data"
    ),
    scaled="128 tokens of ListOps, and digits for pictures, learned positions, 400 steps each",
)
