"""Flags of `python -m experiments.accuracy`."""

from absl import flags

from experiments import command_line

FLAGS = flags.FLAGS
flags.DEFINE_enum("task", "text", ["text"], "Data: text is the standard library's source, as bytes.")
flags.DEFINE_string("kernels", "softmax, sliding_window, linear", "Kernels as calls, or 'all'.")
flags.DEFINE_string(
    "positions",
    "learned",
    "How tokens know their places: none, sinusoidal, learned, rotary, alibi, t5, shaw, as calls.",
)
flags.DEFINE_string("lengths", "64,256", "Sequence lengths; a range such as 64:512 doubles.")
flags.DEFINE_string("objective", "causal,masked", "What is predicted: causal (the next byte), masked (15% of bytes).")
flags.DEFINE_integer("steps", 200, "Training steps.")
flags.DEFINE_integer("seeds", 1, "Number of runs of each cell, with seeds 0, 1, ...")
flags.DEFINE_integer("tokens", 4096, "Tokens in a training batch: examples = tokens / length.")
flags.DEFINE_integer("width", 64, "Width of the model.")
flags.DEFINE_integer("layers", 2, "Blocks of the model.")
flags.DEFINE_integer("heads", 4, "Heads of attention.")
flags.DEFINE_float("learning_rate", 3e-3, "Highest learning rate.")
flags.DEFINE_integer("warmup", 20, "Steps until it is reached.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of activations.")
flags.DEFINE_integer("test_windows", 64, "Held-out windows of the longest length; shorter lengths get as many bytes.")
flags.DEFINE_string("out", "runs/accuracy", "Folder for rows and figures.")
flags.DEFINE_bool("dry_run", False, "List the cells, and run none.")


def main() -> int:
    """Flags to settings, and on."""
    from experiments.accuracy.run import Settings, list_cells, run

    settings = Settings(
        task=FLAGS.task,
        kernels=command_line.kernels(FLAGS.kernels),
        positions=command_line.positions(FLAGS.positions),
        lengths=command_line.lengths(FLAGS.lengths),
        objectives=command_line.words(FLAGS.objective, ("causal", "masked"), "objective"),
        steps=FLAGS.steps,
        seeds=FLAGS.seeds,
        tokens=FLAGS.tokens,
        width=FLAGS.width,
        layers=FLAGS.layers,
        heads=FLAGS.heads,
        learning_rate=FLAGS.learning_rate,
        warmup=FLAGS.warmup,
        dtype=FLAGS.dtype,
        test_windows=FLAGS.test_windows,
        out=FLAGS.out,
    )
    return list_cells(settings) if FLAGS.dry_run else run(settings)


if __name__ == "__main__":
    command_line.run(main)
