"""`python -m experiments.compare`: two experiments and a report, each by its own command line."""

import pathlib
import shlex
import subprocess
import sys

from absl import flags

from experiments import command_line

FLAGS = flags.FLAGS
flags.DEFINE_enum("preset", "full", ["full", "small"], "full: about six minutes on two cores; small: about one.")
flags.DEFINE_string("out", "runs/compare", "Folder for rows, figures and the page.")

PRESETS = {
    "full": {
        "scaling": {"kernels": "all", "lengths": "256:4096", "passes": "forward,train", "cell_budget": "8"},
        "accuracy": {
            "kernels": "softmax, sliding_window(left=7, right=7), linear, linformer(rank=16), nystrom(landmarks=16)",
            "lengths": "32,64",
            "steps": "150",
            "tokens": "2048",
            "heads": "2",
            "test_examples": "128",
        },
    },
    "small": {
        "scaling": {"kernels": "all", "lengths": "64:256", "passes": "forward", "heads": "2", "head_dim": "16"},
        "accuracy": {
            "kernels": "softmax, sliding_window(left=15, right=15), nystrom(landmarks=8)",
            "lengths": "32,64",
            "steps": "20",
            "tokens": "512",
            "heads": "2",
            "widths": "32",
            "layers": "1",
            "test_examples": "64",
            "isolate": "false",
        },
    },
}


def main() -> int:
    """Run what the preset lists, and write the page."""
    out = pathlib.Path(FLAGS.out)
    codes = [_experiment(name, arguments, out / name) for name, arguments in PRESETS[FLAGS.preset].items()]
    if any(code not in (0, 1) for code in codes):
        return max(map(abs, codes))  # a part that was killed has a negative code
    from experiments.report.page import write

    print(f"report: {write(out, out / 'report.html')}")
    return max(codes)


def _experiment(name: str, arguments: dict[str, str], out: pathlib.Path) -> int:
    words = ["-m", f"experiments.{name}", *(f"--{flag}={value}" for flag, value in arguments.items()), f"--out={out}"]
    print(f"$ {shlex.join(['python', *words])}", flush=True)
    return subprocess.run([sys.executable, *words]).returncode


if __name__ == "__main__":
    command_line.run(main)
