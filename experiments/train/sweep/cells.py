"""What a sweep consists of: cells that each are one model to train."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator

from attnzoo import Kernel, PositionEncoding, catalogue
from attnzoo.models import BlockConfig, Preset, presets
from experiments import tasks
from experiments.bench import records
from experiments.tasks.task import Task
from experiments.train.loop import Plan
from experiments.train.sweep import matching, shards
from experiments.train.sweep.matching import Match
from experiments.train.sweep.settings import Settings

# Settings that all cells of a sweep share, and that a row has.
SHARED = (
    "steps",
    "tokens",
    "layers",
    "heads",
    "feed_forward",
    "norm",
    "pooling",
    "dropout",
    "warmup",
    "schedule",
    "weight_decay",
    "dtype",
    "test_examples",
    "eval_lengths",
    "validate_every",
    "match",
    "tied",
    "embedding_stddev",
)
# Settings that a row has where they are given, so that rows of before there were such count as without.
GIVEN = ("batch", "curriculum", "start_from", "until", "patience")
# Settings that are fields of blocks by the same name, where 0 and "none" are None; a row has those that are chosen.
OF_BLOCKS = (
    "norm_kind", "activation", "normalize_qk", "conv_width", "qkv_activation", "normalize_out", "gate", "sinks",
    "soft_cap", "logits_soft_cap",
)  # fmt: skip
# What makes two rows the same cell.
KEY = (
    "task", "kernel", "positions", "length", "width", "learning_rate", "seed", "digest", "pairing", "blocks", *SHARED,
    *GIVEN,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model to train."""

    task: Task
    kernel: Kernel | Preset
    positions: PositionEncoding
    length: int
    width: int
    learning_rate: float
    seed: int
    match: Match | None = None  # heads in place of those of settings

    @property
    def program(self) -> Cell:
        """What stands for all cells of one compiled program, to which seed and learning rate are numbers."""
        return dataclasses.replace(self, seed=0, learning_rate=1.0)

    def kernels(self, settings: Settings) -> list[Kernel]:
        """That of each block."""
        return self.kernel.attention(settings.layers) if self.is_preset else [self.kernel] * settings.layers

    def configs(self, settings: Settings) -> list[BlockConfig]:
        """That of each block.

        Raises:
          ValueError: a flag says what the preset says otherwise.
        """
        config = self._config(settings)
        return self.kernel.configs(config, settings.layers) if self.is_preset else [config] * settings.layers

    @property
    def is_preset(self) -> bool:
        """Whether blocks may differ from each other, and from what flags say."""
        return isinstance(self.kernel, Preset)

    def _config(self, settings: Settings) -> BlockConfig:
        """What flags say of all blocks."""
        heads, kv_heads, _ = self.match or (settings.heads, settings.kv_heads or None, None)
        return BlockConfig(
            width=self.width,
            num_heads=heads,
            num_kv_heads=kv_heads,
            feed_forward=settings.feed_forward or None,
            norm=settings.norm,
            dropout_rate=settings.dropout,
            embedding_stddev=settings.embedding_stddev,
            dtype=settings.dtype,
            **{name: _chosen(settings, name) for name in OF_BLOCKS},
        )

    def blocks(self, settings: Settings) -> str | None:
        """What is chosen of blocks beyond `SHARED`; None for nothing, so that rows without the field count."""
        defaults = {field.name: field.default for field in dataclasses.fields(BlockConfig)}
        chosen = {"kv_heads": settings.kv_heads} if settings.kv_heads else {}
        chosen |= {name: value for name in OF_BLOCKS if (value := _chosen(settings, name)) != defaults[name]}
        return ", ".join(f"{name}={value}" for name, value in chosen.items()) or None

    def state_bytes(self, settings: Settings) -> float | None:
        """What all blocks keep of one example to decode it; None where a kernel cannot."""
        blocks = zip(self.configs(settings), self.kernels(settings), strict=True)
        found = [config.state_bytes(kernel, self.length) for config, kernel in blocks]
        return None if None in found else sum(found)

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
            enough=-settings.until if settings.until else -math.inf,
            patience=settings.patience,
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
            "kernel": presets.identity(self.kernel),
            "name": presets.name_of(self.kernel),
            "positions": catalogue.identity(self.positions),
            "length": self.length,
            "width": self.width,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "metric": self.task.metric,
            "is_causal": self.task.is_causal,
            "pairing": self.pairing(settings),
            "blocks": self.blocks(settings),
            **{name: getattr(settings, name) for name in SHARED},
            **{name: getattr(settings, name) or None for name in GIVEN},
            **(self.match.row() if self.match else {}),
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
        spelled = {"task": tasks.spelled(self.task), "kernel": presets.spelled(self.kernel)}
        return plain | spelled | {"positions": catalogue.spelled(self.positions), "match": self.match}


def _chosen(settings: Settings, name: str):
    """A field of blocks as a setting says it."""
    value = getattr(settings, name)
    return value if isinstance(value, bool) or value not in ("none", 0) else None


def heard(told: dict) -> Cell:
    """The cell that `told` gave. It comes from this command's own flags, and so may name classes to import."""
    [task], [kernel] = tasks.parse_tasks(told["task"]), presets.parse(told["kernel"])
    [positions] = catalogue.parse_positions(told["positions"])
    match = told["match"] and Match(*told["match"])
    return Cell(**told | {"task": task, "kernel": kernel, "positions": positions, "match": match})


def cells(settings: Settings) -> Iterator[Cell]:
    """Cells of this shard at every rate, seed after seed, so that an interrupted sweep has whole comparisons."""
    if settings.shard is None:
        return _at_every_rate(settings)
    index, count = settings.shard
    return iter(shards.dealt(_at_every_rate(settings), count)[index])


def confirming(settings: Settings, rate: Callable[[list[Cell]], float]) -> Iterator[Cell]:
    """Cells of the seeds beyond `--tuning_seeds`, each at the rate that its variant's cells of those seeds tell."""
    if not settings.tuning_seeds:
        return
    tuned: dict[Cell, list[Cell]] = {}
    for cell in cells(settings):
        tuned.setdefault(cell.program, []).append(cell)
    rates = {program: rate(own) for program, own in tuned.items()}
    for seed in range(settings.first_seed + settings.tuning_seeds, settings.first_seed + settings.seeds):
        for program, chosen in rates.items():
            yield dataclasses.replace(program, learning_rate=chosen, seed=seed)


def foreseen(settings: Settings) -> Iterator[Cell]:
    """All cells before any is measured: of those that wait for a choice the rate is NaN."""
    yield from cells(settings)
    yield from confirming(settings, lambda tuned: math.nan)


def _at_every_rate(settings: Settings) -> Iterator[Cell]:
    for seed in range(settings.first_seed, settings.first_seed + (settings.tuning_seeds or settings.seeds)):
        for task, length, width in itertools.product(settings.tasks, settings.lengths, settings.widths):
            each = itertools.product(settings.kernels, settings.positions, settings.learning_rates)
            for kernel, positions, rate in each:
                cell = Cell(task, kernel, positions, length, width, rate, seed)
                match = matching.found(settings, cell.program) if settings.match == "state" else None
                yield dataclasses.replace(cell, match=match)
