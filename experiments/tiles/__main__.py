"""Flags of `python -m experiments.tiles`."""

from absl import flags

from experiments.bench import command_line, parsing

FLAGS = flags.FLAGS
flags.DEFINE_string("works", "full,causal,window", "What to sweep: some of full, causal, window (256 earlier keys).")
flags.DEFINE_string("tiles", "128:1024", "Queries, and keys, in a tile; a range doubles, both ends included.")
flags.DEFINE_string("pairs", "65536:4194304", "Pairs of queries and keys in a step; a range doubles.")
flags.DEFINE_integer("length", 4096, "Sequence length; the window takes four times as many.")
flags.DEFINE_integer("heads", 8, "Heads of queries, keys and values.")
flags.DEFINE_integer("head_dim", 64, "Width of a head.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], "Type of queries, keys and values.")
flags.DEFINE_integer("repeats", 7, "Timed repetitions of each cell, all in turns; at least 5.")
flags.DEFINE_integer("seed", 0, "Seed of inputs.")
flags.DEFINE_string("out", "runs/tiles", "Folder for rows and figure.")


def main() -> int:
    """Flags to settings, and on."""
    from experiments.tiles.run import WORKS, Settings, run

    settings = Settings(
        works=parsing.words(FLAGS.works, tuple(WORKS), "works"),
        tiles=parsing.lengths(FLAGS.tiles, "tiles"),
        pairs=parsing.lengths(FLAGS.pairs, "pairs"),
        length=FLAGS.length,
        heads=FLAGS.heads,
        head_dim=FLAGS.head_dim,
        dtype=FLAGS.dtype,
        repeats=FLAGS.repeats,
        seed=FLAGS.seed,
        out=FLAGS.out,
    )
    return run(settings)


if __name__ == "__main__":
    command_line.run(main)
