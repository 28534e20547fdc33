"""What a kernel is told: the sizes of a call, and where an example stands."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax

Tree = Any


class Dims(NamedTuple):
    """The sizes that a kernel's parameters and draws depend on.

    Attributes:
      batch: B, examples.
      query_length: T.
      key_length: S.
      num_heads: N, of queries.
      num_key_value_heads: K, which divides N.
      head_dim: H, of queries and keys.
      value_dim: Hv.

    Example:
      >>> Dims.of(query=jnp.ones((1, 4, 2, 8)), key=jnp.ones((1, 6, 1, 8)), value=jnp.ones((1, 6, 1, 3)))
      Dims(batch=1, query_length=4, key_length=6, num_heads=2, num_key_value_heads=1, head_dim=8, value_dim=3)
    """

    batch: int
    query_length: int
    key_length: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    value_dim: int

    @staticmethod
    def of(query: jax.Array, key: jax.Array, value: jax.Array) -> Dims:
        """The sizes of query [*batch, T, N, H], key [*batch, S, K, H] and value [*batch, S, K, Hv]."""
        (length, num_heads, _), (key_length, kv_heads, head_dim) = query.shape[-3:], key.shape[-3:]
        return Dims(math.prod(query.shape[:-3]), length, key_length, num_heads, kv_heads, head_dim, value.shape[-1])


class Positions(NamedTuple):
    """Where one example stands, for a kernel whose pattern counts positions.

    Attributes:
      is_causal: whether the future is hidden.
      query_offset: query i stands at key position i + query_offset (traced in decoding, where examples differ).
      key_length: keys up to and with the last that is not padding (a scalar, traced where lengths are).
      key_places: int [S], how many keys of its own segment stand before each key; None where a `step` of one's own does
        not say.

    Example:
      >>> import dataclasses
      >>> @dataclasses.dataclass(frozen=True)
      ... class Nearness(Kernel):
      ...     supports = Support(causal=True, positions=True)
      ...
      ...     def head(self, params, draws, q, k, v, visible, *, positions):
      ...         i, j = jnp.arange(len(q)) + positions.query_offset, jnp.arange(len(k))
      ...         return (0.5 ** jnp.abs(i[:, None] - j[None]) * visible) @ v
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> attend(q, k, v, kernel=Nearness(), is_causal=True)[0, :, 0, 0].tolist()
      [1.0, 1.5, 1.75, 1.875]
    """

    is_causal: bool
    query_offset: int | jax.Array
    key_length: int | jax.Array
    key_places: jax.Array | None = None
