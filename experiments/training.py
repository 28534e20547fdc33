"""Training a model on batches, with optax: warm-up, cosine decay, clipping, and weight decay of matrices alone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx


class Batch(NamedTuple):
    """Tokens to see, tokens to predict, and where the prediction counts: [B, T]."""

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


class Trained(NamedTuple):
    """What a training run leaves beside the model.

    Attributes:
      curve: (step, loss in bits) along the way.
      diverged: whether a loss was no number, at which the run ended.
      compile_seconds: until the first step was done.
      seconds: of all later steps.
    """

    curve: list[tuple[int, float]]
    diverged: bool
    compile_seconds: float
    seconds: float


def optimizer(
    learning_rate: float, steps: int, warmup: int, weight_decay: float = 0.01
) -> optax.GradientTransformation:
    """AdamW after clipping to norm 1; the rate rises for `warmup` steps, then falls to a tenth along a cosine."""
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(warmup, steps - 1), steps, learning_rate / 10)
    matrices = lambda params: jax.tree.map(lambda x: jnp.ndim(x) > 1, params)
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98, weight_decay=weight_decay, mask=matrices)
    )


def train(model: nnx.Module, batches: Iterable[Batch], transform: optax.GradientTransformation) -> Trained:
    """One step for each batch; the model is changed in place."""
    model.train()
    state = nnx.Optimizer(model, transform, wrt=nnx.Param)
    curve, diverged = [], False
    start = time.perf_counter()
    compiled_at = start
    for number, batch in enumerate(batches):
        loss = float(step(model, state, batch))
        if number == 0:
            compiled_at = time.perf_counter()
        if not np.isfinite(loss):
            diverged = True
            break
        if number % 10 == 0:
            curve.append((number, loss))
    return Trained(curve, diverged, compiled_at - start, time.perf_counter() - compiled_at)


@nnx.jit
def step(model: nnx.Module, state: nnx.Optimizer, batch: Batch) -> jax.Array:
    """One step of training, in place; the loss in bits before it."""
    loss, grads = nnx.value_and_grad(_loss)(model, batch)
    state.update(model, grads)
    return loss


def _loss(model, batch):
    bits = token_bits(model(batch.inputs), batch.targets)
    return jnp.sum(bits * batch.weights) / jnp.sum(batch.weights)


def token_bits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of each target in bits: logits [B, T, V], targets [B, T] -> [B, T]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets) / jnp.log(2.0)


def evaluate(model: nnx.Module, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Sums over batches of bits and of weights, at each position: two arrays [T]."""
    model.eval()
    sums = [jax.device_get(_position_sums(model, batch)) for batch in batches]
    return tuple(np.sum(part, axis=0, dtype=np.float64) for part in zip(*sums, strict=True))


@nnx.jit
def _position_sums(model, batch):
    bits = token_bits(model(batch.inputs), batch.targets)
    return jnp.sum(bits * batch.weights, axis=0), jnp.sum(batch.weights, axis=0)


def parameter_count(model: nnx.Module) -> int:
    """Learned numbers in the model."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
