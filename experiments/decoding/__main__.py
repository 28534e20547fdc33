"""Flags of `python -m experiments.decoding`."""

from absl import flags

from experiments.bench import command_line, parsing

FLAGS = flags.FLAGS
KERNELS = (
    "softmax, nadaraya_watson, additive, sliding_window(left=255, right=0), bigbird, linear, performer(features=128)"
)
TRAINED = (
    "softmax, sliding_window(left=3, right=0), sliding_window(left=15, right=0), sliding_window(left=63, right=0), "
    "linear, performer(features=16), performer(features=64), performer(features=256)"
)
flags.DEFINE_string("kernels", KERNELS, "Kernels to time, as calls, or 'all'.")
flags.DEFINE_string("contexts", "256:32768", "Tokens that came before; a range doubles, both ends included.")
flags.DEFINE_integer("tokens", 16, "Tokens that a timed repetition decodes, one after the other.")
flags.DEFINE_integer("batch", 1, "Examples.")
flags.DEFINE_integer("heads", 8, "Heads of queries, keys and values.")
flags.DEFINE_integer("head_dim", 64, "Width of a head.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], "Type of tokens and caches.")
flags.DEFINE_integer("repeats", 7, "Timed repetitions of each cell, all of a context in turns; at least 5.")
flags.DEFINE_float("cell_budget", 30.0, "Seconds that the repetitions of a cell may take.")
flags.DEFINE_integer("seed", 0, "Seed of tokens and caches.")
flags.DEFINE_string("trained", TRAINED, "Kernels of the text models.")
flags.DEFINE_integer("length", 256, "Length of the sequences that the text models learn.")
flags.DEFINE_integer("steps", 1500, "Steps that they learn.")
flags.DEFINE_string("quality", "", "Folder of experiments.accuracy with models to show, in place of training them.")
flags.DEFINE_string("out", "runs/decoding", "Folder for rows and figures.")


def main() -> int:
    """Flags to settings, and on."""
    from experiments.decoding.run import Settings, run

    settings = Settings(
        kernels=parsing.kernels(FLAGS.kernels),
        contexts=parsing.lengths(FLAGS.contexts, "contexts"),
        tokens=FLAGS.tokens,
        batch=FLAGS.batch,
        heads=FLAGS.heads,
        head_dim=FLAGS.head_dim,
        dtype=FLAGS.dtype,
        repeats=FLAGS.repeats,
        cell_budget=FLAGS.cell_budget,
        seed=FLAGS.seed,
        trained=parsing.kernels(FLAGS.trained, "trained"),
        length=FLAGS.length,
        steps=FLAGS.steps,
        quality=FLAGS.quality,
        out=FLAGS.out,
    )
    return run(settings)


if __name__ == "__main__":
    command_line.run(main)
