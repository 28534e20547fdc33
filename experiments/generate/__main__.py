"""Flags of `python -m experiments.generate`."""

from absl import flags

from experiments.bench import command_line, parsing

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", "runs/compare/accuracy", "A checkpoint, or a folder of experiments.accuracy.")
flags.DEFINE_string("prompt", "def ", "Text to go on from.")
flags.DEFINE_integer("tokens", 0, "Bytes to add; 0 for as many as the model has room for.")
flags.DEFINE_float("temperature", 0.5, "0 for the likeliest byte each time; 1 for draws as the model has learned them.")
flags.DEFINE_integer("top_k", 0, "Draw among this many bytes; 0 for all.")
flags.DEFINE_float("top_p", 1.0, "Draw among the likeliest bytes that have this probability together.")
flags.DEFINE_integer("samples", 1, "How many times.")
flags.DEFINE_integer("seed", 0, "Seed of the draws.")
flags.DEFINE_string("attention", "", "Kernels in place of those that were trained, with the same parameters.")


def main() -> int:
    """Flags to settings, and on."""
    from experiments.generate.run import Settings, run

    settings = Settings(
        checkpoint=FLAGS.checkpoint,
        prompt=FLAGS.prompt,
        tokens=FLAGS.tokens,
        temperature=FLAGS.temperature,
        top_k=FLAGS.top_k,
        top_p=FLAGS.top_p,
        samples=FLAGS.samples,
        seed=FLAGS.seed,
        attention=parsing.kernels(FLAGS.attention, "attention") if FLAGS.attention else None,
    )
    return run(settings)


if __name__ == "__main__":
    command_line.run(main)
