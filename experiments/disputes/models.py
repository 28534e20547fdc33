"""The models of a dispute: by which command they are trained, how long that takes, and what they say afterwards.

Most are of one command of `experiments.accuracy`. Where the flags name a suite they are of `experiments.suites`, which
tells such commands by --dry_run, and leaves their score.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import shlex
import subprocess
import sys
from typing import Any

from attnzoo.models import presets
from experiments.bench import records
from experiments.bench.settings import parsed
from experiments.disputes.cases import Dispute
from experiments.disputes.rules import SOLVED, Contenders, Heard
from experiments.train.sweep import analysis, convergence, prediction
from experiments.train.sweep.cells import KEY, cells, foreseen
from experiments.train.sweep.settings import Settings as Sweep
from experiments.train.sweep.settings import has_choice

ONE, MANY = "experiments.accuracy", "experiments.suites"


def module(dispute: Dispute) -> str:
    """What `python -m` is asked for."""
    return MANY if "suite" in dispute.flags else ONE


def tunes(dispute: Dispute) -> bool:
    """Whether there are rates to choose among: those of a suite's trainings know by themselves."""
    return module(dispute) == MANY or has_choice(dispute.flags)


def words(dispute: Dispute, given: dict[str, Any]) -> list[str]:
    """What Python is told so that it trains the models."""
    return ["-m", module(dispute), *(f"--{flag}={value}" for flag, value in given.items())]


def hours(dispute: Dispute, given: dict[str, Any]) -> tuple[list[float | None], str]:
    """What each model should take with these flags, and by which rate, that of the last command."""
    found, basis = [], ""
    for own in [given] if module(dispute) == ONE else _told(words(dispute, given)):
        sweep = parsed(Sweep, **own)
        predicted = prediction.of(sweep, records.read(pathlib.Path(sweep.out)))
        found += [predicted(cell) for cell in foreseen(sweep)]
        basis = predicted.basis
    return found, basis


def _told(asked: list[str]) -> list[dict[str, str]]:
    """The flags of each command that a suite consists of."""
    listed = subprocess.run([sys.executable, *asked, "--dry_run"], capture_output=True, text=True, check=True)
    commands = [shlex.split(line) for line in listed.stdout.splitlines() if line.startswith(f"python -m {ONE} ")]
    return [dict(word.removeprefix("--").split("=", 1) for word in command[3:]) for command in commands]


def heard(dispute: Dispute, given: dict[str, Any], seeds: range) -> Contenders:
    """What the models that these flags train say, each contender with every seed.

    Raises:
      ValueError: a contender has fewer seeds than were asked for.
    """
    own = _answers(dispute, parsed(Sweep, **given)) if module(dispute) == ONE else _scores(dispute, given)
    for text, each in own.items():
        if len(each.scores) < len(seeds):
            found = f"{len(each.scores)} of {len(seeds)} seeds were measured"
            raise ValueError(f"{text}: {found}, the others failed or diverged")
    return own


def _answers(dispute: Dispute, sweep: Sweep) -> Contenders:
    """What the models of each contender say, at the rate that validation chose for it; other rows say nothing."""
    asked = {records.cell(cell.row(sweep), KEY) for cell in cells(dataclasses.replace(sweep, tuning_seeds=0))}
    found = records.latest(records.read(pathlib.Path(sweep.out)), KEY)
    chosen = analysis.at_chosen_rates([row for key, row in found.items() if key in asked])
    measured = [row for row in chosen if row["status"] == "measured"]
    return {
        text: _heard({row["seed"]: row for row in measured if row["kernel"] == _identity(text)})
        for text in dispute.contenders
    }


def _scores(dispute: Dispute, given: dict[str, Any]) -> Contenders:
    """What each contender scores in a suite."""
    path = pathlib.Path(given["out"], given["scale"], given["suite"], "scores.json")
    told = {each["kernel"]: each for each in json.loads(path.read_text())}
    nothing: dict[str, Any] = {"seeds": {}, "falling": []}
    own = {text: told.get(_identity(text), nothing) for text in dispute.contenders}
    return {
        text: Heard({int(seed): score for seed, score in each["seeds"].items()}, falling=frozenset(each["falling"]))
        for text, each in own.items()
    }


def _identity(text: str) -> str:
    [kernel] = presets.parse(text)
    return presets.identity(kernel)


def _heard(rows: dict[int, dict]) -> Heard:
    elsewhere: dict[int, dict[int, float]] = {}
    for seed, row in rows.items():
        for length, score in (row.get("by_length") or {}).items():
            elsewhere.setdefault(int(length), {})[seed] = score
    steps = {seed: convergence.solved_at(row["validations"], SOLVED) for seed, row in rows.items()}
    solved = {seed: math.inf if step is None else float(step) for seed, step in steps.items()}
    scores = {seed: row["score"] for seed, row in rows.items()}
    falling = frozenset(seed for seed, row in rows.items() if convergence.flat([row]) is False)
    state = next((row["state_bytes"] for row in rows.values() if row.get("state_bytes")), math.nan)
    answers = next((row["answers"] for row in rows.values()), 1)
    return Heard(scores, elsewhere, solved, state, answers, falling)
