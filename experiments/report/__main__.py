"""`python -m experiments.report FOLDER --out=FILE`."""

import pathlib

from absl import flags

from experiments.bench import command_line

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "File to write; report.html in the folder unless given.")
flags.DEFINE_string("csv", None, "Folder to write the rows to as well, a CSV file for each section.")


def main(folder: str) -> int:
    """Flags to a page, and to CSV."""
    from experiments.report import export
    from experiments.report.page import write

    out = pathlib.Path(FLAGS.out) if FLAGS.out else pathlib.Path(folder) / "report.html"
    print(f"report: {write(pathlib.Path(folder), out)}, {out.stat().st_size / 2**20:.1f} MiB")
    if FLAGS.csv:
        print(*export.write(pathlib.Path(folder), pathlib.Path(FLAGS.csv)), sep="\n")
    return 0


if __name__ == "__main__":
    command_line.run(main, positional="FOLDER")
