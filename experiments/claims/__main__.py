"""Flags of `python -m experiments.claims`."""

from absl import flags

from experiments.bench import command_line, parsing

FLAGS = flags.FLAGS
KERNELS = (
    "softmax, nadaraya_watson, additive, sliding_window(left=63, right=0), local(block_size=64), "
    "bigbird(block_size=16), linear, performer(features=64), synthesizer"
)
flags.DEFINE_string("claims", "speed,recall,regression", "Which to test: some of speed, recall, regression.")
flags.DEFINE_string("kernels", KERNELS, "Kernels as calls, beside recurrent networks.")
flags.DEFINE_string("lengths", "64:4096", "Sequence lengths of the speed test; a range doubles.")
flags.DEFINE_string("distances", "32:1024", "Tokens of noise in the recall test.")
flags.DEFINE_integer("tokens", 4096, "Tokens in a batch.")
flags.DEFINE_integer("steps", 1000, "Training steps of each model of the recall test.")
flags.DEFINE_integer("width", 64, "Width of the models.")
flags.DEFINE_integer("layers", 2, "Blocks of the Transformer; recurrent networks have twice as many layers.")
flags.DEFINE_integer("heads", 4, "Heads of the Transformer.")
flags.DEFINE_float("learning_rate", 3e-3, "Highest learning rate.")
flags.DEFINE_integer("seeds", 1, "Seeds, from 0, of the recall and the regression test.")
flags.DEFINE_integer("repeats", 7, "Timed repetitions of the speed test; at least 5.")
flags.DEFINE_string("out", "runs/claims", "Folder for rows and figures.")


def main() -> int:
    """Flags to settings, and on."""
    from experiments.claims.run import CLAIMS, Settings, run

    settings = Settings(
        claims=parsing.words(FLAGS.claims, tuple(CLAIMS), "claims"),
        kernels=parsing.kernels(FLAGS.kernels),
        lengths=parsing.lengths(FLAGS.lengths),
        distances=parsing.lengths(FLAGS.distances, "distances"),
        tokens=FLAGS.tokens,
        steps=FLAGS.steps,
        width=FLAGS.width,
        layers=FLAGS.layers,
        heads=FLAGS.heads,
        learning_rate=FLAGS.learning_rate,
        seeds=FLAGS.seeds,
        repeats=FLAGS.repeats,
        out=FLAGS.out,
    )
    return run(settings)


if __name__ == "__main__":
    command_line.run(main)
