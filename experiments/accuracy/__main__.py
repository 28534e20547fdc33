"""`python -m experiments.accuracy`."""

from absl import flags

from experiments.bench import command_line
from experiments.train.sweep import flags as own

own.define(flags.FLAGS)
flags.adopt_module_key_flags(own)


def main() -> int:
    """Flags to settings, and on."""
    settings = own.settings(flags.FLAGS)
    from experiments.train.sweep.run import list_cells, run

    return list_cells(settings) if flags.FLAGS.dry_run else run(settings)


if __name__ == "__main__":
    command_line.run(main)
