"""Curves for Weights & Biases, kept on the disk, from which `wandb sync` sends them.

Nothing is sent while a model trains, unless WANDB_MODE=online asks for it. What is kept is what was told, and neither
code nor commands nor what the machine does.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

import wandb

from experiments.train import curves
from experiments.train.curves import Point
from experiments.train.loop import Progress

STEP = "step"  # the axis of all curves: their own steps only ever grow, and validation comes behind training
QUIET = {"silent": True, "console": "off", "disable_git": True, "save_code": False}
QUIET |= {"x_disable_stats": True, "x_disable_meta": True}


@contextlib.contextmanager
def following(
    folder: pathlib.Path, metric: str, project: str, name: str, config: dict
) -> Iterator[Callable[[Progress], None]]:
    """As `curves.following`.

    Args:
      folder: of all runs; what an earlier try of this one has left there is replaced.
      project: where it belongs.
      name: of this run, and what it is known by.
      config: what it was asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob(f"wandb/*run-*-{name}"):
        shutil.rmtree(earlier)
    given = {"project": project, "id": name, "name": name, "config": config, "dir": str(folder)}
    run = wandb.init(**given, mode=os.environ.get("WANDB_MODE", "offline"), settings=wandb.Settings(**QUIET))
    run.define_metric("*", step_metric=STEP)

    def write(points: list[Point]) -> None:
        for point in points:
            run.log({point.curve: point.value, STEP: point.step})

    try:
        with curves.following(metric, write) as tell:
            yield tell
    finally:
        run.finish()
