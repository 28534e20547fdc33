"""Queries, keys and values: normal numbers, or those of a trained model on text it has not seen."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnzoo import Dims
from attnzoo.models import LanguageModel
from attnzoo.models.blocks import configs_of, of_model
from attnzoo.positions import RelativeEncoding
from experiments.approximation import dials
from experiments.tasks import text
from experiments.train import checkpoints, language

# Fields of blocks that stand between projections and attention, or add to it.
BETWEEN = ("normalize_qk", "conv_width", "qkv_activation", "sinks", "soft_cap")


class Layer(NamedTuple):
    """What one layer attends with: query [B, T, N, H], key and value [B, T, K, H], as kernels meet them."""

    query: jax.Array
    key: jax.Array
    value: jax.Array


@dataclasses.dataclass(frozen=True)
class Random:
    """Standard normal numbers; queries and keys over the root of `temperature`, by which scores are so divided."""

    temperature: float
    dims: Dims
    is_causal: bool
    seed: int

    @property
    def name(self) -> str:
        return f"random-t{self.temperature:g}"

    def told(self) -> dict:
        """What rows say of their operands."""
        return _told(self) | {"temperature": self.temperature, "model": None, "corpus": None, "layers": 1}

    def layers(self) -> list[Layer]:
        """One."""
        batch, length, _, heads, _, width, _ = self.dims
        keys = jax.random.split(jax.random.key(self.seed), 3)
        query, key, value = (jax.random.normal(rng, (batch, length, heads, width)) for rng in keys)
        return [Layer(query / self.temperature**0.5, key / self.temperature**0.5, value)]


@dataclasses.dataclass(frozen=True)
class Trained:
    """Those of every layer of the softmax model at `folder`, which reads windows of the test split.

    Raises:
      ValueError: it reads no bytes, or its attention is more than softmax of queries and keys.
    """

    folder: pathlib.Path
    described: language.Description
    texts: int
    length: int
    seed: int

    name = "trained"

    def __post_init__(self):
        reason = _unsuitable(self.described)
        if reason:
            raise ValueError(f"--checkpoint={self.folder} is of a model {reason}")

    @property
    def dims(self) -> Dims:
        return of_model(self.described.config).dims(self.texts, min(self.length, self.described.max_length))

    @property
    def is_causal(self) -> bool:
        return self.described.is_causal

    def told(self) -> dict:
        """What rows say of their operands. A model is known by a hash over those of its arrays."""
        hashed = hashlib.sha256((self.folder / checkpoints.ABOUT).read_bytes()).hexdigest()[:8]
        model = {"model": f"{self.folder.name} {hashed}", "corpus": text.load().digest}
        return _told(self) | {"temperature": None, "layers": self.described.num_layers} | model

    def layers(self) -> list[Layer]:
        """All."""
        _, model = language.load(self.folder)
        model.eval()
        return captured(model, text.windows(text.load(), "test", self.seed, 0, self.texts, self.dims.query_length))


def trained(folder: pathlib.Path, texts: int, length: int, seed: int) -> Trained:
    """Operands of the checkpoint at `folder`."""
    return Trained(folder, language.read(checkpoints.about(folder)), texts, length, seed)


def captured(model: LanguageModel, tokens) -> list[Layer]:
    """What each layer of a model attends with on tokens [B, T], float32, rotated where its positions rotate."""
    x, found = model.embedding(tokens), []
    for block in model.stack.blocks:
        given = block.attention_norm(x) if block.config.norm != "after" else x
        layer, places = block.attention, jnp.arange(tokens.shape[1])
        turned = [layer.position_encoding.rotate(part(given), places) for part in (layer.query, layer.key)]
        found.append(Layer(*(part.astype(jnp.float32) for part in (*turned, layer.value(given)))))
        x = block(x, is_causal=model.stack.is_causal)
    return found


def _told(source: Random | Trained) -> dict:
    batch, length, _, heads, _, head_dim, _ = source.dims
    sizes = {"batch": batch, "length": length, "heads": heads, "head_dim": head_dim}
    return sizes | {"operands": source.name, "is_causal": source.is_causal, "seed": source.seed}


def _unsuitable(described: language.Description) -> str | None:
    """Why a model's queries, keys and values are not all that its attention is, or None."""
    others = [repr(kernel) for kernel in described.attention if kernel != dials.EXACT]
    if others:
        return f"that attends by {others[0]}: expected softmax, which errors are measured against; name a softmax model"
    if described.vocabulary != text.VOCABULARY:
        return f"with {described.vocabulary} tokens: expected one of bytes, {text.VOCABULARY}, since it is to read text"
    for config in configs_of(described.config, described.num_layers):
        for name in BETWEEN:
            if getattr(config, name):
                return (
                    f"with {name}={getattr(config, name)!r}: expected one in which projected queries, keys and values "
                    "are those that attention meets, and nothing else is"
                )
    positions = described.positions
    if isinstance(positions, RelativeEncoding) and positions.is_biased(of_model(described.config).dims(1, 1)):
        return (
            f"with {positions!r}, which adds to scores: expected positions that leave them to queries and "
            "keys, such as learned or rotary ones, since not all approximations take a bias"
        )
    return None
