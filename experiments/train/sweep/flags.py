"""Flags of `python -m experiments.accuracy`, and settings from them: experiments that train models use them, too."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from absl import flags

from experiments.bench import optional, parsing

if TYPE_CHECKING:
    from experiments.train.sweep.cells import Settings


# All of `experiments.tasks.TASKS`, in its order; it is not imported, since help does not wait for jax.
TASKS = (
    "text, masked_text, corpus(folder='/path'), listops, mqar(pairs=4), copy, selective_copy, induction, needle, "
    "recall, modules, digits, imdb(folder='/path'), image(folder='/path'), pathfinder(folder='/path'), "
    "retrieval(folder='/path')"
)


def define(values: flags.FlagValues) -> None:
    """Register the flags with `values`."""
    kinds = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float, flags.DEFINE_enum, flags.DEFINE_bool
    text, count, number, choice, switch = (functools.partial(kind, flag_values=values) for kind in kinds)
    text("task", "text, masked_text", f"Tasks as calls: {TASKS}.")
    text("kernels", "softmax, sliding_window, linear", "Kernels as calls, or 'all'; {a,b} is a grid.")
    text(
        "positions",
        "learned",
        "How tokens know their places: none, sinusoidal, learned, rotary, alibi, t5, shaw, as calls.",
    )
    text("lengths", "64,256", "Sequence lengths; a range such as 64:512 doubles.")
    text("eval_lengths", "", "Other lengths to test on, such as longer ones.")
    text("widths", "64", "Widths of the model.")
    text("learning_rates", "3e-3", "Highest learning rates; of several, validation chooses for each kernel.")
    count("seeds", 1, "Number of runs of each cell, with seeds 0, 1, ...")
    count("steps", 200, "Training steps.")
    count("tokens", 4096, "Tokens in a training batch: examples = tokens / length; of a pair, one document's count.")
    count("layers", 2, "Blocks of the model.")
    count("heads", 4, "Heads of attention.")
    count("feed_forward", 0, "Width inside feed-forward networks; 0 for four times the width.")
    choice("norm", "before", ["before", "after"], "Norms before parts, or after.")
    choice("pooling", "mean", ["mean", "cls"], "How a classifier pools.")
    choice("pairing", "compared", ["joined", "compared"], "Pairs to classes by x and y, or x * y and x - y, too.")
    switch("tied", False, "Logits by the embeddings of tokens, in place of a layer of their own.")
    number("embedding_stddev", 0.02, "Of embeddings before training.")
    number("dropout", 0.0, "Dropout of activations.")
    count("warmup", 20, "Steps until the learning rate is reached; with a cosine, all but one at most.")
    choice("schedule", "cosine", ["cosine", "rsqrt"], "How it falls afterwards.")
    number("weight_decay", 0.01, "Of matrices.")
    choice("dtype", "float32", ["float32", "bfloat16"], "Type of activations.")
    count("test_examples", 256, "Held-out examples, and as many to validate on.")
    count("validate_every", 0, "Steps between validations, the best of which is tested; 0 for the last step.")
    count("save_every", 500, "Steps between checkpoints of an unfinished cell; 0 for none.")
    choice("match", "none", ["none", "params"], "params: feed-forward widths make models equally large.")
    number("minutes", 0.0, "Limit of each cell; 0 for none.")
    number("memory", 0.0, "GiB of address space that a cell may take; 0 for no limit.")
    switch("isolate", True, "A process for each cell; without, all in this one, which is quicker and less safe.")
    text("shard", "", "i/n: only the i-th of n parts of the sweep, counted from 0.")
    switch("tensorboard", False, "Write curves while training, to <out>/tensorboard/<cell>.")
    text("out", "runs/accuracy", "Folder for rows and figures.")
    switch("dry_run", False, "List the cells and predicted hours, and run none.")


def parsed(**given) -> Settings:
    """Settings of the command with these flags, as `--name=value` would give them, and the defaults of all others."""
    values = flags.FlagValues()
    define(values)
    values(["accuracy", *(f"--{name}={value}" for name, value in given.items())])
    return settings(values)


def settings(values: flags.FlagValues) -> Settings:
    """What flags say."""
    if values.tensorboard:
        optional.require("tensorboardX", "tensorboard", "--tensorboard")
    from experiments.train.sweep.cells import Settings

    plain = {field.name: values[field.name].value for field in dataclasses.fields(Settings) if field.name in values}
    read = {
        "tasks": parsing.tasks(values.task),
        "kernels": parsing.kernels(values.kernels),
        "positions": parsing.positions(values.positions),
        "lengths": parsing.lengths(values.lengths),
        "eval_lengths": parsing.lengths(values.eval_lengths, "eval_lengths") if values.eval_lengths else (),
        "widths": parsing.lengths(values.widths, "widths"),
        "learning_rates": parsing.numbers(values.learning_rates, "learning_rates"),
        "shard": parsing.shard(values.shard),
    }
    return Settings(**plain | read)
