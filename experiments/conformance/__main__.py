"""Flags of `python -m experiments.conformance`."""

from absl import flags

from experiments import command_line

FLAGS = flags.FLAGS
KERNELS = (
    "softmax, nadaraya_watson, additive, sliding_window(left=5, right=3), sliding_window(left=255, right=0), "
    "sliding_window(left=2, right=2, dilation=3, global_tokens=2), bigbird(block_size=4, num_random=2), linear, "
    "performer(features=16), linformer(rank=5), nystrom(landmarks=5), local(block_size=4), "
    "local(block_size=5, layout='strided'), reformer(chunk_size=4, buckets=4, rounds=2), "
    "sinkhorn(block_size=4, iterations=3), synthesizer, synthesizer(form='random', rank=4), "
    "sparse_transformer(block_size=6, summary=2)"
)
flags.DEFINE_string("kernels", KERNELS, "Kernels as calls, or 'all'; small ones show their pattern in short sequences.")
flags.DEFINE_string("laws", "all", "Names of laws, separated by commas, or 'all'.")
flags.DEFINE_string("platform", "gpu", "The platform that jax must run on: gpu, tpu, cpu.")
flags.DEFINE_float("minutes", 7.5, "Time for everything; laws not reached are rows that say so.")
flags.DEFINE_integer("processes", None, "Kernels at a time; as many as cores unless given.")
flags.DEFINE_string("out", "runs/conformance", "Folder for rows, figure and table.")


def main() -> int:
    """Flags to settings, and on."""
    from attnzoo.testing import LAWS
    from experiments.conformance.run import Settings, run
    from experiments.records import cores

    settings = Settings(
        kernels=command_line.kernels(FLAGS.kernels),
        laws=tuple(LAWS) if FLAGS.laws == "all" else command_line.words(FLAGS.laws, tuple(LAWS), "laws"),
        platform=FLAGS.platform,
        minutes=FLAGS.minutes,
        processes=cores() if FLAGS.processes is None else FLAGS.processes,
        out=FLAGS.out,
    )
    return run(settings)


if __name__ == "__main__":
    command_line.run(main)
