"""Settings to rows: a model for each score and seed, tested on days that it never saw."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
from flax import nnx

from attnzoo.models.recurrent import Pairs, RecurrentEncoderDecoder
from experiments.alignment.settings import Settings
from experiments.bench import trust
from experiments.bench.experiment import Cell, Experiment, Run, one_by_one
from experiments.show import caveats
from experiments.tasks import dates
from experiments.tasks.task import Examples
from experiments.train import loop, steps

CHOSEN = ("steps", "batch", "width", "learning_rate", "test_pairs")  # settings in a row
SHOWN = 4  # test pairs whose alignment is drawn


class Alignment(Experiment):
    """A model for each score and seed."""

    name = "alignment"
    key = ("score", "seed", *CHOSEN)
    columns = ("score", "test_pairs")
    caveats = (caveats.SMALL,)
    noun = "models"

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        shared = {name: getattr(settings, name) for name in CHOSEN}
        pairs = itertools.product(settings.scores, range(settings.seeds))
        yield [Cell(shared | {"score": score, "seed": seed}) for score, seed in pairs]

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        return one_by_one(todo, functools.partial(_trained, settings, run))

    def describe(self, row: dict) -> str:
        what = f"{row['score']}, seed {row['seed']}"
        if row["status"] != "measured":
            return f"{what}: {row['status']}, {row['reason']}"
        return f"{what}: {row['exact_match']:.2%} of {row['test_pairs']:,} unseen, {row['train_seconds']:.0f} s"


def _trained(settings: Settings, run: Run, cell: Cell) -> dict:
    row, vocabularies = cell.row, (len(dates.SOURCE) + 1, len(dates.TARGET) + 1)
    model = RecurrentEncoderDecoder(*vocabularies, width=settings.width, score=row["score"], rngs=nnx.Rngs(row["seed"]))
    if found := trust.breach(model.kernel, dates.LONGEST, is_padded=True, is_cross=True):
        return found
    plan = loop.Plan(settings.steps, settings.learning_rate, warmup=settings.steps // 20)
    learned = lambda step: batch(row["seed"], step, settings.batch)
    trained = loop.fit(model, learned, plan, told=lambda progress: run.reach(progress.step / settings.steps))
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


EXPERIMENT = Alignment()
run = EXPERIMENT.run
