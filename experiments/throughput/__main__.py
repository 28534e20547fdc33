"""Flags of `python -m experiments.throughput`."""

from absl import flags

from experiments.bench import command_line, parsing

FLAGS = flags.FLAGS
flags.DEFINE_string("kernels", "softmax, sliding_window(left=1023, right=0)", "Kernels as calls, or 'all'.")
flags.DEFINE_string("lengths", "1024:65536", "Sequence lengths; a range doubles, both ends included.")
flags.DEFINE_string("head_dims", "64,128", "Widths of a head.")
flags.DEFINE_string("passes", "forward,train", "Passes to time: forward, train (forward and backward).")
flags.DEFINE_string("implementations", "all", "Which to time, separated by commas, or 'all'.")
flags.DEFINE_integer("tokens", 65536, "Tokens in a batch: batch = tokens / length, at least 1.")
flags.DEFINE_integer("heads", 16, "Heads of queries, keys and values.")
flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16", "float16"], "Type of queries, keys and values.")
flags.DEFINE_bool("is_causal", True, "Hide the future.")
flags.DEFINE_integer("repeats", 7, "Timed repetitions of each cell; at least 5.")
flags.DEFINE_integer("matmul_size", 8192, "Rows and columns of the matrix product that is the ceiling.")
flags.DEFINE_integer("copy_bytes", 2**31, "Bytes of the copy that is the ceiling.")
flags.DEFINE_string("platform", "gpu", "The platform that jax must run on: gpu, tpu, cpu.")
flags.DEFINE_float("minutes", 7.5, "Time for everything; cells not reached are rows that say so.")
flags.DEFINE_integer("seed", 0, "Seed of inputs.")
flags.DEFINE_string("out", "runs/throughput", "Folder for rows, figures and table.")


def main() -> int:
    """Flags to settings, and on."""
    from experiments.throughput.run import IMPLEMENTATIONS, Settings, run

    every = FLAGS.implementations == "all"
    settings = Settings(
        kernels=parsing.kernels(FLAGS.kernels),
        lengths=parsing.lengths(FLAGS.lengths),
        head_dims=parsing.lengths(FLAGS.head_dims, "head_dims"),
        passes=parsing.words(FLAGS.passes, ("forward", "train"), "passes"),
        implementations=IMPLEMENTATIONS
        if every
        else parsing.words(FLAGS.implementations, IMPLEMENTATIONS, "implementations"),
        tokens=FLAGS.tokens,
        heads=FLAGS.heads,
        dtype=FLAGS.dtype,
        is_causal=FLAGS.is_causal,
        repeats=FLAGS.repeats,
        matmul_size=FLAGS.matmul_size,
        copy_bytes=FLAGS.copy_bytes,
        platform=FLAGS.platform,
        minutes=FLAGS.minutes,
        seed=FLAGS.seed,
        out=FLAGS.out,
    )
    return run(settings)


if __name__ == "__main__":
    command_line.run(main)
