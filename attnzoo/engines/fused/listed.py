"""What kernels are given of chunks of tokens that are found at run time.

Lists of each head name its tokens in some order, one list for queries and one for keys. A chunk of queries meets its
own chunk of keys and the one before. Keys that are hidden stand behind all others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Given(NamedTuple):
    """What a kernel is given.

    Attributes:
      q: [B, L, N, H]. k: [B, L, K, H]. v: [B, L, K, Hv].
      scale, soft_cap: [1, 1], float32; no cap where None.
      tokens: of queries and of keys, the one in each slot, int32 [B, lists, N, L].
      shown: keys that are not hidden, int32 [B or 1, 1].
      size: slots of a chunk.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    scale: jax.Array
    soft_cap: jax.Array | None
    tokens: tuple[jax.Array, jax.Array]
    shown: jax.Array
    size: int

    @property
    def num_lists(self) -> int:
        """Lists of each head."""
        return self.tokens[0].shape[1]

    def slots(self, side: int) -> jax.Array:
        """The slot of each token, [B, lists, N, L]."""
        return jnp.argsort(self.tokens[side], axis=3).astype(jnp.int32)


class Pulled(NamedTuple):
    """Gradients of what a kernel found."""

    d_out: jax.Array  # [lists * B, L, N, Hv]
    d_lse: jax.Array  # of slots, [B, lists, N, L]


class Gathered(NamedTuple):
    """What a device brings.

    Attributes:
      declined: `declined(given)`: why its kernels cannot take such lists; empty where they can.
      forward: `forward(given)`: what queries find in each list, [lists, B, L, N, Hv], and log-sum-exps of slots,
        [B, lists, N, L].
      backward: `backward(given, pulled)`: gradients of queries, keys and values by each list and query head,
        [lists, B, L, N, W], and of the soft cap by slots [B, lists, N, L], or None.
      nearest: `nearest(rotations, x)`, as `engines.gathered` has it; None of what XLA is to do.
    """

    declined: Callable[[Given], list[str]]
    forward: Callable[[Given], tuple[jax.Array, jax.Array]]
    backward: Callable[..., tuple[jax.Array | None, ...]]
    nearest: Callable[..., jax.Array | None]
