"""What rows of trained models tell that a kernel loses beside exact attention."""

from __future__ import annotations

import math
from typing import NamedTuple

from attnzoo import Kernel, catalogue
from experiments.bench import records
from experiments.show import naming, statistics
from experiments.train.sweep import analysis as sweep
from experiments.train.sweep import convergence

TRAINED = {"task", "metric", "learning_rate", "width"}  # what their rows have
SETTING = tuple(name for name in sweep.GROUP if name != "kernel")  # what their kernels share


class Lost(NamedTuple):
    """What models with a kernel of one form score beside those with exact attention, in one task.

    Attributes:
      difference: with its interval over seeds; an accuracy that is lower is worse, and bits that are higher.
      tested: at how many tokens.
      steps: how many were trained, the fewest and the most of a seed, and how many were asked for.
      doubt: why nothing follows from it; empty where something does.
    """

    kernel: str
    metric: str
    difference: statistics.Mean
    task: str
    length: int
    tested: int
    steps: tuple[int, int, int]
    seeds: int
    doubt: str
    still_learns: bool
    place: str

    @property
    def amount(self) -> float:
        """How much worse; 0 where it is no worse."""
        return max(0.0, self._sign * self.difference.value)

    @property
    def is_known(self) -> bool:
        """Whether it is worse beyond its interval, or of a single seed at all."""
        value, low, high = self.difference
        ends = (value,) if low is None else (low, high)
        return min(self._sign * each for each in ends) > 0

    @property
    def unit(self) -> str:
        return "bits" if self.metric == "bits" else "points"

    @property
    def number(self) -> str:
        """Such as `-1.5 [-2.1, -0.9]`."""
        return sweep.mean_text(self.metric, self.difference, "+")

    @property
    def where(self) -> str:
        """What its models were asked, and how they were trained."""
        learned = "" if self.tested == self.length else f" (trained on {self.length:,})"
        return (
            f"{naming.short(self.task)}, {self.tested:,} tokens{learned}, {_steps_text(*self.steps)}, "
            f"{self.seeds} seed{'s' * (self.seeds > 1)}"
        )

    @property
    def text(self) -> str:
        """All of it in words."""
        doubt = self.doubt or "it still learns" * self.still_learns
        told = f"{self.number} {self.unit} as {naming.short(self.kernel)}, {self.where}"
        return f"{told}{f' ({doubt})' * bool(doubt)}: {self.place}"

    @property
    def _sign(self) -> int:
        return 1 if self.metric == "bits" else -1


def _steps_text(fewest: int, most: int, asked: int) -> str:
    """Such as `950 to 1,650 of 20,000 steps`."""
    if fewest == asked:
        return f"{asked:,} steps"
    return f"{fewest:,}{f' to {most:,}' * (most > fewest)} of {asked:,} steps"


class Losses(NamedTuple):
    """By names of classes: all that is lost, of each task one, what may be trusted most first; and what is lost in the
    one setting that decides, nothing where none does."""

    told: dict[str, list[Lost]]
    deciding: dict[str, Lost]


def setting(deciding: dict[str, Lost]) -> Lost:
    """What all kernels of one setting share, and the fewest and most that they differ in."""
    every = list(deciding.values())
    fewest, most, asked = zip(*(each.steps for each in every), strict=True)
    steps = min(fewest), max(most), max(asked)
    return every[0]._replace(steps=steps, seeds=min(each.seeds for each in every))


def told(rows: list[dict], length: int) -> Losses:
    """What is lost at `length`.

    All kernels are told of in one setting, if they have it: a decided one before others, then that of the most kernels,
    the nearest tested length, the most seeds, steps and width, and the last. Models whose layers mix kernels tell of
    none, nor do those whose training was to end before all is learned.
    """
    trained = [row for row in rows if row.keys() >= TRAINED and (row.get("until") or 1.0) >= convergence.CEILING]
    names = {row["kernel"]: _class(row) for row in trained}
    settings: dict[tuple, dict[str, dict]] = {}
    for place in dict.fromkeys(row["place"] for row in trained):
        for at, own in sweep.tested([row for row in trained if row["place"] == place]).items():
            steps = _steps(own)
            for entry in sweep.summarise(own):
                name = names[entry["kernel"]]
                if entry["difference"] is None or name is None:
                    continue
                found = settings.setdefault((place, at, *records.cell(entry, SETTING)), {})
                if name not in found or naming.short(entry["kernel"]) == name:  # at its defaults, or the first form
                    trained_steps = steps[records.cell(entry, sweep.GROUP)]
                    found[name] = entry | {"tested": at, "place": place, "trained_steps": trained_steps}
    order = lambda each: (_trust(each[1], length), each[0])
    ordered = [found for _, found in sorted(enumerate(settings.values()), key=order, reverse=True)]
    chosen: dict[str, dict[str, Lost]] = {}
    for found in ordered:
        for name, entry in found.items():
            chosen.setdefault(name, {}).setdefault(naming.short(entry["task"]), _lost(entry))
    deciding = {name: _lost(entry) for found in ordered[:1] for name, entry in found.items() if not entry["doubt"]}
    return Losses({name: list(own.values()) for name, own in chosen.items()}, deciding)


def _steps(rows: list[dict]) -> dict[tuple, list[int]]:
    """How many steps the models of each entry were trained."""
    found: dict[tuple, list[int]] = {}
    for row in sweep.at_chosen_rates(rows):
        if row["status"] == "measured":
            found.setdefault(records.cell(row, sweep.GROUP), []).append(convergence.trained(row))
    return found


def _trust(found: dict[str, dict], length: int) -> tuple:
    """What is told first, of the entries of one setting."""
    entry, *_ = found.values()
    away = abs(math.log(entry["tested"] / length))
    seeds = min(entry["seeds"], statistics.CLAIM)
    return not entry["doubt"], len(found), -away, seeds, max(entry["trained_steps"]), entry["width"]


def class_of(kernel: Kernel) -> str:
    """Its name, after its module where it is not in the catalogue."""
    return catalogue.identity(kernel).partition("(")[0]


def _class(row: dict) -> str | None:
    """The class of the kernel of all layers, which are told without modules."""
    own = row["kernel"].partition("(")[0]
    names = {each.partition("(")[0] for each in row.get("built") or [own]}
    if names == {own.rpartition(".")[2]}:
        return own
    return names.pop() if len(names) == 1 else None


def _lost(entry: dict) -> Lost:
    steps = entry["trained_steps"]
    return Lost(
        entry["kernel"],
        entry["metric"],
        entry["difference"],
        entry["task"],
        entry["length"],
        entry["tested"],
        (min(steps), max(steps), entry["steps"]),
        entry["seeds"],
        entry["doubt"],
        entry["has_flattened"] is False,
        entry["place"],
    )
