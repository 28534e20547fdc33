"""Scores that are scaled products of queries and keys, told as such, so that a kernel of a device can compute them.

s_ij = soft_cap tanh(scale q_i . k_j / soft_cap) + of_query_i + of_key_j
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import jax


class Terms(NamedTuple):
    """What the scores of all heads are made of, in float32 at least; None for what is not there."""

    scale: jax.Array  # [B or 1, N or 1]
    soft_cap: jax.Array | None = None  # [B or 1, N or 1]
    of_query: jax.Array | None = None  # [B or 1, N, T]
    of_key: jax.Array | None = None  # [B or 1, N, S]


class ProductScore(abc.ABC):
    """A score of one head, as `streaming.part` takes it, that can also say what it is made of."""

    @abc.abstractmethod
    def __call__(self, params: Any, q: jax.Array, k: jax.Array, dtype: Any) -> jax.Array:
        """[t, H], [s, H] -> [t, s]."""

    @abc.abstractmethod
    def terms(self, params: Any, q: jax.Array, k: jax.Array) -> Terms:
        """The same of all heads, q [B, T, N, H], k [B, S, K, H] and parameters that lead with [B or 1, N or 1]."""
