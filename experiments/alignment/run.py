"""Settings to rows: a model for each score and seed, tested on days that it never saw."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator

import numpy as np
from flax import nnx

from attnzoo.models.recurrent import Pairs, RecurrentEncoderDecoder
from experiments.alignment import plot
from experiments.bench import locks, parsing, progress, provenance, records, trust
from experiments.tasks import dates
from experiments.tasks.task import Examples
from experiments.train import loop, steps

FIELDS = ("steps", "batch", "width", "learning_rate", "test_pairs")
KEY = ("score", "seed", *FIELDS)
SHOWN = 4  # test pairs whose alignment is drawn


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to train."""

    scores: tuple[str, ...]
    steps: int
    batch: int
    width: int
    learning_rate: float
    test_pairs: int
    seeds: int
    out: str

    def __post_init__(self):
        parsing.at_least(2, steps=self.steps)
        parsing.at_least(1, batch=self.batch, width=self.width, seeds=self.seeds, test_pairs=self.test_pairs)
        parsing.at_least(1e-12, learning_rate=self.learning_rate)


def run(settings: Settings) -> int:
    """Train what is missing, then draw; 1 if a run diverged."""
    out = pathlib.Path(settings.out)
    with locks.writing(out):
        environment = provenance.environment()
        done = records.latest(records.read(out), KEY)
        wanted = [_base(settings, *pair) for pair in itertools.product(settings.scores, range(settings.seeds))]
        todo = [row for row in wanted if not records.is_done(row, done, KEY)]
        with progress.over(range(len(todo) * settings.steps), f"alignment: {len(todo)} models to train") as each:
            ticks = iter(each)
            for row in todo:
                row |= environment | _trained(settings, row, ticks)
                records.append(out, row)
                each.say(describe(row))
        done = records.latest(records.read(out), KEY)
    rows = [done[records.cell(row, KEY)] for row in wanted]
    plot.draw(rows, out)
    print(f"rows and figures: {out}")
    return int(any(row["status"] != "measured" for row in rows))


def _base(settings: Settings, score: str, seed: int) -> dict:
    return {"score": score, "seed": seed, **{name: getattr(settings, name) for name in FIELDS}}


def _trained(settings: Settings, row: dict, ticks: Iterator) -> dict:
    vocabularies = len(dates.SOURCE) + 1, len(dates.TARGET) + 1
    model = RecurrentEncoderDecoder(*vocabularies, width=settings.width, score=row["score"], rngs=nnx.Rngs(row["seed"]))
    if found := trust.breach(model.kernel, dates.LONGEST, is_padded=True, is_cross=True):
        return found
    plan = loop.Plan(settings.steps, settings.learning_rate, warmup=settings.steps // 20)
    learned = lambda step: batch(row["seed"], step, settings.batch)
    trained = loop.fit(model, learned, plan, told=lambda progress: next(ticks, None))
    found = {
        "parameters": steps.parameter_count(model),
        "curve": trained.curve,
        "compile_seconds": trained.compile_seconds,
        "train_seconds": trained.seconds,
        "devices": trained.devices,
    }
    if trained.diverged is not None:
        return found | {"status": "diverged", "reason": f"the loss was no number at step {trained.diverged:,}"}
    return found | {"status": "measured"} | tested(model, settings)


def batch(seed: int, step: int, count: int) -> Examples:
    """The training pairs of a step, and the tokens to write."""
    pairs = [dates.pair(seed, "train", index) for index in range(step * count, (step + 1) * count)]
    source, lengths, target = dates.encoded(pairs)
    previous = np.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=dates.START)
    return Examples(Pairs(source, lengths, previous), target, np.ones(target.shape, np.float32))


def tested(model: RecurrentEncoderDecoder, settings: Settings) -> dict:
    """Share of test pairs that are right to the last character, some that are not, and where the decoder looked."""
    pairs = [dates.pair(0, "test", index) for index in range(settings.test_pairs)]
    source, lengths, target = dates.encoded(pairs)
    decode = nnx.jit(lambda model, source, lengths: model.decode(source, lengths, dates.START, target.shape[1]))
    tokens, weights = map(np.asarray, decode(model, source, lengths))
    right = (tokens == target).all(axis=1)
    wrong = [[*pairs[index], dates.text_of(tokens[index])] for index in np.flatnonzero(~right)[:10]]
    shown = [
        {
            "human": human,
            "written": dates.text_of(tokens[index]),
            "weights": np.round(weights[index, :, : lengths[index]], 4).tolist(),
        }
        for index, (human, _) in enumerate(pairs[:SHOWN])
    ]
    return {"exact_match": float(right.mean()), "wrong": wrong, "alignments": shown}


def describe(row: dict) -> str:
    """A line on a row."""
    what = f"{row['score']}, seed {row['seed']}"
    if row["status"] != "measured":
        return f"{what}: {row['status']}, {row['reason']}"
    return f"{what}: {row['exact_match']:.2%} of {row['test_pairs']:,} unseen, {row['train_seconds']:.0f} s"
