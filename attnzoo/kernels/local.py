"""Local attention: softmax inside blocks of tokens, and nothing between them.

    y_i = sum_{j in B(i)} softmax_j(scale q_i . k_j + b_ij) v_j
    contiguous: B(i) = {j : floor(j / b) = floor(i / b)}        strided: B(i) = {j : j mod G = i mod G}

with b = block_size and G = ceil(length / b) groups, i counted from `query_offset`. Cost O(T b H), memory O(T + S). The
local attention of the Long Range Arena (Tay et al. 2021, arXiv:2011.04006), after Parmar et al. 2018, arXiv:1802.05751.

"strided" is what the Arena's code computes where its paper says local: it reshapes [B, T, ...] to [B, b, T / b, ...]
and attends over the axis of b, so that tokens T / b apart meet and neighbours do not. Its length is that of the
sequence without padding, so that padding moves no group, and queries past it see nothing; the Arena's code pads by a
whole block where b divides the length, and so has one group more there. Since its groups follow from the length, no
step of decoding can know them.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from attnzoo.contract import fields
from attnzoo.contract.mask import Mask
from attnzoo.engines import across, caching, dense, gathered, heads, schedule, streaming
from attnzoo.engines.gathered import Order
from attnzoo.engines.schedule import Layout
from attnzoo.kernel import Kernel
from attnzoo.kernels.softmax import EXACT

LAYOUTS = ("contiguous", "strided")
STRIDED = dataclasses.replace(
    EXACT,
    positions=True,
    cross=False,
    decode=False,
    work=1.0,
    why="its groups follow from the length of the one sequence that it is given whole",
)


@dataclasses.dataclass(frozen=True)
class Local(Kernel):
    """Softmax inside blocks of `block_size` tokens. The last one may be shorter.

    Attributes:
      block_size: b, in tokens.
      layout: "contiguous", or "strided", which has no form that decodes.

    Raises:
      ValueError: `block_size` is no integer >= 1, or there is no such layout.

    Example:
      >>> q = k = jnp.ones((1, 4, 2, 8))
      >>> (attention_weights(q, k, kernel=Local(block_size=2))[0, 0] > 0).astype(int)
      Array([[1, 1, 0, 0],
             [1, 1, 0, 0],
             [0, 0, 1, 1],
             [0, 0, 1, 1]], dtype=int32)
      >>> Local(layout="strided").supports.decode
      False
    """

    block_size: int = 64
    layout: str = "contiguous"

    supports = dataclasses.replace(EXACT, positions=True, work=1.0, why="its tokens see their own block alone")

    def __post_init__(self):
        fields.positive_integer(self, "block_size")
        fields.one_of(self, "layout", LAYOUTS)
        if self.layout == "strided":
            object.__setattr__(self, "supports", STRIDED)

    def head(self, params, draws, q, k, v, visible, *, bias, scale, soft_cap, dropout, positions):
        i, j = jnp.arange(len(q)) + positions.query_offset, jnp.arange(len(k))
        if self.layout == "contiguous":
            joined = self._block_of(i)[:, None] == self._block_of(j)[None]
        else:
            count = jnp.maximum(self._groups(positions.key_length), 1)
            inside = (i >= 0) & (i < positions.key_length)
            joined = (i % count)[:, None] == (j % count)[None]
            joined &= inside[:, None]
        return dense.attend(dense.scores(q, k, scale, soft_cap), v, visible & joined, bias, dropout)

    def batched(self, params, draws, q, k, v, call):
        if self.layout == "contiguous":
            score, params = streaming.dot_product(q, call.scale, call.soft_cap)
            return across.over_heads(score, params, q, k, v, call, self._layout, sides=(0, 0))

        def one_head(q, k, v, call):
            mask = call.mask
            keys = self._strided(len(k), mask.used_length(), 0)
            queries = self._strided(len(q), mask.used_length(), mask.query_offset)
            given = queries.grouped(q), keys.grouped(k), keys.grouped(v)
            found = gathered.attend(*given, queries.tokens, keys.tokens, call)
            lse = jnp.where(queries.slots >= 0, queries.restored(found.lse()), -jnp.inf)
            return queries.restored(found.out), lse

        numbers = q.shape[1] * self.block_size
        return heads.over_heads(one_head, q, k, v, (call.by_head(q.shape[2]),), numbers=numbers)

    def meets(self, shards, mask):
        """Where each device has whole blocks."""
        is_whole = self.layout == "contiguous" and mask.key_length % self.block_size == 0
        return is_whole and shards.are_beside(mask)

    def start(self, params, draws, dims, max_length, dtype):
        """A ring of the tokens before the next query that may stand in its block."""
        return caching.empty(dims, min(self.block_size - 1, max_length), dtype)

    def step(self, params, draws, cache, q, k, v, positions, call):
        slots = caching.Slots(0, cache["key"].shape[1])
        new = {"key": k, "value": v}
        columns, beside = caching.beside_ring(cache, new, positions, slots)

        def one_head(q, k, v, positions, columns, call):
            visible = self._block_of(positions)[:, None] == self._block_of(columns)[None]
            bias = caching.bias_at(call.bias, positions, columns)
            visible &= caching.seen(positions, columns, call.mask)
            return dense.attend(dense.scores(q, k, call.scale, call.soft_cap), v, visible, bias)

        given = positions[:, None], columns[:, None], call.by_head(q.shape[2])
        out = heads.over_heads(one_head, q, beside["key"], beside["value"], given)
        return caching.written(cache, new, positions, slots), out

    def _layout(self, mask: Mask, drawn=()) -> Layout:
        """A tile of queries for each block of positions, beside the tile of keys of the same block."""
        return schedule.own_blocks(mask, self.block_size, schedule.natural(mask.key_length, self.block_size))

    def _strided(self, length: int, used, offset: int) -> Order:
        """Where the tokens of a sequence stand whose first is at position `offset`, among `used` positions in all."""
        count = jnp.maximum(self._groups(used), 1)
        slot = jnp.arange(self._groups(length) * self.block_size)
        group, place = slot // self.block_size, slot % self.block_size
        position = place * count + group
        token = position - offset
        there = (group < count) & (position < used) & (token >= 0) & (token < length)
        position = jnp.arange(length) + offset
        slots = position % count * self.block_size + position // count
        slots = jnp.where((position >= 0) & (position < used), slots, -1)
        return Order(jnp.where(there, token, -1).reshape(-1, self.block_size), slots)

    def _groups(self, length):
        return -(-length // self.block_size)

    def _block_of(self, position):
        return position // self.block_size
