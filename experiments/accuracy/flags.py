"""Flags of `python -m experiments.accuracy`, and settings from them: experiments that train models use them, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from experiments import command_line, optional

if TYPE_CHECKING:
    from experiments.accuracy.cells import Settings

SAME = (
    "seeds", "steps", "tokens", "layers", "heads", "feed_forward", "norm", "pooling", "dropout", "warmup", "schedule",
    "weight_decay", "dtype", "test_examples", "validate_every", "save_every", "match", "minutes", "memory", "isolate",
    "out", "tied", "tensorboard",
)  # fmt: skip


def define(values: flags.FlagValues) -> None:
    """Register the flags with `values`."""
    flags.DEFINE_string(
        "task",
        "text, masked_text",
        "Tasks as calls: text, masked_text, listops, mqar(pairs=4), copy, ...",
        flag_values=values,
    )
    flags.DEFINE_string(
        "kernels", "softmax, sliding_window, linear", "Kernels as calls, or 'all'; {a,b} is a grid.", flag_values=values
    )
    flags.DEFINE_string(
        "positions",
        "learned",
        "How tokens know their places: none, sinusoidal, learned, rotary, alibi, t5, shaw, as calls.",
        flag_values=values,
    )
    flags.DEFINE_string("lengths", "64,256", "Sequence lengths; a range such as 64:512 doubles.", flag_values=values)
    flags.DEFINE_string("eval_lengths", "", "Other lengths to test on, such as longer ones.", flag_values=values)
    flags.DEFINE_string("widths", "64", "Widths of the model.", flag_values=values)
    flags.DEFINE_string(
        "learning_rates",
        "3e-3",
        "Highest learning rates; of several, validation chooses for each kernel.",
        flag_values=values,
    )
    flags.DEFINE_integer("seeds", 1, "Number of runs of each cell, with seeds 0, 1, ...", flag_values=values)
    flags.DEFINE_integer("steps", 200, "Training steps.", flag_values=values)
    flags.DEFINE_integer("tokens", 4096, "Tokens in a training batch: examples = tokens / length.", flag_values=values)
    flags.DEFINE_integer("layers", 2, "Blocks of the model.", flag_values=values)
    flags.DEFINE_integer("heads", 4, "Heads of attention.", flag_values=values)
    flags.DEFINE_integer(
        "feed_forward", 0, "Width inside feed-forward networks; 0 for four times the width.", flag_values=values
    )
    flags.DEFINE_enum("norm", "before", ["before", "after"], "Norms before parts, or after.", flag_values=values)
    flags.DEFINE_enum("pooling", "mean", ["mean", "cls"], "How a classifier pools.", flag_values=values)
    flags.DEFINE_bool(
        "tied", False, "Logits by the embeddings of tokens, in place of a layer of their own.", flag_values=values
    )
    flags.DEFINE_float("dropout", 0.0, "Dropout of activations.", flag_values=values)
    flags.DEFINE_integer("warmup", 20, "Steps until the learning rate is reached.", flag_values=values)
    flags.DEFINE_enum("schedule", "cosine", ["cosine", "rsqrt"], "How it falls afterwards.", flag_values=values)
    flags.DEFINE_float("weight_decay", 0.01, "Of matrices.", flag_values=values)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of activations.", flag_values=values)
    flags.DEFINE_integer("test_examples", 256, "Held-out examples, and as many to validate on.", flag_values=values)
    flags.DEFINE_integer(
        "validate_every",
        0,
        "Steps between validations, the best of which is tested; 0 tests the last step.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "save_every", 500, "Steps between checkpoints of an unfinished cell; 0 for none.", flag_values=values
    )
    flags.DEFINE_enum(
        "match",
        "none",
        ["none", "params"],
        "params: feed-forward widths make models equally large.",
        flag_values=values,
    )
    flags.DEFINE_float("minutes", 0.0, "Limit of each cell; 0 for none.", flag_values=values)
    flags.DEFINE_float("memory", 0.0, "GiB of address space that a cell may take; 0 for no limit.", flag_values=values)
    flags.DEFINE_bool(
        "isolate",
        True,
        "A process for each cell; without, all in this one, which is quicker and less safe.",
        flag_values=values,
    )
    flags.DEFINE_string("shard", "", "i/n: only the i-th of n parts of the sweep, counted from 0.", flag_values=values)
    flags.DEFINE_bool(
        "tensorboard", False, "Write curves while training, to <out>/tensorboard/<cell>.", flag_values=values
    )
    flags.DEFINE_string("out", "runs/accuracy", "Folder for rows and figures.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "List the cells and predicted hours, and run none.", flag_values=values)


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
    from experiments.accuracy.cells import Settings

    return Settings(
        tasks=command_line.tasks(values.task),
        kernels=command_line.kernels(values.kernels),
        positions=command_line.positions(values.positions),
        lengths=command_line.lengths(values.lengths),
        eval_lengths=command_line.lengths(values.eval_lengths, "eval_lengths") if values.eval_lengths else (),
        widths=command_line.lengths(values.widths, "widths"),
        learning_rates=command_line.numbers(values.learning_rates, "learning_rates"),
        shard=command_line.shard(values.shard),
        **{name: getattr(values, name) for name in SAME},
    )
