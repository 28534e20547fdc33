"""A small run of training, for tests that stop and kill it: `python -m tests.training_run FOLDER STEPS`."""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
from flax import nnx

from attnzoo import Performer
from attnzoo.models import BlockConfig, LanguageModel
from experiments.bench import outcome
from experiments.tasks.task import Examples
from experiments.train import loop, steps


def batch(step):
    """Tokens of a step: a walk over five tokens."""
    rng = np.random.default_rng(step)
    tokens = np.cumsum(rng.integers(1, 3, size=(4, 9)), axis=1) % 5
    return Examples(tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32), np.ones((4, 8), np.float32))


def made(seed=0, dropout_rate=0.1):
    config = BlockConfig(width=8, num_heads=2, dropout_rate=dropout_rate)
    return LanguageModel(5, config, max_length=8, num_layers=1, attention=Performer(8), rngs=nnx.Rngs(seed))


def plan(steps, **changes):
    return loop.Plan(steps, **({"learning_rate": 1e-2, "warmup": 2, "validate_every": 7, "save_every": 5} | changes))


def validated(model):
    """Bits of a batch that no step has."""
    return float(np.mean(steps.tested(model, batch(10**6))[0]))


def parameters(model):
    """Learned numbers, in the order of the tree."""
    return [np.asarray(x).tolist() for x in jax.tree.leaves(nnx.state(model, nnx.Param))]


def main(folder, count):
    model = made()
    try:
        told = lambda progress: print(progress.step, flush=True)
        progress = loop.fit(model, batch, plan(count), folder=pathlib.Path(folder), validate=validated, told=told)
    except outcome.Stopped:
        return outcome.STOPPED
    found = dataclasses.asdict(progress) | {"seconds": 0, "compile_seconds": 0, "parameters": parameters(model)}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
