"""Rotary positions (RoPE): queries and keys are turned by their position, and scores see the difference alone.

    (x_a, x_b) -> (x_a cos(t w_i) - x_b sin(t w_i), x_a sin(t w_i) + x_b cos(t w_i)),    w_i = base^(-2i / width)

for pairs i = 0 .. width / 2 - 1 of coordinates, so that <R_t q, R_s k> = <q, R_{s-t} k>. Su et al. 2021,
arXiv:2104.09864, eq. 15 and 34. Two orders of the pairs are in use, and a checkpoint knows one: `interleaved` has
(a, b) = (2i, 2i + 1), as the paper and GPT-J; `half` has (i, i + width / 2), as GPT-NeoX and Llama.

A kernel with a feature map (linear attention) receives rotated queries and keys before the map, and so sees more than
differences; the paper turns the features themselves in that case.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract import fields
from attnzoo.positions.encoding import RelativeEncoding

PAIRINGS = ("interleaved", "half")


def rotate(
    x: jax.Array,
    positions: np.ndarray | jax.Array,
    *,
    pairing: str = "interleaved",
    base: float = 10000.0,
    width: int | None = None,
) -> jax.Array:
    """Turn queries or keys by their positions. Angles are float32 at least, whatever the dtype of x.

    Args:
      x: [..., T, N, H].
      positions: int [T], or [..., T] with the leading axes of x; may be traced.
      pairing: which coordinates make a pair, "interleaved" or "half".
      base: the slowest pair turns once in nearly 2 pi base positions.
      width: even; the first coordinates of a head that are turned, all where None. The others stay.

    Returns:
      Shape and dtype of x.

    Raises:
      ValueError: an argument has the wrong type, shape or value.

    Example:
      >>> q = jnp.ones((2, 16, 4, 8))
      >>> rotate(q, jnp.arange(16), pairing="half").shape
      (2, 16, 4, 8)
    """
    x, positions = jnp.asarray(x), integers(positions)
    if x.ndim < 3 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x is {x.dtype}{list(x.shape)}: expected floating-point [..., length, heads, head_dim]")
    if positions.shape not in ((x.shape[-3],), x.shape[:-2]):
        raise ValueError(
            f"positions have shape {positions.shape}: expected one for each token of x, [{x.shape[-3]}] or "
            f"{list(x.shape[:-2])}"
        )
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing={pairing!r}: expected one of {', '.join(map(repr, PAIRINGS))}")
    width = x.shape[-1] if width is None else width
    turned = angles(positions, width, base, jnp.promote_types(x.dtype, jnp.float32))[..., None, :]
    turned = jnp.expand_dims(turned, range(x.ndim - turned.ndim))
    if width > x.shape[-1]:
        raise ValueError(f"width={width}: expected at most the head dim of x, {x.shape[-1]}")
    axis = -1 if pairing == "interleaved" else -2
    pairs = x[..., :width].reshape(*x.shape[:-1], *((-1, 2) if axis == -1 else (2, -1)))
    a, b = (jnp.take(pairs, side, axis=axis).astype(turned.dtype) for side in (0, 1))
    cos, sin = jnp.cos(turned), jnp.sin(turned)
    pairs = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=axis)
    rotated = pairs.reshape(*x.shape[:-1], width).astype(x.dtype)
    return rotated if width == x.shape[-1] else jnp.concatenate([rotated, x[..., width:]], axis=-1)


def angles(positions: np.ndarray | jax.Array, width: int, base: float, dtype=jnp.float32) -> jax.Array:
    """positions / base^(2i / width): [...] -> [..., width / 2]."""
    if not fields.is_integer(width) or width < 2 or width % 2:
        raise ValueError(f"width={width!r}: expected an even integer >= 2, as coordinates are taken in pairs")
    if not fields.is_number(base) or not 0 < base < np.inf:
        raise ValueError(f"base={base!r}: expected a finite number > 0; the papers have 10000")
    frequencies = float(base) ** (-np.arange(0, width, 2) / width)
    return jnp.multiply.outer(jnp.asarray(positions, dtype), jnp.asarray(frequencies, dtype))


def integers(positions) -> np.ndarray | jax.Array:
    """Positions as an array; refuse what is not integers. What is no jax array stays on the host."""
    positions = positions if isinstance(positions, jax.Array) else np.asarray(positions)
    if not jnp.issubdtype(positions.dtype, jnp.integer):
        raise ValueError(f"positions have dtype {positions.dtype}: expected integers, such as jnp.arange(length)")
    return positions


@dataclasses.dataclass(frozen=True)
class Rotary(RelativeEncoding):
    """`rotate` of queries and keys, as a choice for layers and models.

    Attributes:
      pairing: which coordinates make a pair, "interleaved" or "half".
      base: the slowest pair turns once in nearly 2 pi base positions.
      width: even; the first coordinates of a head that are turned, all where None.

    Raises:
      ValueError: a field has the wrong type or value.

    Example:
      >>> Rotary(pairing="half", base=500000.0).rotate(jnp.ones((2, 16, 4, 8)), jnp.arange(16)).shape
      (2, 16, 4, 8)
    """

    pairing: str = "interleaved"
    base: float = 10000.0
    width: int | None = None

    def __post_init__(self):
        fields.one_of(self, "pairing", PAIRINGS)
        fields.positive_number(self, "base")
        if self.width is not None:
            fields.positive_integer(self, "width")
            if self.width % 2:
                raise ValueError(f"Rotary(width={self.width}): width must be even, as coordinates are taken in pairs")

    def rotate(self, x, positions):
        return rotate(x, positions, pairing=self.pairing, base=self.base, width=self.width)
