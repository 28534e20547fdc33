"""Flags of `python -m experiments.accuracy`."""

from absl import flags

from experiments import command_line, optional

FLAGS = flags.FLAGS
flags.DEFINE_string("task", "text, masked_text", "Tasks as calls: text, masked_text, listops, mqar(pairs=4), copy, ...")
flags.DEFINE_string("kernels", "softmax, sliding_window, linear", "Kernels as calls, or 'all'; {a,b} is a grid.")
flags.DEFINE_string(
    "positions",
    "learned",
    "How tokens know their places: none, sinusoidal, learned, rotary, alibi, t5, shaw, as calls.",
)
flags.DEFINE_string("lengths", "64,256", "Sequence lengths; a range such as 64:512 doubles.")
flags.DEFINE_string("eval_lengths", "", "Other lengths to test on, such as longer ones.")
flags.DEFINE_string("widths", "64", "Widths of the model.")
flags.DEFINE_string("learning_rates", "3e-3", "Highest learning rates; of several, validation chooses for each kernel.")
flags.DEFINE_integer("seeds", 1, "Number of runs of each cell, with seeds 0, 1, ...")
flags.DEFINE_integer("steps", 200, "Training steps.")
flags.DEFINE_integer("tokens", 4096, "Tokens in a training batch: examples = tokens / length.")
flags.DEFINE_integer("layers", 2, "Blocks of the model.")
flags.DEFINE_integer("heads", 4, "Heads of attention.")
flags.DEFINE_integer("feed_forward", 0, "Width inside feed-forward networks; 0 for four times the width.")
flags.DEFINE_enum("norm", "before", ["before", "after"], "Norms before parts, or after.")
flags.DEFINE_enum("pooling", "mean", ["mean", "cls"], "How a classifier pools.")
flags.DEFINE_float("dropout", 0.0, "Dropout of activations.")
flags.DEFINE_integer("warmup", 20, "Steps until the learning rate is reached.")
flags.DEFINE_enum("schedule", "cosine", ["cosine", "rsqrt"], "How it falls afterwards.")
flags.DEFINE_float("weight_decay", 0.01, "Of matrices.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of activations.")
flags.DEFINE_integer("test_examples", 256, "Held-out examples, and as many to validate on.")
flags.DEFINE_integer(
    "validate_every", 0, "Steps between validations, the best of which is tested; 0 tests the last step."
)
flags.DEFINE_integer("save_every", 500, "Steps between checkpoints of an unfinished cell; 0 for none.")
flags.DEFINE_enum("match", "none", ["none", "params"], "params: feed-forward widths make models equally large.")
flags.DEFINE_float("minutes", 0.0, "Limit of each cell; 0 for none.")
flags.DEFINE_float("memory", 0.0, "GiB of address space that a cell may take; 0 for no limit.")
flags.DEFINE_bool("isolate", True, "A process for each cell; without, all in this one, which is quicker and less safe.")
flags.DEFINE_string("shard", "", "i/n: only the i-th of n parts of the sweep, counted from 0.")
flags.DEFINE_bool("tensorboard", False, "Write curves while training, to <out>/tensorboard/<cell>.")
flags.DEFINE_string("out", "runs/accuracy", "Folder for rows and figures.")
flags.DEFINE_bool("dry_run", False, "List the cells and predicted hours, and run none.")


def main() -> int:
    """Flags to settings, and on."""
    if FLAGS.tensorboard:
        optional.require("tensorboardX", "tensorboard", "--tensorboard")
    from experiments.accuracy.cells import Settings
    from experiments.accuracy.run import list_cells, run

    same = ("seeds", "steps", "tokens", "layers", "heads", "feed_forward", "norm", "pooling", "dropout", "warmup")
    same += ("schedule", "weight_decay", "dtype", "test_examples", "validate_every", "save_every", "match", "minutes")
    same += ("memory", "isolate", "out", "tensorboard")
    settings = Settings(
        tasks=command_line.tasks(FLAGS.task),
        kernels=command_line.kernels(FLAGS.kernels),
        positions=command_line.positions(FLAGS.positions),
        lengths=command_line.lengths(FLAGS.lengths),
        eval_lengths=command_line.lengths(FLAGS.eval_lengths, "eval_lengths") if FLAGS.eval_lengths else (),
        widths=command_line.lengths(FLAGS.widths, "widths"),
        learning_rates=command_line.numbers(FLAGS.learning_rates, "learning_rates"),
        shard=command_line.shard(FLAGS.shard),
        **{name: getattr(FLAGS, name) for name in same},
    )
    return list_cells(settings) if FLAGS.dry_run else run(settings)


if __name__ == "__main__":
    command_line.run(main)
