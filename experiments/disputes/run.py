"""Settings to verdicts: a command trains the models of a dispute, and its rule judges what they say."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shlex
from collections.abc import Iterator

from experiments.bench import experiment, outcome
from experiments.bench.experiment import Cell, Experiment, Run
from experiments.disputes import models
from experiments.disputes.cases import Dispute
from experiments.disputes.settings import Settings
from experiments.show import caveats, statistics
from experiments.train import children


class Disputes(Experiment):
    """A verdict for each dispute."""

    name = "disputes"
    key = ("dispute", "flags", "seeds", "first_seed", "tuning_seeds")
    columns = ("dispute",)
    caveats = (
        caveats.SMALL,
        "A verdict is of the models, the task and the size that stand beside it, and of no other.",
    )
    noun = "disputes"
    leaves = "verdicts and figure"

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        """A cell for each, which is asked for when the one before has its verdict."""
        for name, dispute in settings.chosen().items():
            row = {"dispute": name, "claim": dispute.claim, "sources": dispute.sources, "scale": dispute.scale}
            row |= {"rule": told(dispute), "flags": shlex.join(_flags(dispute)), **_seeds(settings, dispute)}
            yield [Cell(row, dispute)]

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        return experiment.one_by_one(todo, lambda cell: _decided(settings, cell.row["dispute"], cell.subject))

    def describe(self, row: dict) -> str:
        if row["status"] != "measured":
            return f"{row['dispute']}: {row['status']}, {row['reason']}"
        return f"{row['dispute']} {row['verdict']}: {row['detail']}"

    def list_cells(self, settings: Settings) -> int:
        for name, dispute in settings.chosen().items():
            print(f"{name}: {dispute.claim}\n  {dispute.sources}\n  rule: {told(dispute)}\n  scale: {dispute.scale}")
            found, basis = models.hours(dispute, _given(settings, name, dispute))
            total = sum(found) if None not in found else math.nan
            print(f"  {len(found)} models, about {total:.2g} hours {basis}\n  $ {command(settings, name, dispute)}")
        return 0


def told(dispute: Dispute) -> str:
    """The rule in words, with what it is about where it says that."""
    words = " ".join((type(dispute.rule).__doc__ or "").split())
    return f"{words} Here: {dispute.rule}" if dataclasses.fields(dispute.rule) else words


def command(settings: Settings, name: str, dispute: Dispute) -> str:
    """What trains the models, as one writes it."""
    return shlex.join(["python", *models.words(dispute, _given(settings, name, dispute))])


def _decided(settings: Settings, name: str, dispute: Dispute) -> dict:
    given = _given(settings, name, dispute)
    code = _trained(models.words(dispute, given))
    if code == outcome.STOPPED:
        raise outcome.Stopped
    if code not in (0, 1):
        raise RuntimeError(f"{command(settings, name, dispute)} ended with {code}")
    heard = models.heard(dispute, given, settings.every_seed)
    judgement = dispute.rule.judge(heard)
    falling, every = sum(len(x.falling) for x in heard.values()), sum(len(x.scores) for x in heard.values())
    doubt = f"; the loss of {falling} of {every} models still fell" if falling else ""
    doubt += f"; {few}" if (few := statistics.doubt(settings.seeds)) else ""
    scores = {text: list(each.scores.values()) for text, each in heard.items()}
    elsewhere = {text: each.elsewhere for text, each in heard.items() if each.elsewhere}
    found = {"status": "measured", "verdict": judgement.verdict.value, "detail": judgement.detail + doubt}
    solved = {text: [x if x < math.inf else None for x in each.solved.values()] for text, each in heard.items()}
    answers = {text: each.answers for text, each in heard.items()}
    return found | {"scores": scores, "elsewhere": elsewhere, "solved": solved, "answers": answers}


def _trained(words: list[str]) -> int:
    """The exit code of what trains models."""
    return children.run(words)


def _flags(dispute: Dispute) -> list[str]:
    given = {"kernels": ", ".join(dispute.contenders)} | dispute.flags
    return [f"--{flag}={value}" for flag, value in given.items()]


def _given(settings: Settings, name: str, dispute: Dispute) -> dict:
    shared = {"jobs": settings.jobs, "out": str(_folder(settings, name))}
    return {"kernels": ", ".join(dispute.contenders)} | dispute.flags | _seeds(settings, dispute) | shared


def _seeds(settings: Settings, dispute: Dispute) -> dict[str, int]:
    """Flags and fields of rows; those that are left out are 0, as in rows that are older than they."""
    tuning = settings.tuning_seeds if models.tunes(dispute) else 0
    others = {"first_seed": settings.first_seed, "tuning_seeds": tuning}
    return {"seeds": settings.seeds} | {name: value for name, value in others.items() if value}


def _folder(settings: Settings, name: str) -> pathlib.Path:
    return pathlib.Path(settings.out) / name


EXPERIMENT = Disputes()
run = EXPERIMENT.run
