"""Flags of `python -m experiments.approximation`."""

from absl import flags

from experiments.bench import command_line, parsing

FLAGS = flags.FLAGS
flags.DEFINE_string("operands", "random,trained", "Queries, keys and values: some of random, trained.")
flags.DEFINE_string("temperatures", "4,1", "Of random scores, which are divided by it: attention is sharper below 1.")
flags.DEFINE_string("features", "16:512", "Features of Performer, orthogonal and independent. A range doubles.")
flags.DEFINE_string("landmarks", "16:512", "Landmarks of Nystrom. These five flags may be empty: none of that kernel.")
flags.DEFINE_string("ranks", "16:512", "Ranks of Linformer.")
flags.DEFINE_string("windows", "16:512", "Keys beside a query's own in a window: half on each side, or all before it.")
flags.DEFINE_string("random_blocks", "1:8", "Random blocks of BigBird.")
flags.DEFINE_integer("length", 1024, "Sequence length; for a checkpoint that was built for less, its own.")
flags.DEFINE_integer("heads", 8, "Heads of random operands.")
flags.DEFINE_integer("head_dim", 64, "Width of a head of random operands.")
flags.DEFINE_bool("is_causal", False, "Hide the future from random operands, and from the model that is trained.")
flags.DEFINE_integer("draws", 5, "Draws of features, blocks and projections, over which there are intervals.")
flags.DEFINE_integer("seed", 0, "Seed of operands and draws.")
flags.DEFINE_string("checkpoint", "", "A softmax model's, or a folder of experiments.accuracy, in place of training.")
flags.DEFINE_integer("texts", 2, "Windows of unseen text that the model reads.")
flags.DEFINE_integer("steps", 300, "Steps that it is trained, where there is no --checkpoint.")
flags.DEFINE_integer("repeats", 7, "Timed repetitions of each cell, all of the same operands in turns; at least 5.")
flags.DEFINE_float("cell_budget", 30.0, "Seconds that the repetitions of a cell may take.")
flags.DEFINE_string("out", "runs/approximation", "Folder for rows and figures.")


def main() -> int:
    """Flags to settings, and on."""
    from experiments.approximation.dials import FLAGGED
    from experiments.approximation.run import Settings, run

    settings = Settings(
        operands=parsing.words(FLAGS.operands, ("random", "trained"), "operands"),
        temperatures=parsing.numbers(FLAGS.temperatures, "temperatures"),
        values={name: _values(FLAGS[name].value, name) for name in FLAGGED},
        length=FLAGS.length,
        heads=FLAGS.heads,
        head_dim=FLAGS.head_dim,
        is_causal=FLAGS.is_causal,
        draws=FLAGS.draws,
        seed=FLAGS.seed,
        checkpoint=FLAGS.checkpoint,
        texts=FLAGS.texts,
        steps=FLAGS.steps,
        repeats=FLAGS.repeats,
        cell_budget=FLAGS.cell_budget,
        out=FLAGS.out,
    )
    return run(settings)


def _values(text: str, flag: str) -> tuple[int, ...]:
    return parsing.lengths(text, flag) if text.strip() else ()


if __name__ == "__main__":
    command_line.run(main)
