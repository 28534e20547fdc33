"""Sparse Transformer, the fixed pattern: every query sees its own block, and the summaries of all blocks.

    y_i = sum_{j in A(i)} softmax_j(scale q_i . k_j + b_ij) v_j
    A(i) = {j : floor(j / l) = floor(i / l)  or  j mod l >= l - c}

with l = block_size and c = summary, i counted from `query_offset`; causality removes what lies right of i. Cost
O(T (l + S c / l) H), which is T^2 for a given l, about c / l of exact attention's, and T^1.5 where one lets l grow as
the root of T; memory O(T + S). Child et al. 2019, arXiv:1904.10509, section 4.3.

One softmax runs over the paper's two sets, a key counted once: its merged head. The sets are causal; ours go both ways
where `is_causal` is not asked for. Its heads that take one set each, and its strided pattern, are not here.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from attnzoo.contract import fields
from attnzoo.contract.mask import Mask
from attnzoo.engines import across, dense, everywhere, schedule, streaming
from attnzoo.engines.schedule import Layout
from attnzoo.kernel import Kernel
from attnzoo.kernels.softmax import EXACT


@dataclasses.dataclass(frozen=True)
class SparseTransformer(Kernel):
    """Its own block of `block_size` tokens, and the last `summary` tokens of every block.

    Raises:
      ValueError: a field is no integer, or too small; `summary` is more than `block_size`.

    Example:
      >>> q = k = jnp.ones((1, 4, 2, 8))
      >>> (attention_weights(q, k, kernel=SparseTransformer(block_size=2, summary=1))[0, 0] > 0).astype(int)
      Array([[1, 1, 0, 1],
             [1, 1, 0, 1],
             [0, 1, 1, 1],
             [0, 1, 1, 1]], dtype=int32)
    """

    block_size: int = 128
    summary: int = 32

    supports = dataclasses.replace(EXACT, positions=True, why="what all see are the last tokens of its blocks")

    def __post_init__(self):
        fields.positive_integer(self, "block_size")
        fields.natural_number(self, "summary")
        if self.summary > self.block_size:
            raise ValueError(
                f"{type(self).__name__}(block_size={self.block_size}, summary={self.summary}): summary counts the last "
                f"positions of a block, and must be at most block_size"
            )

    def head(self, params, draws, q, k, v, visible, *, bias, scale, soft_cap, dropout, positions):
        i, j = jnp.arange(len(q)) + positions.query_offset, jnp.arange(len(k))
        joined = (i // self.block_size)[:, None] == (j // self.block_size)[None]
        joined |= self.is_summary(j)[None]
        return dense.attend(dense.scores(q, k, scale, soft_cap), v, visible & joined, bias, dropout)

    def batched(self, params, draws, q, k, v, call):
        score, params = streaming.dot_product(q, call.scale, call.soft_cap)
        given = score, params, q, k, v
        own = across.part(*given, call, self._own, sides=(0, 0))
        if call.shards is None:
            return streaming.joined(own, streaming.part(*given, call, self._summaries))
        place = np.flatnonzero(self.is_summary(np.arange(k.shape[1])))
        return streaming.joined(own, everywhere.beside_all(call.shards, place, *given, call))

    def meets(self, shards, mask):
        """Where each device has whole blocks."""
        return mask.key_length % self.block_size == 0 and shards.are_beside(mask)

    def is_summary(self, position):
        """Whether keys at these positions are seen from every block."""
        return position % self.block_size >= self.block_size - self.summary

    def _own(self, mask: Mask, drawn=()) -> Layout:
        """Each block of queries beside its own keys, apart from summaries."""
        apart = ~self.is_summary(np.arange(self.block_size))
        return schedule.own_blocks(mask, self.block_size, schedule.natural(mask.key_length, self.block_size)[:, apart])

    def _summaries(self, mask: Mask, drawn=()) -> Layout:
        """All queries beside the summaries of all blocks, put together into tiles of their own."""
        keys = np.flatnonzero(self.is_summary(np.arange(mask.key_length)))
        return streaming.listed_layout(mask, np.arange(mask.query_length), keys)
