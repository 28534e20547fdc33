"""What training and testing consist of: the optimizer, one step, and scores of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnzoo.layers import products
from experiments.tasks.task import Examples


def cosine(learning_rate: float, steps: int, warmup: int) -> optax.Schedule:
    """Rises for `warmup` steps, then falls to a tenth along a cosine."""
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(warmup, steps - 1), steps, learning_rate / 10)


def rsqrt(learning_rate: float, warmup: int) -> optax.Schedule:
    """Rises for `warmup` steps, then falls as 1 / sqrt(step): learning_rate min(t / warmup, sqrt(warmup / t))."""
    first = max(warmup, 1)
    return lambda step: learning_rate * jnp.minimum((step + 1) / first, jnp.sqrt(first / (step + 1)))


def adamw(
    rate: optax.Schedule, weight_decay: float = 0.01, clip: float = 1.0, *, is_split: bool = False
) -> optax.GradientTransformation:
    """AdamW after clipping to a norm. Only matrices and embeddings decay: not norms, biases, or what is drawn.

    `update` takes `peak`, by which the rate is multiplied: a number that a program is given, and not a part of it.
    Moments are one vector: apart, they take up to a quarter of the time that the step of a small model compiles in.

    Args:
      is_split: whether devices share parameters; then moments are split as these are.
    """
    mask = lambda params: jax.tree_util.tree_map_with_path(_decays, params)
    moments = optax.chain(optax.clip_by_global_norm(clip), optax.scale_by_adam(b2=0.98))
    return optax.chain(
        moments if is_split else optax.flatten(moments),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(rate),
        _peaked(),
    )


def _peaked() -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, *, peak=1.0, **_):
        return jax.tree.map(lambda x: peak * x, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _decays(path, x) -> bool:
    """Biases of heads have two axes, too, and what layers learn of relative positions are biases of scores."""
    names = [str(getattr(key, "key", key)) for key in path]
    return jnp.ndim(x) > 1 and "positions" not in names and "bias" not in names


def advance(
    model: nnx.Module, state: nnx.Optimizer, batch: Examples, peak: np.float32 | float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """One step of training, in place: the loss in bits before it, and whether it and its gradient were numbers.

    Where they were not, nothing is changed. `peak` is that of `adamw`.
    """
    changed = lambda: copied((model, state), nnx.Any(nnx.Param, nnx.optimizer.OptState))
    before = changed()
    loss, grads = nnx.value_and_grad(_loss)(model, batch)
    state.update(model, grads, peak=peak)
    is_good = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
    nnx.update((model, state), jax.tree.map(lambda new, old: jnp.where(is_good, new, old), changed(), before))
    return loss, is_good


class Stepping:
    """A model and its optimizer while steps follow each other: what a step leaves is handed to the next as it is.

    To walk through modules before and after each step, as `nnx.jit` does, takes longer than the step of a small model.
    Modules have what steps have left after `settle`.
    """

    def __init__(self, model: nnx.Module, state: nnx.Optimizer):
        self._modules = model, state
        graph, found = nnx.split(self._modules)
        self._structure = jax.tree.structure(found)
        self._program = _program(graph, self._structure)
        self._leaves: list[jax.Array] | None = None

    def __call__(self, batch: Examples, peak: np.float32 | float = 1.0) -> tuple[jax.Array, jax.Array]:
        """What `advance` tells."""
        self._leaves, *found = self._program(self._found(), batch, peak)
        return tuple(found)

    def lower(self, batch: Examples, peak: np.float32 | float = 1.0) -> jax.stages.Lowered:
        """The program of such a step."""
        return self._program.lower(self._found(), batch, peak)

    def settle(self) -> None:
        """Put into the modules what steps have left."""
        if self._leaves is not None:
            nnx.update(self._modules, jax.tree.unflatten(self._structure, self._leaves))
            self._leaves = None

    def _found(self) -> list[jax.Array]:
        return jax.tree.leaves(nnx.state(self._modules)) if self._leaves is None else self._leaves


@functools.lru_cache(maxsize=8)  # models that differ in nothing but their numbers share it
def _program(graph: nnx.GraphDef, structure: jax.tree_util.PyTreeDef) -> jax.stages.Wrapped:
    """A step as a program of leaves alone, `program(leaves, batch, peak)`."""

    @jax.jit
    def program(leaves, batch, peak):
        model, state = nnx.merge(graph, jax.tree.unflatten(structure, leaves))
        loss, is_good = advance(model, state, batch, peak)
        left, after = jax.tree.flatten(nnx.state((model, state)))
        assert after == structure, "a step changes numbers of a model, and not what it consists of"
        return left, loss, is_good

    return program


def copied(node, *which) -> nnx.State:
    """The state of a module as it is now; that of `nnx.state` follows what happens to the module."""
    return jax.tree.map(lambda x: x, nnx.state(node, *which))


def _loss(model, batch: Examples):
    targets, weights = (at_places(x, batch) for x in (batch.targets, batch.weights))
    lost = bits(logits(model, batch), targets)
    chex.assert_equal_shape((lost, weights))  # which would be spread over each other without a word
    return jnp.sum(lost * weights) / jnp.sum(weights)


def logits(model: nnx.Module, batch: Examples) -> jax.Array:
    """What a model says of a batch, at its places where it has some."""
    given = {"lengths": batch.lengths, "places": batch.places}
    with products.merging():
        return model(batch.inputs, **{name: value for name, value in given.items() if value is not None})


def at_places(x: jax.Array, batch: Examples) -> jax.Array:
    """Entries [B, n] of x [B, T] where the answers of a batch stand; all of them where it has no places."""
    return x if batch.places is None else products.entries(x, batch.places)


def bits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of each target in bits: logits [..., V], targets [...] -> [...]."""
    chex.assert_equal_shape_prefix((logits, targets), jnp.ndim(targets))
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets) / jnp.log(2.0)


def tested(model: nnx.Module, batch: Examples) -> tuple[jax.Array, jax.Array]:
    """Bits of each target, and the likeliest answer to each: [B, T] or [B]; 0 where a model does not speak."""
    return testing(model)(batch)


def testing(model: nnx.Module) -> Callable[[Examples], tuple[jax.Array, jax.Array]]:
    """`tested` of a model as it is now, batch after batch: modules are walked through once."""
    return functools.partial(_tested, *nnx.split(model))


@functools.partial(jax.jit, static_argnums=0)
def _tested(graph: nnx.GraphDef, found: nnx.State, batch: Examples) -> tuple[jax.Array, jax.Array]:
    said = logits(nnx.merge(graph, found), batch)
    each = bits(said, at_places(batch.targets, batch)), said.argmax(axis=-1)
    if batch.places is None:
        return each
    of_one = jax.vmap(lambda places, x: jnp.zeros(batch.targets.shape[1], x.dtype).at[places].set(x))
    return tuple(of_one(batch.places, x) for x in each)


@nnx.jit
def differentiated(model: nnx.Module, batch: Examples) -> tuple[jax.Array, nnx.State]:
    """Bits of each target where they are differentiated, for which a kernel may have a rule of its own, and gradients
    of their sum."""

    def lost(model):
        of_each = bits(logits(model, batch), at_places(batch.targets, batch))
        return jnp.sum(of_each), of_each

    (_, of_each), gradients = nnx.value_and_grad(lost, has_aux=True)(model)
    return of_each, gradients


def parameter_count(model: nnx.Module) -> int:
    """Learned numbers in the model."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


def flops(model: nnx.Module, batch: Examples) -> float | None:
    """Operations of the loss and its gradient, counted from the program; None where they cannot be."""
    from attnzoo.costs import counting

    graph, params, rest = nnx.split(model, nnx.Param, ...)
    # A copy, for dropout counts in the model how often it has drawn.
    gradient: Callable = jax.grad(lambda params, rest: _loss(nnx.merge(graph, params, rest, copy=True), batch))
    try:
        return counting.flops(gradient, params, rest)
    except ValueError:  # a loop whose trip count is not known
        return None
