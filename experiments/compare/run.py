"""Some experiments, each by its own command line, and a report."""

from __future__ import annotations

import pathlib
import shlex

from experiments.compare.presets import PRESETS, Part
from experiments.compare.settings import Settings
from experiments.train import children


def run(settings: Settings) -> int:
    """Run what the preset lists, and write the page."""
    out = pathlib.Path(settings.out)
    codes = []
    for part in PRESETS[settings.preset]:
        codes.append(_run(part, out))
        if codes[-1] not in (0, 1):
            return codes[-1]
    from experiments.report.page import write

    print(f"report: {write(out, out / 'report.html')}")
    return max(codes)


def _run(part: Part, out: pathlib.Path) -> int:
    given = [f"--{flag}={value}".replace("{out}", str(out)) for flag, value in part.flags.items()]
    words = ["-m", f"experiments.{part.experiment}", *given, f"--out={out / part.folder}"]
    print(f"$ {shlex.join(['python', *words])}", flush=True)
    return children.run(words)
