"""Flags of `python -m experiments.conformance`."""

from absl import flags

from experiments.bench import command_line, parsing

FLAGS = flags.FLAGS
flags.DEFINE_string("kernels", None, "Kernels as calls, or 'all'; small forms of every kernel unless given.")
flags.DEFINE_string("laws", "all", "Names of laws, separated by commas, or 'all'.")
flags.DEFINE_string("platform", "gpu", "The platform that jax must run on: gpu, tpu, cpu.")
flags.DEFINE_float("minutes", 7.5, "Time for everything; laws not reached are rows that say so.")
flags.DEFINE_integer("processes", None, "Kernels at a time; as many as cores unless given.")
flags.DEFINE_string("out", "runs/conformance", "Folder for rows, figure and table.")


def main() -> int:
    """Flags to settings, and on."""
    from attnzoo import SlidingWindow
    from attnzoo.testing import LAWS
    from attnzoo.testing.zoo import FURTHER, ZOO
    from experiments.bench.processor import cores
    from experiments.conformance.run import Settings, run

    small = (*ZOO, *FURTHER, SlidingWindow(left=255, right=0))  # the last is for vendors, who want long ones
    settings = Settings(
        kernels=small if FLAGS.kernels is None else tuple(parsing.kernels(FLAGS.kernels)),
        laws=tuple(LAWS) if FLAGS.laws == "all" else parsing.words(FLAGS.laws, tuple(LAWS), "laws"),
        platform=FLAGS.platform,
        minutes=FLAGS.minutes,
        processes=cores() if FLAGS.processes is None else FLAGS.processes,
        out=FLAGS.out,
    )
    return run(settings)


if __name__ == "__main__":
    command_line.run(main)
