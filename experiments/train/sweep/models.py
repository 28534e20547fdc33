"""One cell to a row: a model is built, trained, validated, and tested once."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import pathlib
import shutil
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from attnzoo import Softmax
from attnzoo.models import BlockConfig, Classifier, LanguageModel
from experiments.bench import mesh, processes, trust
from experiments.tasks import task as tasks
from experiments.tasks.task import SPLITS, Examples
from experiments.train import asked, language, loop, pretrained, steps
from experiments.train.autoencoder import AutoEncoder
from experiments.train.devices import Devices, whole
from experiments.train.sweep import convergence, curriculum, matching
from experiments.train.sweep.cells import Cell
from experiments.train.sweep.settings import Settings

RUNNING, CURVES = "running", "tensorboard"  # folders: of checkpoints of unfinished cells, and of event files
WANDB = "weights_and_biases"
BINS = 16  # parts in which loss by position is kept
# What a model has in common with the one that it starts from.
SAME = ("kernel", "positions", "width", "seed", "blocks", "layers", "heads", "feed_forward", "norm")


def refusal(settings: Settings, cell: Cell) -> dict | None:
    """What the row says where the kernel, its positions or the task cannot serve the cell, or a law is broken; or None.

    Examples of every split are asked for, so that data which are not there are missed before anything is trained.
    """
    try:
        for split, length in itertools.product(SPLITS, (*settings.eval_lengths, cell.length)):
            example = cell.task.batch(split, cell.seed, 0, 1, length)
        nnx.eval_shape(lambda: steps.logits(build(settings, cell), example))
    except (NotImplementedError, ValueError) as error:
        return {"status": "refused", "reason": str(error)}
    if settings.match == "state" and (reason := matching.refusal(settings, cell)):
        return {"status": "refused", "reason": reason}
    is_causal = cell.task.classes is None and cell.task.is_causal
    longest = max((*settings.lengths, *settings.eval_lengths))  # one probe for all cells of a kernel
    place = {"is_causal": is_causal, "is_padded": example.lengths is not None}
    found = (trust.breach(kernel, longest, **place) for kernel in dict.fromkeys(cell.kernels(settings)))
    return next(filter(None, found), None)


def build(settings: Settings, cell: Cell) -> nnx.Module:
    """The model of a cell, as large as its longest sequence needs."""
    return _model(settings, cell, _matched(settings, cell) if settings.match == "params" else settings.feed_forward)


def configs(settings: Settings, cell: Cell, inner: int = 0) -> BlockConfig | tuple[BlockConfig, ...]:
    """Those of a cell's blocks, one where all are alike.

    Args:
      inner: width of feed-forward networks; 0 for four times the model's.
    """
    each = tuple(dataclasses.replace(config, feed_forward=inner or None) for config in cell.configs(settings))
    return each[0] if len(set(each)) == 1 else each


def _model(settings, cell, inner):
    config = configs(settings, cell, inner)
    shared = {
        "max_length": max(cell.length, *settings.eval_lengths, 1),
        "num_layers": settings.layers,
        "attention": cell.kernels(settings),
        "positions": cell.positions,
    }
    if cell.task.classes is not None:
        sizes = cell.task.vocabulary, cell.task.classes, config
        shared |= {"pooling": settings.pooling, "pairing": cell.pairing(settings)}
        return Classifier(*sizes, **shared, rngs=nnx.Rngs(cell.seed))
    shared |= {"is_tied": settings.tied}
    if cell.task.is_compressed:
        return AutoEncoder(cell.task.vocabulary, config, **shared, rngs=nnx.Rngs(cell.seed))
    shared |= {"is_causal": cell.task.is_causal}
    return LanguageModel(cell.task.vocabulary, config, **shared, rngs=nnx.Rngs(cell.seed))


def _matched(settings, cell) -> int:
    """The width of feed-forward networks at which the model has as many parameters as one with exact attention."""
    plain = dataclasses.replace(cell, kernel=Softmax())
    count = functools.partial(_count, settings)
    wanted = count(plain, settings.feed_forward or 4 * cell.width)
    each = count(cell, 2) - count(cell, 1)
    return max(1, round((wanted - count(cell, 1)) / each) + 1)


def _count(settings, cell, inner) -> int:
    return sum(
        x.size for x in jax.tree.leaves(nnx.state(nnx.eval_shape(lambda: _model(settings, cell, inner)), nnx.Param))
    )


def train(settings: Settings, cell: Cell, told: Callable[[loop.Progress], None]) -> dict:
    """What the row of a cell says beside what identifies it: measured, diverged, or refused.

    Raises:
      outcome.Stopped: SIGTERM came; the same call goes on from what it has saved.
    """
    model, out = build(settings, cell), pathlib.Path(settings.out)
    if settings.start_from:
        wanted = {name: cell.asked(settings)[name] for name in SAME}
        pretrained.start(model, pretrained.find(pathlib.Path(settings.start_from), cell.task, wanted))
    if refused := _breach(settings, cell, model):
        return refused
    batch = _learned(settings, cell)
    found = {"parameters": steps.parameter_count(model), "step_flops": step_flops(settings, cell.program)}
    found["built"] = built(settings, cell)
    devices = _devices(settings)
    validate = functools.partial(_validated, settings, cell, devices=devices)
    with _curves(settings, cell) as drawn:
        both = lambda progress: (told(progress), drawn(progress))
        progress = loop.fit(
            model,
            batch,
            cell.plan(settings),
            folder=_running(settings, cell),
            validate=validate,
            told=both,
            devices=devices,
        )
    found |= {
        "curve": progress.curve,
        "has_flattened": convergence.has_flattened(progress.curve),
        "validations": progress.validations,
        "best_step": progress.best or progress.step,
        "trained_steps": progress.step,
        "learned_lengths": _lengths(settings, cell),
        "compile_seconds": progress.compile_seconds,
        "train_seconds": progress.seconds,
        "needed_bytes": progress.needed_bytes,
        "devices": progress.devices,
        "mesh": settings.mesh,
    }
    if refused := _breach(settings, cell, model, is_trained=True):  # what is learned may open a way to the future
        return refused
    found["validation"] = min((score for _, score in progress.validations), default=None)
    found |= outcome(settings, cell, model, progress, devices)
    found["state_bytes"] = cell.state_bytes(settings)
    if isinstance(model, LanguageModel):
        found["checkpoint"] = cell.name(settings)
        language.save(out / language.FOLDER / cell.name(settings), description(settings, cell, model), model)
    return found


def _breach(settings: Settings, cell: Cell, model: nnx.Module, is_trained: bool = False) -> dict | None:
    """What the row says of a model that breaks a law at a length where it is tested, or learns unless it is trained."""
    found = functools.partial(asked.breach, model, cell.kernels(settings), cell.task)
    tested = dict.fromkeys([*settings.eval_lengths, cell.length])
    learned = [] if is_trained else _lengths(settings, cell)
    each = itertools.chain(
        (found(length, min(settings.test_examples, settings.count(length))) for length in tested),
        (found(length, settings.count(cell.length), is_learned=True) for length in learned),
    )
    return next(filter(None, each), None)


def _lengths(settings: Settings, cell: Cell) -> list[int]:
    """Those that are learned, one after another."""
    return curriculum.lengths(cell.task, cell.length) if settings.curriculum else [cell.length]


def _learned(settings: Settings, cell: Cell) -> Callable[[int], Examples]:
    """What is learned in a step: examples of the cell's length, or of the length of the step."""
    count = settings.count(cell.length)
    lengths = _lengths(settings, cell)
    length = lambda step: curriculum.at(step, settings.steps, lengths)
    return lambda step: cell.task.batch("train", cell.seed, step * count, count, length(step))


@functools.lru_cache(maxsize=256)
def step_flops(settings: Settings, program: Cell) -> float | None:
    """Operations of a step of a program; None where they cannot be counted."""
    count = settings.count(program.length)
    example = program.task.batch("train", program.seed, 0, count, program.length)
    return steps.flops(nnx.eval_shape(lambda: build(settings, program)), example)


def built(settings: Settings, cell: Cell) -> list[str]:
    """The kernel of each block, and what of its config is not the default, as flags and preset have it."""
    defaults = {field.name: field.default for field in dataclasses.fields(BlockConfig)}
    told = []
    for kernel, config in zip(cell.kernels(settings), cell.configs(settings), strict=True):
        chosen = {name: x for name, x in dataclasses.asdict(config).items() if x != defaults[name]}
        told.append("; ".join([repr(kernel), *(f"{name}={value}" for name, value in chosen.items())]))
    return told


def forget(settings: Settings, cell: Cell) -> None:
    """Remove the checkpoints of a cell whose row is written."""
    if processes.is_first():
        shutil.rmtree(_running(settings, cell), ignore_errors=True)


def _running(settings, cell) -> pathlib.Path:
    return pathlib.Path(settings.out) / RUNNING / cell.name(settings)


def _devices(settings: Settings) -> Devices | None:
    """Those of the mesh that settings name; None where they name none."""
    return Devices(mesh.made(settings.mesh), settings.fsdp) if settings.mesh else None


def outcome(
    settings: Settings, cell: Cell, model: nnx.Module, progress: loop.Progress, devices: Devices | None = None
) -> dict:
    """What the trained model reaches on the test split, or where it has come to no numbers."""
    if progress.diverged is not None:
        reason = f"the loss or a gradient was no number at step {progress.diverged:,}"
        return {"status": "diverged", "reason": reason}
    found = tests(settings, cell, model, devices)
    if not np.isfinite([found["bits"], *found["by_length"].values()]).all():
        return {"status": "diverged", "reason": "the loss on what was not seen was no number"}
    return {"status": "measured"} | found


def tests(settings: Settings, cell: Cell, model: nnx.Module, devices: Devices | None = None) -> dict:
    """Scores on the test split, at the length that was learned and at others, and of parts of the task."""
    elsewhere = {
        str(length): scores(settings, cell, model, "test", length, devices)["score"] for length in settings.eval_lengths
    }
    here = scores(settings, cell, model, "test", cell.length, devices)
    return here | {"by_length": elsewhere, "probes": probed(settings, cell, model, devices)}


@contextlib.contextmanager
def _curves(settings: Settings, cell: Cell):
    """What is told of each step is written for the programs that are asked for."""
    out, name = pathlib.Path(settings.out), cell.name(settings)
    with contextlib.ExitStack() as told:
        tells = []
        if settings.tensorboard and processes.is_first():
            from experiments.train import tensorboard  # which is an extra

            tells.append(told.enter_context(tensorboard.following(out / CURVES / name, cell.task.metric)))
        if settings.wandb and processes.is_first():
            from experiments.train import weights_and_biases  # another

            chosen = cell.row(settings)
            run = weights_and_biases.following(out / WANDB, cell.task.metric, settings.wandb, name, chosen)
            tells.append(told.enter_context(run))
        yield lambda progress: [tell(progress) for tell in tells]


def description(settings: Settings, cell: Cell, model: LanguageModel) -> language.Description:
    """What builds the model again."""
    kernels = cell.kernels(settings)
    return language.Description(
        configs(settings, cell, model.stack.config.feed_forward or 0),
        vocabulary=cell.task.vocabulary,
        max_length=model.max_length,
        num_layers=settings.layers,
        attention=tuple(kernels if len(set(kernels)) > 1 else kernels[:1]),
        positions=cell.positions,
        is_causal=cell.task.is_causal,
        is_tied=settings.tied,
        seed=cell.seed,
    )


def scores(
    settings: Settings, cell: Cell, model: nnx.Module, split: str, length: int, devices: Devices | None = None
) -> dict:
    """What a model reaches on examples of a split, the same for every kernel and seed.

    `score` is bits of a target, or the share of answers that are right, as the task counts; `bits` is always there.
    """
    model.eval()
    bits, right, weights, exact = [], [], [], []
    tested = steps.testing(model)
    for batch in held_out(settings, cell, split, length):
        of_each, said = _said(tested, batch, devices)
        bits.append(of_each)
        right.append(said == batch.targets)
        weights.append(batch.weights)
        exact.append(tasks.exact_match(batch, said) * len(said))
    bits, right, weights = (np.concatenate(parts).astype(np.float64) for parts in (bits, right, weights))
    found = {
        "bits": float((bits * weights).sum() / weights.sum()),
        "accuracy": float((right * weights).sum() / weights.sum()),
        "exact_match": float(sum(exact) / len(bits)),
        "answers": int((weights > 0).sum()),
    }
    found["score"] = found[cell.task.metric]
    return found | ({"bits_by_position": _by_position(bits, weights)} if weights.ndim > 1 else {})


def _said(tested, batch, devices) -> tuple[np.ndarray, np.ndarray]:
    if devices is None:
        return tuple(map(np.asarray, tested(batch)))
    with devices.context():
        return tuple(map(whole, tested(devices.placed(batch)[0])))


def probed(
    settings: Settings, cell: Cell, model: nnx.Module, devices: Devices | None = None
) -> dict[str, dict[str, float]]:
    """For each part that the task tests apart, the share of examples that are right at each length."""
    lengths = sorted({cell.length, *settings.eval_lengths})
    of_tasks = {name: dataclasses.replace(cell, task=task) for name, task in cell.task.probes().items()}
    return {
        name: {
            str(length): scores(settings, of_task, model, "test", length, devices)["exact_match"] for length in lengths
        }
        for name, of_task in of_tasks.items()
    }


def _by_position(bits, weights) -> list[float | None]:
    """Mean bits in parts of the sequence; None where nothing counts."""
    sums = [np.array_split(part.sum(axis=0), min(BINS, bits.shape[1])) for part in (bits * weights, weights)]
    return [float(bits.sum() / weight.sum()) if weight.sum() else None for bits, weight in zip(*sums, strict=True)]


def _validated(settings, cell, model, devices) -> float:
    score = scores(settings, cell, model, "validation", cell.length, devices)["score"]
    return score if cell.task.metric == "bits" else -score


def held_out(settings: Settings, cell: Cell, split: str, length: int) -> tuple[Examples, ...]:
    """`test_examples` in batches as large as those of training."""
    return _held_out(cell.task, split, settings.test_examples, max(1, settings.count(length)), length)


@functools.lru_cache(maxsize=1)  # each validation of a model asks for the same; nine in ten draws are of other splits
def _held_out(task: tasks.Task, split: str, total: int, size: int, length: int) -> tuple[Examples, ...]:
    return tuple(task.batches(split, 0, total, size, length))
