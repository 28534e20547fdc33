"""ALiBi: attention with linear biases, a penalty that grows with distance, at another rate for each head.

    b_ij = -m_n |i - j|,    m_n = 2^(-8 n / N) for heads n = 1..N

Nothing is learned. Press, Smith and Lewis 2022, arXiv:2108.12409. Where N is no power of two, the slopes are those of
the authors' code, which released checkpoints have: of the next smaller power of two P, followed by every other one of
2 P. The paper's models are causal; looking both ways, |i - j| is symmetric.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.bias import PositionBias
from attnzoo.contract.fields import is_integer
from attnzoo.positions.encoding import RelativeEncoding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearBias(PositionBias):
    """-slope |i - j|.

    Attributes:
      slopes: float [N].

    Example:
      >>> q = k = jnp.ones((1, 4, 2, 8))
      >>> weights = attention_weights(q, k, LinearBias(jnp.array([0.0, 200.0])))
      >>> weights[0, :, 2].tolist()  # of query 2, by head
      [[0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0]]
    """

    slopes: jax.Array

    def __call__(self, query_positions, key_positions):
        distance = jnp.abs(query_positions[:, None] - key_positions[None, :])
        return -self.slopes * distance.astype(self.slopes.dtype)


@dataclasses.dataclass(frozen=True)
class ALiBi(RelativeEncoding):
    """Linear biases with the paper's slopes, as a choice for layers and models; `ALiBi.of(N)` is the bias itself.

    Example:
      >>> q = k = v = jnp.ones((1, 16, 8, 4))
      >>> attend(q, k, v, ALiBi.of(num_heads=8)).shape
      (1, 16, 8, 4)
    """

    @staticmethod
    def of(num_heads: int) -> LinearBias:
        """The bias of `num_heads` heads."""
        return LinearBias(jnp.asarray(slopes(num_heads), float))

    def bias(self, params, num_heads):
        return self.of(num_heads)


def slopes(num_heads: int) -> np.ndarray:
    """A slope for each head, [N]."""
    if not is_integer(num_heads) or num_heads < 1:
        raise ValueError(f"num_heads={num_heads!r}: expected an integer >= 1")
    power = 1 << (int(num_heads).bit_length() - 1)
    return np.concatenate([_geometric(power), _geometric(2 * power)[::2][: num_heads - power]])


def _geometric(count: int) -> np.ndarray:
    return 2.0 ** (-8.0 * np.arange(1, count + 1) / count)
