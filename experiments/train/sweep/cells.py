"""What a sweep consists of: cells that each are one model to train."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator

from attnzoo import Kernel, PositionEncoding, catalogue
from attnzoo.models import BlockConfig
from experiments import tasks
from experiments.bench import records
from experiments.tasks.task import Task
from experiments.train.loop import Plan
from experiments.train.sweep import shards
from experiments.train.sweep.settings import Settings

# Settings that all cells of a sweep share, and that a row has.
SHARED = (
    "steps", "tokens", "layers", "heads", "feed_forward", "norm", "pooling", "dropout", "warmup", "schedule",
    "weight_decay", "dtype", "test_examples", "eval_lengths", "validate_every", "match", "tied", "embedding_stddev",
)  # fmt: skip
# What makes two rows the same cell.
KEY = ("task", "kernel", "positions", "length", "width", "learning_rate", "seed", "digest", "pairing", *SHARED)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model to train."""

    task: Task
    kernel: Kernel
    positions: PositionEncoding
    length: int
    width: int
    learning_rate: float
    seed: int

    def config(self, settings: Settings) -> BlockConfig:
        """Its blocks."""
        return BlockConfig(
            width=self.width,
            num_heads=settings.heads,
            feed_forward=settings.feed_forward or None,
            norm=settings.norm,
            dropout_rate=settings.dropout,
            embedding_stddev=settings.embedding_stddev,
            dtype=settings.dtype,
        )

    def pairing(self, settings: Settings) -> str | None:
        """How its model meets pairs of documents; None where it has none, so that rows without the field count."""
        return settings.pairing if self.task.is_pair else None

    def plan(self, settings: Settings) -> Plan:
        """How it is trained."""
        return Plan(
            steps=settings.steps,
            learning_rate=self.learning_rate,
            warmup=settings.warmup,
            schedule=settings.schedule,
            weight_decay=settings.weight_decay,
            validate_every=settings.validate_every or settings.steps,
            save_every=settings.save_every,
        )

    def row(self, settings: Settings) -> dict:
        """What identifies its row."""
        return self.asked(settings) | {"digest": self.task.digest}

    def asked(self, settings: Settings) -> dict:
        """What of it flags decide, whatever data there are."""
        return {
            "task": repr(self.task),
            "task_name": tasks.name_of(self.task),
            "kernel": catalogue.identity(self.kernel),
            "name": catalogue.name_of(self.kernel),
            "positions": catalogue.identity(self.positions),
            "length": self.length,
            "width": self.width,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "metric": self.task.metric,
            "is_causal": self.task.is_causal,
            "pairing": self.pairing(settings),
            **{name: getattr(settings, name) for name in SHARED},
        }

    def name(self, settings: Settings) -> str:
        """A name for its folder, at most 64 of `A-Za-z0-9._-`, that tells the cell and is that of no other."""
        row = self.row(settings)
        told = re.sub(r"[^A-Za-z0-9._-]", "_", f"{row['task_name'][:14]}-{row['name'][:16]}-{self.length}-{self.seed}")
        key = json.dumps(records.cell(row, KEY))
        return f"{told[:50]}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"

    def told(self) -> dict:
        """As JSON has it; `heard` reads it in another process."""
        plain = {name: getattr(self, name) for name in ("length", "width", "learning_rate", "seed")}
        spelled = {"task": tasks.spelled(self.task), "kernel": catalogue.spelled(self.kernel)}
        return plain | spelled | {"positions": catalogue.spelled(self.positions)}


def heard(told: dict) -> Cell:
    """The cell that `told` gave. It comes from this command's own flags, and so may name classes to import."""
    [task], [kernel] = tasks.parse_tasks(told["task"]), catalogue.parse(told["kernel"])
    [positions] = catalogue.parse_positions(told["positions"])
    return Cell(**told | {"task": task, "kernel": kernel, "positions": positions})


def cells(settings: Settings) -> Iterator[Cell]:
    """All cells of this shard, seed after seed, so that an interrupted sweep has whole comparisons."""
    if settings.shard is None:
        return _all(settings)
    index, count = settings.shard
    return iter(shards.dealt(_all(settings), count)[index])


def _all(settings: Settings) -> Iterator[Cell]:
    for seed in range(settings.seeds):
        for task, length, width in itertools.product(settings.tasks, settings.lengths, settings.widths):
            each = itertools.product(settings.kernels, settings.positions, settings.learning_rates)
            for kernel, positions, rate in each:
                yield Cell(task, kernel, positions, length, width, rate, seed)
