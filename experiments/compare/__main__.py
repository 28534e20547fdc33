"""`python -m experiments.compare`: some experiments and a report, each by its own command line."""

import pathlib
import shlex
import subprocess
import sys

from absl import flags

from experiments.bench import command_line
from experiments.compare.presets import PRESETS, Part

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "preset",
    "full",
    list(PRESETS),
    "full: about eight minutes on two cores. small: about one. hour: an hour of processor time, what `results` tells "
    "of accuracy, approximation and published numbers.",
)
flags.DEFINE_string("out", "runs/compare", "Folder for rows, figures and the page.")


def main() -> int:
    """Run what the preset lists, and write the page."""
    out = pathlib.Path(FLAGS.out)
    codes = []
    for part in PRESETS[FLAGS.preset]:
        codes.append(_run(part, out))
        if codes[-1] not in (0, 1):
            return abs(codes[-1])  # a part that was killed has a negative code
    from experiments.report.page import write

    print(f"report: {write(out, out / 'report.html')}")
    return max(codes)


def _run(part: Part, out: pathlib.Path) -> int:
    given = [f"--{flag}={value}".replace("{out}", str(out)) for flag, value in part.flags.items()]
    words = ["-m", f"experiments.{part.experiment}", *given, f"--out={out / part.folder}"]
    print(f"$ {shlex.join(['python', *words])}", flush=True)
    return subprocess.run([sys.executable, *words]).returncode


if __name__ == "__main__":
    command_line.run(main)
