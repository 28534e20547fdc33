"""A model with a kernel of one's own is asked itself, as it is tested and as it learns, before anything is made of it.

What it says may not feel the future, and is held to what it says with the kernel's equation, `head`, in the place of
its fast route; its gradients are held to differences of what it says.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnzoo import Kernel
from attnzoo.models import LanguageModel
from attnzoo.nnx import MultiHeadAttention
from attnzoo.testing import Subject, futures
from experiments.bench import asked, trust
from experiments.tasks.task import Examples, Task
from experiments.train import steps

PAIRS = 2**28  # of a query and a key, at most, that meet in equations of one layer: seconds
DEVIATION = 0.05  # error of what is said, in parts of its spread
ALIKE = 0.01  # a spread, in parts of what is said, below which all answers are alike


def breach(
    model: nnx.Module, kernels: Iterable[Kernel], task: Task, length: int, count: int, is_learned: bool = False
) -> dict | None:
    """What a row says of a model that breaks a law with examples of a task, or None.

    Args:
      kernels: of its blocks, of which the first that is not the catalogue's is blamed.
      count: examples in a batch.
      is_learned: whether it is asked as it is differentiated, and not as it is tested.
    """
    kernels = list(kernels)
    if _own(kernels) is None:
        return None
    each = (task.batch(split, 0, 0, max(1, count), length) for split in ("test", "validation"))
    asked_everywhere = [batch._replace(places=None) for batch in each]
    return of_batches(model, kernels, asked_everywhere, is_learned)


def of_batches(
    model: nnx.Module, kernels: Iterable[Kernel], batches: Sequence[Examples], is_learned: bool = False
) -> dict | None:
    """The same with two batches of one shape: what the second one is of becomes the future of the first."""
    if (kernel := _own(kernels)) is None:
        return None
    model.train() if is_learned else model.eval()
    found = trust.broken(lambda: _held(model, kernel, *batches, is_learned))
    model.train()
    return found


def require(model: LanguageModel, kernels: Iterable[Kernel], tokens: np.ndarray, is_stepped: bool = False) -> None:
    """Refuse a model whose kernels break a law with tokens [T], whole or step by step.

    Raises:
      ValueError: they do.
    """
    others = (tokens + 1) % model.vocabulary
    each = [Examples(x[None], x[None], np.ones((1, len(x)), np.float32)) for x in (tokens, others)]
    found = of_batches(model, kernels, each)
    if not found and is_stepped and (kernel := _own(kernels)):
        found = trust.broken(lambda: _stepped(model, kernel, tokens[None]))
    if found:
        raise ValueError(found["reason"])


def _own(kernels: Iterable[Kernel]) -> Kernel | None:
    """The first that is not the catalogue's."""
    return next((kernel for kernel in kernels if not trust.is_ours(kernel)), None)


def _held(model: nnx.Module, kernel: Kernel, batch: Examples, other: Examples, is_learned: bool) -> None:
    said, _ = _said(model, batch, is_learned)
    if isinstance(model, LanguageModel) and model.stack.is_causal:
        _past_is_past(model, kernel, batch, other, said, is_learned)
    _as_its_equation(model, kernel, batch, said, is_learned)
    if is_learned:
        _slopes(_precise(model), batch)


def _past_is_past(model, kernel: Kernel, batch: Examples, other: Examples, said: np.ndarray, is_learned: bool) -> None:
    def after(cut: np.ndarray) -> np.ndarray:
        inputs = np.where(futures.is_later(batch.inputs.shape, cut), other.inputs, batch.inputs)
        return _said(model, batch._replace(inputs=inputs), is_learned)[0]

    subject, cuts = Subject("the_future_cannot_touch_the_past", kernel), futures.drawn(said.shape[1], len(said))
    futures.untouched(subject, said, after, cuts, trust.rounding(_dtype(model)))


def _as_its_equation(model, kernel: Kernel, batch: Examples, said: np.ndarray, is_learned: bool) -> None:
    """What is said of as many examples as there is room for; of all, where each has dropout of its own."""
    heads, length = max(layer.num_heads for layer in _layers(model)), batch.inputs.shape[-1]
    count = min(len(said), PAIRS // (heads * length**2))
    if not count or (is_learned and count < len(said)):
        return
    twin = nnx.clone(model)
    for layer in _layers(twin, is_own=True):
        layer.attention_kernel = _by_equation(layer.attention_kernel)
    few = Examples(*(None if x is None else x[:count] for x in batch))
    what = f"what a model says of {length:,} tokens, beside the same by `head`,"
    _alike(Subject("batched_equals_head", kernel), said[:count], steps.tested(twin, few)[0], _dtype(model), what)


def _slopes(model: nnx.Module, batch: Examples) -> None:
    """Gradients by what the first layer of each kernel of one's own has learned; the model is left as it was."""
    gradients = _said(model, batch, is_learned=True)[1]
    for layer in {layer.attention_kernel: layer for layer in reversed(_layers(model, is_own=True))}.values():
        path = next(path for path, node in nnx.iter_graph(model) if node is layer)
        learned = steps.copied(layer, nnx.Param)
        of_layer = functools.reduce(lambda tree, name: tree[name], path, gradients)

        def along(points: list, layer=layer, learned=learned) -> np.ndarray:
            moved = jax.tree.map(np.asarray, points)  # what is placed on a device would have a program of its own
            nnx.update(layer, nnx.State(dict(zip(learned, moved, strict=True))))
            return _said(model, batch, is_learned=True)[0]

        points = {f"{name} of {'.'.join(map(str, path))}": x for name, x in learned.items()}
        subject = Subject("gradients_are_slopes", layer.attention_kernel)
        try:
            asked.hold_slopes(subject, along, points, [of_layer[name] for name in learned], "float32")
        finally:
            nnx.update(layer, learned)


def _precise(model: nnx.Module) -> nnx.Module:
    """A model that calculates in float32, since differences of rounder numbers tell no slope: itself, if it does."""
    if _dtype(model) == "float32":
        return model
    twin = nnx.clone(model)
    for _, node in nnx.iter_graph(twin):
        if getattr(node, "dtype", None) == _dtype(model):
            node.dtype = jnp.float32
    return twin


def _stepped(model: LanguageModel, kernel: Kernel, tokens: np.ndarray) -> None:
    """Logits of tokens [1, T] one after another, beside those of all at once."""
    model.eval()
    said = nnx.jit(lambda model: model(tokens))(model)
    by_steps = nnx.clone(model)
    by_steps.init_cache(*tokens.shape)
    step = nnx.jit(lambda model, token: model.step(token))
    each = np.concatenate([step(by_steps, token[None]) for token in tokens.T], axis=1)
    what = f"what a model says of {tokens.shape[1]:,} tokens, step by step, beside the same at once,"
    _alike(Subject("stepping_equals_the_whole", kernel), each, said, _dtype(model), what)


def _alike(subject: Subject, got: np.ndarray, expected: np.ndarray, dtype: str, what: str) -> None:
    """Hold what is said to be the same, but for a share of what makes answers differ."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    norm = np.linalg.norm
    deviation = float(norm(got - expected) / max(norm(expected - expected.mean()), ALIKE * norm(expected), 1e-30))
    if not deviation <= (allowed := DEVIATION + trust.rounding(dtype)):
        raise subject.broken(f"{what} is off by {deviation:.3g} of its spread, allowed {allowed:.3g}", deviation)


def _said(model, batch: Examples, is_learned: bool) -> tuple[np.ndarray, nnx.State | None]:
    """Bits of each target, of the same dropout in each call, and gradients of their sum where it learns."""
    before = steps.copied(model)
    found, gradients = steps.differentiated(model, batch) if is_learned else (steps.tested(model, batch)[0], None)
    nnx.update(model, before)
    return np.asarray(found, np.float64), gradients


def _layers(model: nnx.Module, is_own: bool = False) -> list[MultiHeadAttention]:
    """Layers of attention; or those with a kernel of one's own."""
    found = [node for _, node in nnx.iter_graph(model) if isinstance(node, MultiHeadAttention)]
    return [layer for layer in found if not is_own or not trust.is_ours(layer.attention_kernel)]


def _dtype(model: nnx.Module) -> str:
    return jnp.dtype(_layers(model)[0].dtype or jnp.float32).name


@functools.lru_cache
def _by_equation(kernel: Kernel) -> Kernel:
    """A kernel without its fast route."""
    twin = copy.copy(kernel)
    object.__setattr__(twin, "__class__", type(type(kernel).__name__, (type(kernel),), {"batched": Kernel.batched}))
    return twin
