"""Linear attention: softmax replaced by a kernel with a finite feature map.

    y_i = sum_j phi(q_i) . phi(k_j) v_j / (sum_j phi(q_i) . phi(k_j) + epsilon)

over the keys that query i may see, with phi(x) = elu(x) + 1, or relu(x). Cost O((T + S) H Hv), state O(H Hv) for each
key head. Katharopoulos et al. 2020, arXiv:2006.16236, eq. 4-7. There is no 1 / sqrt(H).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from attnzoo.contract import fields
from attnzoo.engines import recurrence, state
from attnzoo.engines.state import Channels, Write
from attnzoo.recurrent import SUMMED, Recurrent


def _elu_plus_one(x):
    # As e^x where x < 0; e^x - 1 + 1 would take twice as long, and round twice.
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.minimum(x, 0)))


FEATURE_MAPS = {"elu+1": _elu_plus_one, "relu": jax.nn.relu}


@dataclasses.dataclass(frozen=True)
class Linear(Recurrent):
    """A finite feature map in place of the exponential, so that keys are summed.

    `epsilon` keeps the normaliser from zero.

    Attributes:
      feature_map: "elu+1" or "relu".
      epsilon: added to the sum of weights.

    Raises:
      ValueError: there is no such feature map; `epsilon` is no finite number > 0.

    Example:
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> dims = Dims.of(q, k, v)
      >>> Linear().state_bytes(dims), Linear().state_bytes(dims._replace(key_length=4096))  # 4 N (H Hv + H)
      (576.0, 576.0)
      >>> bool(jnp.allclose(attend(q, k, v, kernel=Linear(), is_causal=True), v))  # a mean of equal values
      True
    """

    feature_map: str = "elu+1"
    epsilon: float = 1e-6

    supports = dataclasses.replace(SUMMED, why=f"{SUMMED.why}, and its similarity is the feature map's")

    def __post_init__(self):
        fields.one_of(self, "feature_map", tuple(FEATURE_MAPS))
        fields.positive_number(self, "epsilon")

    def head(self, params, draws, q, k, v, visible):
        phi = FEATURE_MAPS[self.feature_map]
        precise = jnp.promote_types(q.dtype, jnp.float32)
        similarity = phi(q.astype(precise)) @ phi(k.astype(precise)).T * visible
        return (similarity @ v.astype(precise) / (similarity.sum(-1, keepdims=True) + self.epsilon)).astype(v.dtype)

    def rule(self, params, draws, scale):
        phi = FEATURE_MAPS[self.feature_map]
        return recurrence.Rule(
            read=lambda q, at: (phi(q),),
            write=lambda k, v, at: Write(state.counted(v), (Channels(phi(k)),)),
            finish=functools.partial(state.normalised, epsilon=self.epsilon),
        )
