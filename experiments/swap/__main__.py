"""Flags of `python -m experiments.swap`."""

from absl import flags

from experiments.bench import command_line, parsing

FLAGS = flags.FLAGS
WINDOWS = ", ".join(f"sliding_window(left={reach}, right={reach})" for reach in (3, 15, 63))
KERNELS = f"softmax, {WINDOWS}, bigbird(block_size=8), linear, performer(features={{16,64,256}})"
flags.DEFINE_string(
    "checkpoint", "runs/compare/accuracy", "A checkpoint, or a folder of accuracy, for its best softmax model."
)
flags.DEFINE_string("kernels", KERNELS, "Kernels to put in, as calls; {a,b} is a grid.")
flags.DEFINE_string("lengths", "", "Tokens of each window, such as 64,512; the longest that the models take if empty.")
flags.DEFINE_integer("test_examples", 256, "Windows of unseen files.")
flags.DEFINE_string("out", "runs/swap", "Folder for rows and figure.")


def main() -> int:
    """Flags to settings, and on."""
    from experiments.swap.run import Settings, run

    settings = Settings(
        checkpoint=FLAGS.checkpoint,
        kernels=parsing.kernels(FLAGS.kernels),
        test_examples=FLAGS.test_examples,
        out=FLAGS.out,
        lengths=parsing.lengths(FLAGS.lengths) if FLAGS.lengths else (),
    )
    return run(settings)


if __name__ == "__main__":
    command_line.run(main)
