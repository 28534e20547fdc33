"""What each head of a model does with a text: its map, and numbers about it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from attnzoo.models import LanguageModel
from experiments.show.units import Shown


class Head(NamedTuple):
    """One head of one layer.

    Attributes:
      layer: its number.
      head: its number in the layer.
      kernel: repr of the layer's kernel.
      weights: [T, T], what each query (row) takes of each value.
      entropy: mean over queries, in bits, of its weights as probabilities.
      distance: mean over queries of how far away it looks, in tokens.
      negative: the share of the weights' absolute sum that is below zero, which some approximations have.
    """

    layer: int
    head: int
    kernel: str
    weights: np.ndarray
    entropy: float
    distance: float
    negative: float


def look(model: LanguageModel, tokens: np.ndarray) -> list[Head]:
    """Every head of every layer on tokens [T]."""
    model.eval()
    _, sown = nnx.capture(model, nnx.Intermediate)(tokens[None], sow_weights=True)
    heads = []
    for layer, (block, weights) in enumerate(zip(model.stack.blocks, jax.tree.leaves(sown), strict=True)):
        for number, found in enumerate(np.asarray(weights[0], np.float64)):
            heads.append(Head(layer, number, repr(block.attention.attention_kernel), found, *_numbers(found)))
    return heads


def _numbers(weights: np.ndarray) -> tuple[float, float, float]:
    """Entropy in bits, mean distance and negative share of one map; what is negative has no probability."""
    total = np.abs(weights).sum()
    negative = float(np.abs(weights[weights < 0]).sum() / total) if total else 0.0
    shares = np.maximum(weights, 0)
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    places = np.arange(len(weights))
    distance = (shares * np.abs(places[:, None] - places)).sum(axis=1)
    return float(-(shares * logs).sum(axis=1).mean()), float(distance.mean()), negative


def table(heads: list[Head]) -> tuple[list[str], list[list[str]]]:
    """Header and lines, a line for each head."""
    header = ["kernel", "layer", "head", "entropy, bits", "mean distance, tokens", "negative"]
    lines = [
        [
            head.kernel,
            Shown(str(head.layer), head.layer),
            Shown(str(head.head), head.head),
            Shown(f"{head.entropy:.2f}", head.entropy),
            Shown(f"{head.distance:.1f}", head.distance),
            Shown(f"{head.negative:.1%}", head.negative),
        ]
        for head in heads
    ]
    return header, lines
