"""Flags of `python -m experiments.reproduce`."""

from absl import flags

from experiments.bench import command_line, parsing
from experiments.reproduce.published import TASKS

FLAGS = flags.FLAGS
MEASURED = ("speed", "memory", "mqar", *TASKS, *(f"{task}-small" for task in TASKS))
flags.DEFINE_string("only", "speed,memory,mqar", f"What to measure: some of {', '.join(MEASURED)}.")
flags.DEFINE_string("models", "all", "Models by their names in the tables, such as 'local, performer', or 'all'.")
flags.DEFINE_string("forms", "faithful,corrected", "Kernels as public code ran them, as papers mean them, or both.")
flags.DEFINE_string("lengths", "", "Published lengths of speed and memory, such as 1000,4000; empty for all.")
flags.DEFINE_integer("batch", 1, "Examples in a timed step.")
flags.DEFINE_integer("repeats", 7, "Timed repetitions of a step, after a warm-up; at least 5.")
flags.DEFINE_string("out", "runs/reproduce", "Folder for rows, ledger and figure.")
flags.DEFINE_bool("dry_run", False, "Print the ledger as it stands and what is to do, and measure nothing.")


def main() -> int:
    """Flags to settings, and on."""
    from experiments.reproduce.published import results
    from experiments.reproduce.run import Settings, list_results, run

    models = tuple(dict.fromkeys(result.model for result in results()))
    settings = Settings(
        only=parsing.words(FLAGS.only, MEASURED, "only"),
        models=models if FLAGS.models == "all" else parsing.words(FLAGS.models, models, "models"),
        forms=parsing.words(FLAGS.forms, ("faithful", "corrected"), "forms"),
        lengths=parsing.lengths(FLAGS.lengths) if FLAGS.lengths else (),
        batch=FLAGS.batch,
        repeats=FLAGS.repeats,
        out=FLAGS.out,
    )
    return list_results(settings) if FLAGS.dry_run else run(settings)


if __name__ == "__main__":
    command_line.run(main)
