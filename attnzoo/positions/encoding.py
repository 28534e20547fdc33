"""How a model is told where its tokens stand, as a value: chosen here, learned in the tree from `init`.

Absolute encodings are added to what enters a model; relative ones belong to attention, and are what its layers take.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from attnzoo.contract.bias import PositionBias

if TYPE_CHECKING:
    from attnzoo.contract.sizes import Dims

Tree = Any


@dataclasses.dataclass(frozen=True)
class PositionEncoding:
    """A choice of positions; subclass `AbsoluteEncoding` or `RelativeEncoding`.

    Example:
      >>> [type(x).__name__ for x in parse_positions("sinusoidal, rotary, alibi") if isinstance(x, PositionEncoding)]
      ['SinusoidalPositions', 'Rotary', 'ALiBi']
    """


@dataclasses.dataclass(frozen=True)
class AbsoluteEncoding(PositionEncoding):
    """A vector for each position, added to the embeddings of tokens.

    Example:
      >>> import dataclasses
      >>> from attnzoo.positions import AbsoluteEncoding
      >>> @dataclasses.dataclass(frozen=True)
      ... class Parity(AbsoluteEncoding):
      ...     def vectors(self, params, positions, width):
      ...         return jnp.repeat(positions[..., None] % 2, width, axis=-1).astype(float)
      >>> Parity().vectors(Parity().init(jax.random.key(0), 4, 2), jnp.arange(4), 2).tolist()
      [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    """

    def init(self, rng: jax.Array, max_length: int, width: int) -> Tree:
        """What is learned, () when there is nothing."""
        return ()

    def vectors(self, params: Tree, positions: np.ndarray | jax.Array, width: int) -> jax.Array:
        """Positions, int [..., T] -> [..., T, width]."""
        raise NotImplementedError(f"{type(self).__name__} defines no `vectors`: return one for each position there")


@dataclasses.dataclass(frozen=True)
class RelativeEncoding(PositionEncoding):
    """Positions that attention itself counts: queries and keys are rotated by them, or scores get a bias, or both.

    Example:
      >>> import dataclasses
      >>> from attnzoo.positions import RelativeEncoding
      >>> @dataclasses.dataclass(frozen=True)
      ... class Steep(RelativeEncoding):
      ...     def bias(self, params, num_heads):
      ...         return LinearBias(jnp.full(num_heads, 200.0))
      >>> q = k = jnp.ones((1, 4, 2, 8))
      >>> attention_weights(q, k, Steep().bias((), num_heads=2))[0, 0, 2].tolist()
      [0.0, 0.0, 1.0, 0.0]
      >>> Steep().is_biased(Dims(1, 4, 4, 2, 2, 8, 8))
      True
    """

    def init(self, rng: jax.Array, dims: Dims) -> Tree:
        """What is learned, () when there is nothing. Leaves lead with an axis of `num_heads`, or of 1."""
        return ()

    def rotate(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Queries or keys [..., T, N, H] that stand at `positions` int [..., T]."""
        return x

    def bias(self, params: Tree, num_heads: int) -> PositionBias | None:
        """The bias of scores, None where there is none."""
        return None

    def is_biased(self, dims: Dims) -> bool:
        """Whether scores get a bias; nothing is made to find out."""
        made = jax.eval_shape(lambda: self.bias(self.init(jax.random.key(0), dims), dims.num_heads))
        return made is not None


@dataclasses.dataclass(frozen=True)
class NoPositions(RelativeEncoding):
    """Attention that does not know where tokens stand, but for what its mask tells.

    Example:
      >>> q = jnp.ones((1, 4, 2, 8))
      >>> NoPositions().rotate(q, jnp.arange(4)) is q, NoPositions().bias((), num_heads=2) is None
      (True, True)
    """
