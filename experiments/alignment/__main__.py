"""Flags of `python -m experiments.alignment`."""

from absl import flags

from experiments.bench import command_line, parsing

FLAGS = flags.FLAGS
flags.DEFINE_string("scores", "additive", "How states meet annotations: some of additive, dot, general.")
flags.DEFINE_integer("steps", 1500, "Training steps.")
flags.DEFINE_integer("batch", 64, "Pairs in a step.")
flags.DEFINE_integer("width", 64, "Width of embeddings and of each direction of the encoder.")
flags.DEFINE_float("learning_rate", 3e-3, "Highest learning rate.")
flags.DEFINE_integer("test_pairs", 2000, "Pairs of unseen days to test on.")
flags.DEFINE_integer("seeds", 1, "Seeds, from 0.")
flags.DEFINE_string("out", "runs/alignment", "Folder for rows and figures.")


def main() -> int:
    """Flags to settings, and on."""
    from attnzoo.models.recurrent import SCORES
    from experiments.alignment.run import Settings, run

    settings = Settings(
        scores=parsing.words(FLAGS.scores, SCORES, "scores"),
        steps=FLAGS.steps,
        batch=FLAGS.batch,
        width=FLAGS.width,
        learning_rate=FLAGS.learning_rate,
        test_pairs=FLAGS.test_pairs,
        seeds=FLAGS.seeds,
        out=FLAGS.out,
    )
    return run(settings)


if __name__ == "__main__":
    command_line.run(main)
