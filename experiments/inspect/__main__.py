"""Flags of `python -m experiments.inspect`."""

from absl import flags

from experiments.bench import command_line, parsing

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", "runs/compare/accuracy", "A checkpoint, or a folder of experiments.accuracy.")
flags.DEFINE_string("text", "def main(self, name):", "Text to look at.")
flags.DEFINE_string("attention", "", "Kernels in place of those that were trained, with the same parameters.")
flags.DEFINE_string("out", "runs/inspect", "Folder for figures and the page.")


def main() -> int:
    """Flags to settings, and on."""
    from experiments.inspect.run import Settings, run

    settings = Settings(
        checkpoint=FLAGS.checkpoint,
        text=FLAGS.text,
        attention=parsing.kernels(FLAGS.attention, "attention") if FLAGS.attention else None,
        out=FLAGS.out,
    )
    return run(settings)


if __name__ == "__main__":
    command_line.run(main)
