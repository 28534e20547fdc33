"""What a suite is: trainings by flags of `experiments.accuracy`, as published and scaled down."""

from __future__ import annotations

import pathlib
import shlex
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments.train.sweep.settings import has_choice

MODULE = "experiments.accuracy"
SCALES = ("published", "small")
MODEL = ("kernel", "positions", "width", "blocks", "layers", "heads")
NOTHING: Mapping[str, Any] = types.MappingProxyType({})


class Training(NamedTuple):
    """One command.

    Attributes:
      name: of the folder of its rows.
      flags: of `python -m experiments.accuracy`; kernels among them are part of the question, and `{out}` in one is the
        folder of all trainings.
      part: of the suite's score.
      takes: which of the kernels that a suite is asked of, both as text; all unless given.
    """

    name: str
    flags: Mapping[str, Any]
    part: str = ""
    takes: Callable[[str], str] = str

    def kernels(self, asked: str) -> str:
        """Its own, or which of those that are asked for; empty for none, of which there is no command."""
        return self.flags.get("kernels") or self.takes(asked)

    def given(self, kernels: str, shared: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
        """Its flags, and `shared` ones of every training; seeds that tune are of trainings with several rates."""
        tunes = has_choice(self.flags)
        others = {name: value for name, value in shared.items() if tunes or name != "tuning_seeds"}
        return {"kernels": self.kernels(kernels)} | dict(self.flags) | others

    def arguments(self, kernels: str, out: pathlib.Path, shared: Mapping[str, Any] = NOTHING) -> list[str]:
        """The words of the command; `shared` are flags of every training."""
        given = self.given(kernels, shared) | {"out": out / self.name}
        return ["-m", MODULE, *(f"--{flag}={value}".replace("{out}", str(out)) for flag, value in given.items())]

    def command(self, kernels: str, out: pathlib.Path, shared: Mapping[str, Any] = NOTHING) -> str:
        """The same, as one writes it."""
        return shlex.join(["python", *self.arguments(kernels, out, shared)])


class Suite(NamedTuple):
    """A benchmark.

    Attributes:
      source: paper, and code where numbers are from there.
      kernels: which it is most often asked of.
      published, small: trainings of either scale.
      differs: what of the published scale is not the paper's.
      scaled: what of the small one is not, beside that.
      is_scored: whether the mean over its parts is a published number.
      models: what tells models of the score apart, fields of rows.
    """

    source: str
    kernels: str
    published: tuple[Training, ...]
    small: tuple[Training, ...]
    differs: str
    scaled: str
    is_scored: bool = False
    models: tuple[str, ...] = MODEL

    def trainings(self, scale: str) -> tuple[Training, ...]:
        """Those of a scale."""
        return self.published if scale == "published" else self.small

    def asked(self, scale: str, kernels: str) -> list[Training]:
        """Those of a scale that are of any of the kernels."""
        return [training for training in self.trainings(scale) if training.kernels(kernels)]


def finite(task: str, examples: int) -> str:
    """A task of which there are so many training examples, as text."""
    return f"epochs(task={task!r}, examples={examples})"
