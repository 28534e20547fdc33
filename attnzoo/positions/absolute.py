"""Absolute positions: a vector for each, added to the embedding of the token that stands there.

    sinusoidal    p_{t, 2i} = sin(t / base^(2i / width)),    p_{t, 2i+1} = cos(t / base^(2i / width))
    learned       p_t = table_t

Vaswani et al. 2017, arXiv:1706.03762, section 3.5, where base is 10000; learned positions are of Gehring et al. 2017,
arXiv:1705.03122.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from attnzoo.contract import fields
from attnzoo.positions.encoding import AbsoluteEncoding
from attnzoo.positions.rotary import angles, integers


def sinusoidal(positions: np.ndarray | jax.Array, width: int, *, base: float = 10000.0) -> jax.Array:
    """Sines and cosines of positions, side by side for each frequency.

    Args:
      positions: int [...], any shape; may be traced.
      width: of the vectors, even.
      base: the longest wave is 2 pi base long, nearly.

    Returns:
      float32 [..., width].

    Raises:
      ValueError: positions are no integers, `width` is not even, or `base` is no number > 0.

    Example:
      >>> sinusoidal(jnp.arange(16), 8).shape
      (16, 8)
    """
    turned = angles(integers(positions), width, base)
    return jnp.stack([jnp.sin(turned), jnp.cos(turned)], axis=-1).reshape(*turned.shape[:-1], width)


@dataclasses.dataclass(frozen=True)
class SinusoidalPositions(AbsoluteEncoding):
    """`sinusoidal` times `scale`.

    The paper has 1, beside embeddings of about that size in each coordinate; 0.02 is where those of
    `attnzoo.models` start.

    Raises:
      ValueError: `base` or `scale` is no finite number > 0.

    Example:
      >>> SinusoidalPositions(scale=1.0).vectors((), jnp.arange(16), 8)[0].tolist()
      [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    """

    base: float = 10000.0
    scale: float = 0.02

    def __post_init__(self):
        fields.positive_number(self, "base")
        fields.positive_number(self, "scale")

    def vectors(self, params, positions, width):
        return self.scale * sinusoidal(positions, width, base=self.base)


@dataclasses.dataclass(frozen=True)
class LearnedPositions(AbsoluteEncoding):
    """A table [max_length, width]. Positions beyond its end are refused, or give NaN in an array of jax.

    Example:
      >>> table = LearnedPositions().init(jax.random.key(0), max_length=4, width=8)
      >>> LearnedPositions().vectors(table, jnp.arange(4), 8).shape
      (4, 8)
      >>> LearnedPositions().vectors(table, [4], 8)
      Traceback (most recent call last):
      ValueError: positions range from 4 to 4: expected those of the learned table, 0..3; ...
    """

    def init(self, rng, max_length, width):
        return jax.nn.initializers.normal(0.02)(rng, (max_length, width))

    def vectors(self, params, positions, width):
        positions, length = integers(positions), len(params)
        if isinstance(positions, np.ndarray):
            if positions.size and not 0 <= positions.min() <= positions.max() < length:
                raise ValueError(
                    f"positions range from {positions.min()} to {positions.max()}: expected those of the learned "
                    f"table, 0..{length - 1}; build the model for a longer `max_length`"
                )
            return params[positions]
        inside = (positions >= 0) & (positions < length)
        return jnp.where(inside[..., None], _rows(params, positions), jnp.nan)


def _rows(table: jax.Array, index: jax.Array) -> jax.Array:
    """table[index], split as the index is, where a type tells."""
    split = jax.typeof(index).sharding
    is_told = AxisType.Explicit in split.mesh.axis_types
    as_index = NamedSharding(split.mesh, PartitionSpec(*split.spec, None)) if is_told else None
    return table.at[index].get(out_sharding=as_index)
