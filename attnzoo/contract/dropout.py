"""Dropout on attention weights, as a pure function of seed, head, query and key.

Whether a weight is dropped depends on its position alone, so that the answer is the same for every tile size
and in the backward pass, and no [T, S] array of random bits is ever kept.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo.contract import randomness


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropout:
    """A fraction `rate` of the weights is dropped, the rest scaled by 1 / (1 - rate).

    Attributes:
      rate: in (0, 1).
      seeds: uint32 [B or 1, N or 1, 2], or [2] for one head.
    """

    rate: float = dataclasses.field(metadata={"static": True})
    seeds: jax.Array

    @staticmethod
    def make(rng: jax.Array, rate: float, batch: int, num_heads: int) -> Dropout:
        """Independent dropout for each head of each example; for 1 of them, one for all."""
        return Dropout(rate, jax.random.bits(randomness.threefry(rng), (batch, num_heads, 2), jnp.uint32))

    @jax.jit
    def at(self, rows: jax.Array, columns: jax.Array) -> jax.Array:
        """Factors [t, s] of one head: 0 or 1 / (1 - rate)."""
        row = _mix(_mix(rows.astype(jnp.uint32) ^ self.seeds[0]) + self.seeds[1])
        column = _mix(columns.astype(jnp.uint32) + self.seeds[1])
        bits = _mix(row[:, None] ^ column[None, :])
        kept = bits >= jnp.uint32(min(round(self.rate * 2**32), 2**32 - 1))
        return kept.astype(jnp.float32) / jnp.float32(1 - self.rate)


def _mix(x: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3 (Appleby, public domain): every input bit flips every output bit half the time."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
