"""`python -m experiments.report FOLDER --out=FILE`."""

import pathlib

from absl import flags

from experiments import command_line

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "File to write; report.html in the folder unless given.")


def main(folder: str) -> int:
    """Flags to a page."""
    from experiments.report.page import write

    out = pathlib.Path(FLAGS.out) if FLAGS.out else pathlib.Path(folder) / "report.html"
    print(f"report: {write(pathlib.Path(folder), out)}")
    return 0


if __name__ == "__main__":
    command_line.run(main, positional="FOLDER")
