"""Training that can be stopped at any moment and continued to the same result.

Examples number n is a pure function of n, and everything else that a step depends on (parameters, optimizer, random
streams, what validation found) is in a checkpoint, so that a run that goes on from one is the run that never stopped,
to the bit on a CPU. What a kill costs are the steps since the last checkpoint. A checkpoint that cannot be read is
said, and the one before it is taken; one that cannot be written is said, and training goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import pathlib
import shutil
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
import optax
from flax import nnx

from experiments.bench import outcome, processes
from experiments.bench.memory import planned
from experiments.tasks.task import Examples
from experiments.train import ahead, checkpoints, steps
from experiments.train.devices import Devices, local
from experiments.train.termination import Termination

SCHEDULES = ("cosine", "rsqrt")
KEPT = 2  # checkpoints of a run


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a model is trained.

    Attributes:
      steps: how many.
      learning_rate: the highest.
      warmup: steps until it is reached.
      schedule: what follows: "cosine" falls to a tenth, "rsqrt" as 1 / sqrt(step).
      weight_decay: of matrices alone.
      clip: the largest norm of a gradient.
      validate_every: steps between validations, the best of which is kept; 0 keeps the last step.
      enough: the score of a validation that ends training before all steps are done.
      patience: validations after the best one, none of which is as good, that end it likewise; 0 for no such end.
      save_every: steps between checkpoints; 0 for none.
    """

    steps: int
    learning_rate: float
    warmup: int = 0
    schedule: str = "cosine"
    weight_decay: float = 0.01
    clip: float = 1.0
    validate_every: int = 0
    enough: float = -math.inf
    patience: int = 0
    save_every: int = 0

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r}: expected one of {', '.join(SCHEDULES)}")

    def ends(self, progress: Progress) -> bool:
        """Whether nothing is left to train: steps are done, or validation found enough, or nothing better for long."""
        found = any(score <= self.enough for _, score in progress.validations[-1:])
        since = sum(step > progress.best for step, _ in progress.validations) if self.patience else 0
        return progress.step == self.steps or found or since >= self.patience > 0

    def transform(self, is_split: bool = False) -> optax.GradientTransformation:
        """AdamW after clipping, by the schedule up to 1, times `peak`: plans that differ in it share programs.

        `is_split` is that of `steps.adamw`.
        """
        return _transform(self.steps, self.warmup, self.schedule, self.weight_decay, self.clip, is_split)

    @property
    def peak(self) -> np.float32:
        """The learning rate as a step takes it."""
        return np.float32(self.learning_rate)


@functools.cache  # equal plans must share one object: programs are kept by it
def _transform(count, warmup, schedule, weight_decay, clip, is_split) -> optax.GradientTransformation:
    rate = steps.cosine(1.0, count, warmup) if schedule == "cosine" else steps.rsqrt(1.0, warmup)
    return steps.adamw(rate, weight_decay, clip, is_split=is_split)


@dataclasses.dataclass
class Progress:
    """Where a run stands, as JSON has it.

    Attributes:
      step: steps that are done.
      curve: (step, loss in bits) along the way, each the mean of those since the one before.
      recent: losses since its last one.
      validations: (step, score) of each that has one, lower is better.
      best: the step whose parameters are kept, None before the first validation.
      diverged: the step at which the loss or a gradient was no number, None otherwise.
      seconds: of all steps but the first of each length after each start, which compiles.
      compile_seconds: of those.
      needed_bytes: of arguments, results and temporary arrays of a step, as they were planned, on one device; the most
        where lengths differ.
      devices: on how many a step was computed, the fewest where batches differ.
    """

    step: int = 0
    curve: list = dataclasses.field(default_factory=list)
    recent: list = dataclasses.field(default_factory=list)
    validations: list = dataclasses.field(default_factory=list)
    best: int | None = None
    diverged: int | None = None
    seconds: float = 0.0
    compile_seconds: float = 0.0
    needed_bytes: int | None = None
    devices: int | None = None


def fit(
    model: nnx.Module,
    batch: Callable[[int], Examples],
    plan: Plan,
    *,
    folder: pathlib.Path | None = None,
    validate: Callable[[nnx.Module], float] | None = None,
    told: Callable[[Progress], None] = lambda progress: None,
    devices: Devices | None = None,
) -> Progress:
    """Train `model` in place; afterwards it has the best parameters that validation found, or the last.

    A step whose loss or gradient is no number changes nothing, and ends the run as diverged with its last good state.

    Args:
      batch: step number -> what is learned there; called from a thread, for the next step while one is learned.
      folder: where checkpoints are; one of an earlier try of the same run is continued. None for none, and then SIGTERM
        does what it does elsewhere.
      validate: a score of the model, lower is better.
      told: called after each step.
      devices: where the model is, and its examples are put; None for as many local ones as divide the first batch.

    Raises:
      outcome.Stopped: SIGTERM came, to one of the processes; the step at hand was finished, and the state saved.
    """
    model.train()
    run = _Run(model, plan, folder, devices)
    progress = run.resume()
    saves = folder is not None and plan.save_every > 0
    catching = Termination() if saves else contextlib.nullcontext(Termination())
    with catching as termination, ahead.made(batch, plan.steps) as examples:
        while not plan.ends(progress):
            run.advance(progress, examples)
            if progress.diverged is not None:
                break
            is_due = plan.validate_every and (progress.step == plan.steps or progress.step % plan.validate_every == 0)
            if validate and is_due:
                run.validate(progress, validate)
            is_last, to_end = plan.ends(progress), saves and processes.any_of(termination.is_asked)
            if saves and (to_end or (not is_last and progress.step % plan.save_every == 0)):
                run.save(progress)
            told(progress)
            if to_end:  # after the last step, too: what follows may take long, and others may be left to train
                raise outcome.Stopped(f"stopped after step {progress.step:,} of {plan.steps:,}")
    run.settle()
    if progress.best is not None:
        nnx.update(model, run.best)
    return progress


class _Run:
    """A model with its optimizer, and their checkpoints."""

    def __init__(self, model: nnx.Module, plan: Plan, folder: pathlib.Path | None, devices: Devices | None):
        self.model, self.folder, self._peak = model, folder, plan.peak
        if devices is not None:
            devices.split(model)
        self.state = nnx.Optimizer(model, plan.transform(devices is not None), wrt=nnx.Param)
        if devices is not None:
            for each in (model, self.state):
                devices.spread(each)
        self.best = steps.copied(model, nnx.Param)
        self._good: list[pathlib.Path] = []  # checkpoints that were read or written here
        self._step, self._known = steps.Stepping(model, self.state), set()
        self._devices = devices

    def advance(self, progress: Progress, batch: Callable[[int], Examples]) -> None:
        """One step, and what is told of it."""
        start = time.perf_counter()
        examples = batch(progress.step)
        self._devices = self._devices or local(examples)
        placed, devices = self._devices.placed(examples)
        progress.devices = min(devices, progress.devices or devices)
        with self._devices.context():
            loss, is_good = map(np.asarray, self._step(placed, self._peak))
            spent = time.perf_counter() - start
            shapes = tuple(x.shape for x in jax.tree.leaves(placed.inputs))
            if is_cold := shapes not in self._known:
                lowered = self._step.lower(placed, self._peak)
                needed = planned(lowered.compile())["needed_bytes"]  # the program is kept, and not made again
                progress.needed_bytes = max(needed, progress.needed_bytes or 0)
        self._known.add(shapes)
        if is_cold:
            progress.compile_seconds += spent
        else:
            progress.seconds += spent
        if not is_good:
            progress.diverged = progress.step
            return
        progress.recent.append(float(loss))
        if progress.step % 10 == 0:
            progress.curve.append((progress.step, float(np.mean(progress.recent))))
            progress.recent.clear()
        progress.step += 1

    def settle(self) -> None:
        """Put into the model and its optimizer what the last step has left."""
        self._step.settle()

    def validate(self, progress: Progress, validate: Callable[[nnx.Module], float]) -> None:
        """A score of the model as it is, if it is a number; where it is the best, the parameters are kept."""
        self.settle()
        self.model.eval()
        score = float(validate(self.model))
        self.model.train()
        if not math.isfinite(score):
            return
        progress.validations.append((progress.step, score))
        if score <= min(known for _, known in progress.validations):
            progress.best, self.best = progress.step, steps.copied(self.model, nnx.Param)

    def resume(self) -> Progress:
        """The progress of the newest checkpoint that is whole, with its state put in place."""
        for path in reversed(self._saved()):
            try:
                found, told = checkpoints.read(path, self._tree())
                progress = Progress(**told)
            except (ValueError, TypeError) as error:
                print(f"warning: {error}; the checkpoint before it is taken", file=sys.stderr)
                continue
            self._put(found)
            self._good = [path]
            return progress
        return Progress()

    def save(self, progress: Progress) -> None:
        """Write a checkpoint, and remove all but the newest that are known to be whole. If it fails, all stay."""
        self.settle()
        path = self.folder / f"step_{progress.step:08d}"
        try:
            checkpoints.write(path, self._tree(), dataclasses.asdict(progress))
        except OSError as error:
            print(f"warning: step {progress.step:,} could not be saved, {error}; training goes on", file=sys.stderr)
            return
        self._good = [*self._good, path][-KEPT:]
        for other in set(self._saved()).difference(self._good) if processes.is_first() else ():
            shutil.rmtree(other, ignore_errors=True)

    def _saved(self) -> list[pathlib.Path]:
        return sorted(self.folder.glob("step_*")) if self.folder and self.folder.is_dir() else []

    def _tree(self):
        """Everything that a step depends on, or changes."""
        return {"run": nnx.to_pure_dict(nnx.state((self.model, self.state))), "best": nnx.to_pure_dict(self.best)}

    def _put(self, tree) -> None:
        whole = nnx.state((self.model, self.state))
        nnx.replace_by_pure_dict(whole, tree["run"])
        nnx.update((self.model, self.state), whole)
        nnx.replace_by_pure_dict(self.best, tree["best"])
