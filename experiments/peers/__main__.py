"""Flags of `python -m experiments.peers`."""

from absl import flags

from experiments.bench import command_line, parsing

FLAGS = flags.FLAGS
flags.DEFINE_string("works", "all", "Names of works, separated by commas, or 'all'; --list shows them.")
flags.DEFINE_integer("pairs", 9, "Pairs of ours and theirs, after a warm-up of both; at least 7.")
flags.DEFINE_integer("seed", 0, "Seed of inputs and weights.")
flags.DEFINE_string("out", "runs/peers", "Folder for rows, figure and table.")
flags.DEFINE_bool("list", False, "List the works and their peers, and run none.")


def main() -> int:
    """Flags to settings, and on."""
    from experiments.peers.run import Settings, list_works, run
    from experiments.peers.works import WORKS

    names = parsing.words(FLAGS.works, tuple(WORKS), "works") if FLAGS.works != "all" else tuple(WORKS)
    settings = Settings(works=names, pairs=FLAGS.pairs, seed=FLAGS.seed, out=FLAGS.out)
    return list_works(settings) if FLAGS.list else run(settings)


if __name__ == "__main__":
    command_line.run(main)
