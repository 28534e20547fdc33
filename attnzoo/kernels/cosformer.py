"""cosFormer: linear attention whose weights fade with the distance, by a cosine that splits into sums.

    y_i = sum_j w_ij v_j / (sum_j w_ij + epsilon),    w_ij = (relu(q_i) . relu(k_j)) cos(pi (i - j) / 2 M)
    cos(a - b) = cos a cos b + sin a sin b

over the keys j that query i may see, i counted from `query_offset`, M = `max_length`. Cost O((T + S) H Hv), state
2 H (Hv + 1) for each key head. Qin et al. 2022, arXiv:2202.08791. At a distance of M the cosine is 0, and
negative beyond: longer sequences are refused, but for offsets that are traced. Their code takes the length of each
call for M, by which padding would change outputs. With M far beyond the length it is `Linear("relu")`.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from attnzoo.contract import fields
from attnzoo.contract.fields import is_integer
from attnzoo.engines import recurrence, state
from attnzoo.engines.state import Channels, Write
from attnzoo.recurrent import SUMMED, Recurrent


@dataclasses.dataclass(frozen=True)
class CosFormer(Recurrent):
    """Linear attention over rectified features, with a cosine of the distance.

    Attributes:
      max_length: M, the length of the longest sequence; as near to it as can be, or nothing fades.
      epsilon: added to the sum of weights.

    Raises:
      ValueError: a field has the wrong type, or is too small; a sequence is longer than `max_length`, which ends
        what a state of decoding has room for, too.

    Example:
      >>> q = k = jnp.ones((1, 3, 2, 8))
      >>> attention_weights(q, k, kernel=CosFormer(max_length=3), is_causal=True)[0, 0, 2].round(2)
      Array([0.21, 0.37, 0.42], dtype=float32)
    """

    max_length: int = 4096
    epsilon: float = 1e-6

    supports = dataclasses.replace(
        SUMMED, positions=True, why=f"{SUMMED.why}, and its similarity is that of rectified features"
    )

    def __post_init__(self):
        fields.positive_integer(self, "max_length")
        fields.positive_number(self, "epsilon")

    @property
    def longest(self):
        return self.max_length

    def head(self, params, draws, q, k, v, visible, *, positions):
        q, k, values = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (q, k, v))
        distance = jnp.arange(len(q))[:, None] + positions.query_offset - jnp.arange(len(k))[None]
        similarity = jax.nn.relu(q) @ jax.nn.relu(k).T * jnp.cos(self._angle(distance, q.dtype)) * visible
        return (similarity @ values / (similarity.sum(-1, keepdims=True) + self.epsilon)).astype(v.dtype)

    def batched(self, params, draws, q, k, v, call):
        first, shards = call.mask.query_offset if is_integer(call.mask.query_offset) else 0, call.shards
        lengths = (shards.query_length, shards.key_length) if shards else (q.shape[1], k.shape[1])
        self._fits(max(first + lengths[0], lengths[1]) - min(first, 0))
        return super().batched(params, draws, q, k, v, call)

    def rule(self, params, draws, scale):
        def features(x, at):
            angle = self._angle(at, x.dtype)[:, None]
            return jax.nn.relu(x) * jnp.cos(angle), jax.nn.relu(x) * jnp.sin(angle)

        return recurrence.Rule(
            read=features,
            write=lambda k, v, at: Write(state.counted(v), tuple(map(Channels, features(k, at)))),
            finish=functools.partial(state.normalised, epsilon=self.epsilon),
        )

    def _angle(self, distance, dtype):
        return distance.astype(dtype) * (math.pi / 2 / self.max_length)

    def _fits(self, length):
        if length > self.max_length:
            raise ValueError(
                f"CosFormer(max_length={self.max_length}) came to {length} tokens, where its weights would turn "
                f"negative: expected at most max_length; pass CosFormer(max_length={length}) or more"
            )
