"""What a kernel is told: the sizes of a call, and where an example stands."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

Tree = Any


class Dims(NamedTuple):
    """The sizes that a kernel's parameters and draws depend on."""

    batch: int
    query_length: int
    key_length: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    value_dim: int

    @staticmethod
    def of(query: jax.Array, key: jax.Array, value: jax.Array) -> Dims:
        """The sizes of query [B, T, N, H], key [B, S, K, H] and value [B, S, K, Hv]."""
        batch, query_length, num_heads, head_dim = query.shape
        return Dims(batch, query_length, key.shape[1], num_heads, key.shape[2], head_dim, value.shape[3])


class Positions(NamedTuple):
    """Where one example stands, for a kernel whose pattern counts positions.

    Attributes:
      is_causal: whether the future is hidden.
      query_offset: query i stands at key position i + query_offset (traced in decoding, where examples differ).
      key_length: keys up to and with the last that is not padding (a scalar, traced where lengths are).
    """

    is_causal: bool
    query_offset: int | jax.Array
    key_length: int | jax.Array
