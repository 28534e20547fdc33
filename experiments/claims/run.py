"""Settings to rows: each claim's cells that have none yet."""

from __future__ import annotations

import dataclasses
import pathlib

from attnzoo import Kernel
from experiments.bench import locks, outcome, parsing, progress, provenance, records
from experiments.claims import plot, recall, regression, speed

CLAIMS = {"speed": speed, "recall": recall, "regression": regression}
KEY = tuple(dict.fromkeys(name for module in CLAIMS.values() for name in module.KEY))  # of a row of any claim


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to test."""

    claims: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    lengths: tuple[int, ...]
    distances: tuple[int, ...]
    tokens: int
    steps: int
    width: int
    layers: int
    heads: int
    learning_rate: float
    seeds: int
    repeats: int
    out: str

    def __post_init__(self):
        parsing.at_least(1, tokens=self.tokens, width=self.width, layers=self.layers, heads=self.heads)
        parsing.at_least(1, seeds=self.seeds)
        parsing.at_least(2, steps=self.steps)
        parsing.at_least(5, repeats=self.repeats)
        parsing.at_least(1e-12, learning_rate=self.learning_rate)
        if self.width % self.heads:
            raise ValueError(f"--heads={self.heads} does not divide --width={self.width}")


def run(settings: Settings) -> int:
    """Do what is missing, then draw; 1 if a cell failed or diverged, or all were refused."""
    out = pathlib.Path(settings.out)
    found = []
    with locks.writing(out):
        environment = provenance.environment()
        for claim in settings.claims:
            module = CLAIMS[claim]
            wanted = [environment | {"claim": claim} | cell for cell in module.cells(settings)]
            done = records.latest(records.read(out), module.KEY)
            todo = [cell for cell in wanted if not records.is_done(cell, done, module.KEY)]
            with progress.over(module.rows(settings, todo), f"{claim}: {len(todo)} cells to do", len(todo)) as each:
                for row in each:
                    row.pop("candidate", None)
                    records.append(out, row)
                    each.say(describe(row))
            done = records.latest(records.read(out), module.KEY)
            found += [done[records.cell(cell, module.KEY)] for cell in wanted]
    plot.draw(found, out)
    print(f"rows and figures: {out}")
    return outcome.code(found)


def describe(row: dict) -> str:
    """A line on a row."""
    where = {"speed": "length", "recall": "seed", "regression": "bandwidth"}[row["claim"]]
    what = f"{row['kernel']}, {where} {row[where]:,}"
    if row["status"] != "measured":
        return f"{what}: {row['status']}, {row['reason']}"
    told = {
        "speed": lambda: f"{row['tokens_per_second']:,.0f} tokens per second",
        "recall": lambda: "recalled " + ", ".join(f"{x:.0%}" for x in row["accuracies"]),
        "regression": lambda: f"error {row['error']:.3f}",
    }
    return f"{what}: {told[row['claim']]()}"
