"""Settings to rows: a model is trained for each cell, a kernel with its positions, and tested on unseen files."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnzoo import Kernel, LearnedPositions, PositionEncoding, catalogue
from attnzoo.models import BlockConfig
from experiments import command_line, language, progress, records, training
from experiments.accuracy import analysis, plot
from experiments.tasks import text

# What makes two rows the same cell.
KEY = (
    "task", "kernel", "positions", "objective", "length", "seed", "steps", "tokens", "width", "layers", "heads",
    "learning_rate", "warmup", "dtype", "test_windows", "corpus",
)  # fmt: skip
BINS = 16  # parts of the sequence, in which loss by position is kept


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to train; `test_windows` counts held-out windows of the longest length."""

    task: str
    kernels: tuple[Kernel, ...]
    positions: tuple[PositionEncoding, ...]
    lengths: tuple[int, ...]
    objectives: tuple[str, ...]
    steps: int
    seeds: int
    tokens: int
    width: int
    layers: int
    heads: int
    learning_rate: float
    warmup: int
    dtype: str
    test_windows: int
    out: str

    def __post_init__(self):
        command_line.at_least(2, steps=self.steps)
        command_line.at_least(1, seeds=self.seeds, width=self.width, layers=self.layers, heads=self.heads)
        command_line.at_least(1, test_windows=self.test_windows)
        command_line.at_least(0, warmup=self.warmup)
        command_line.at_least(1e-12, learning_rate=self.learning_rate)
        if self.tokens < max(self.lengths):
            raise ValueError(f"--tokens={self.tokens} is less than the longest length, {max(self.lengths)}")
        if self.width % self.heads:
            raise ValueError(f"--heads={self.heads} does not divide --width={self.width}")


class Cell(NamedTuple):
    """One kernel, position encoding, objective, length and seed."""

    kernel: Kernel
    positions: PositionEncoding
    objective: str
    length: int
    seed: int


def cells(settings: Settings) -> Iterator[Cell]:
    """All cells, seed after seed, so that an interrupted run has whole comparisons."""
    for seed in range(settings.seeds):
        for objective in settings.objectives:
            for length in settings.lengths:
                for kernel, positions in itertools.product(settings.kernels, settings.positions):
                    yield Cell(kernel, positions, objective, length, seed)


def run(settings: Settings) -> int:
    """Train what is missing, then draw; 1 if a cell failed or diverged."""
    out = pathlib.Path(settings.out)
    corpus = text.load()
    with records.writing(out):
        environment = records.environment()
        done = latest(records.read(out))
        keys = {cell: records.cell(base(settings, cell, corpus), KEY) for cell in cells(settings)}
        todo = [cell for cell, key in keys.items() if key not in done or done[key]["status"] == "failed"]
        with progress.over(todo, f"accuracy: {len(todo)} of {len(keys)} cells to do") as each:
            for cell in each:
                row = train_cell(settings, cell, corpus) | environment
                records.append(out, row)
                each.say(describe(row))
        done = latest(records.read(out))
        rows = [done[key] for key in keys.values()]
        summary = analysis.summarise(rows)
        plot.draw(rows, summary, out)
        progress.table("Accuracy: bits per byte of unseen files", *analysis.table(summary))
        print(f"rows and figures: {out}")
    return int(any(row["status"] in ("failed", "diverged") for row in rows))


def list_cells(settings: Settings) -> int:
    """Print every cell; run none."""
    done = latest(records.read(pathlib.Path(settings.out)))
    corpus = text.load()
    lines = []
    for cell in cells(settings):
        state = "done" if records.cell(base(settings, cell, corpus), KEY) in done else "to do"
        reason = refused(settings, cell)
        state = state if reason is None else f"refused: {reason}"
        lines.append(
            [repr(cell.kernel), repr(cell.positions), cell.objective, f"{cell.length:,}", str(cell.seed), state]
        )
    progress.table("Cells", ["kernel", "positions", "objective", "length", "seed", "state"], lines)
    return 0


def latest(rows: list[dict]) -> dict[tuple, dict]:
    """The last row of each cell. One that names no positions is of a model with learned ones."""
    return records.latest([{"positions": repr(LearnedPositions())} | row for row in rows], KEY)


def base(settings: Settings, cell: Cell, corpus: text.Corpus) -> dict:
    """What identifies a row."""
    fields = ("task", "steps", "tokens", "width", "layers", "heads", "learning_rate", "warmup", "dtype", "test_windows")
    return {
        "kernel": repr(cell.kernel),
        "name": catalogue.name_of(cell.kernel),
        "positions": repr(cell.positions),
        "objective": cell.objective,
        "length": cell.length,
        "seed": cell.seed,
        "corpus": corpus.digest,
        **{name: getattr(settings, name) for name in fields},
    }


def description(settings: Settings, cell: Cell) -> language.Description:
    """The model of a cell."""
    return language.Description(
        BlockConfig(width=settings.width, num_heads=settings.heads, dtype=settings.dtype),
        max_length=cell.length,
        num_layers=settings.layers,
        attention=(cell.kernel,),
        positions=cell.positions,
        is_causal=cell.objective == "causal",
        seed=cell.seed,
    )


def checkpoint_name(settings: Settings, cell: Cell, corpus: text.Corpus) -> str:
    """A name that tells the cell, and differs from that of any other."""
    key = json.dumps(records.cell(base(settings, cell, corpus), KEY))
    told = f"{catalogue.name_of(cell.kernel)[:24]}-{cell.objective}-{cell.length}-seed{cell.seed}"
    return f"{told}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def refused(settings: Settings, cell: Cell) -> str | None:
    """Why the kernel, or its positions, cannot serve the cell, or None."""
    try:
        nnx.eval_shape(lambda: description(settings, cell).build()(jnp.zeros((1, cell.length), int)))
    except (NotImplementedError, ValueError) as error:
        return str(error)
    return None


def train_cell(settings: Settings, cell: Cell, corpus: text.Corpus) -> dict:
    """The row of a cell: refused, measured, diverged or failed."""
    row = base(settings, cell, corpus)
    reason = refused(settings, cell)
    if reason is not None:
        return row | {"status": "refused", "reason": reason}
    try:
        return row | _trained(settings, cell, corpus)
    except Exception as error:  # one cell that fails must not take the others with it
        return row | {"status": "failed", "reason": f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"}


def _trained(settings: Settings, cell: Cell, corpus: text.Corpus) -> dict:
    described = description(settings, cell)
    model = described.build()
    transform = training.optimizer(settings.learning_rate, settings.steps, settings.warmup)
    count = settings.tokens // cell.length
    seen = (batch(corpus, "train", cell, cell.seed, step * count, count) for step in range(settings.steps))
    trained = training.train(model, seen, transform)
    found = {
        "parameters": training.parameter_count(model),
        "curve": trained.curve,
        "compile_seconds": trained.compile_seconds,
        "train_seconds": trained.seconds,
        "unigram_bits": text.unigram_bits(corpus),
    }
    if trained.diverged:
        return found | {"status": "diverged", "reason": f"the loss was no number after step {len(trained.curve) * 10}"}
    bits, weights = training.evaluate(model, held_out(settings, cell, corpus))
    name = checkpoint_name(settings, cell, corpus)
    language.save(pathlib.Path(settings.out) / language.FOLDER / name, described, model)
    bins = [np.array_split(part, min(BINS, cell.length)) for part in (bits, weights)]
    return found | {
        "status": "measured",
        "checkpoint": name,
        "bits": float(bits.sum() / weights.sum()),
        "bits_by_position": [float(b.sum() / w.sum()) if w.sum() else None for b, w in zip(*bins, strict=True)],
    }


def held_out(settings: Settings, cell: Cell, corpus: text.Corpus) -> Iterator[training.Batch]:
    """The test windows: the same for every kernel and seed, as many bytes for every length."""
    total = settings.test_windows * max(settings.lengths) // cell.length
    count = max(1, min(total, settings.tokens // cell.length))
    for start in range(0, total - count + 1, count):
        yield batch(corpus, "test", cell, 0, start, count)


def batch(corpus: text.Corpus, split: str, cell: Cell, seed: int, start: int, count: int) -> training.Batch:
    """Windows number `start` .. `start + count`, to predict the next byte or the masked ones."""
    if cell.objective == "causal":
        tokens = text.windows(corpus, split, seed, start, count, cell.length + 1)
        return training.Batch(tokens[:, :-1], tokens[:, 1:], np.ones((count, cell.length), np.float32))
    tokens = text.windows(corpus, split, seed, start, count, cell.length)
    inputs, chosen = text.masked(tokens, seed, start)
    return training.Batch(inputs, tokens, chosen.astype(np.float32))


def describe(row: dict) -> str:
    """One line about a finished row."""
    head = f"{row['kernel']} {row['positions']} {row['objective']} {row['length']:,} seed {row['seed']}"
    if row["status"] == "measured":
        seconds = row["train_seconds"] + row["compile_seconds"]
        return f"{head}: {row['bits']:.3f} bits per byte, {seconds:.1f} s"
    return f"{head}: {row['status']}: {row['reason']}"
