"""Flags of `python -m experiments.scaling`."""

from absl import flags

from experiments.bench import command_line, parsing

FLAGS = flags.FLAGS
flags.DEFINE_string("kernels", "all", "Kernels as calls, such as 'softmax, performer(features=128)', or 'all'.")
flags.DEFINE_string("lengths", "256:4096", "Sequence lengths; a range doubles, both ends included.")
flags.DEFINE_string("passes", "forward,train", "Passes to time: forward, train (forward and backward).")
flags.DEFINE_integer("batch", None, "Examples in a batch; 1 unless --tokens is given.")
flags.DEFINE_integer("tokens", None, "Tokens in a batch, in place of --batch: batch = tokens / length.")
flags.DEFINE_integer("heads", 8, "Heads of queries.")
flags.DEFINE_integer("num_kv_heads", None, "Heads of keys and values; as many as of queries unless given.")
flags.DEFINE_integer("head_dim", 64, "Width of a head.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], "Type of queries, keys and values.")
flags.DEFINE_bool("is_causal", False, "Hide the future; kernels without a causal form are refused.")
flags.DEFINE_integer("repeats", 7, "Timed repetitions of each cell, after a warm-up; at least 5.")
flags.DEFINE_float("cell_budget", 60.0, "Seconds that the repetitions of one cell may take; longer ones are skipped.")
flags.DEFINE_integer("seed", 0, "Seed of inputs and parameters.")
flags.DEFINE_string("out", "runs/scaling", "Folder for rows and figures.")
flags.DEFINE_bool("dry_run", False, "List the cells with their predicted cost, and run none.")


def main() -> int:
    """Flags to settings, and on."""
    from experiments.scaling.run import Settings, list_cells, run

    settings = Settings(
        kernels=parsing.kernels(FLAGS.kernels),
        lengths=parsing.lengths(FLAGS.lengths),
        passes=parsing.words(FLAGS.passes, ("forward", "train"), "passes"),
        batch=FLAGS.batch,
        tokens=FLAGS.tokens,
        heads=FLAGS.heads,
        num_kv_heads=FLAGS.heads if FLAGS.num_kv_heads is None else FLAGS.num_kv_heads,
        head_dim=FLAGS.head_dim,
        dtype=FLAGS.dtype,
        is_causal=FLAGS.is_causal,
        repeats=FLAGS.repeats,
        cell_budget=FLAGS.cell_budget,
        seed=FLAGS.seed,
        out=FLAGS.out,
    )
    return list_cells(settings) if FLAGS.dry_run else run(settings)


if __name__ == "__main__":
    command_line.run(main)
