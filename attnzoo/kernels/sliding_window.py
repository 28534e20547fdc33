"""Sliding-window attention: every query sees its neighbours, every `dilation`-th one, and a few global tokens.

    y_i = sum_{j in W(i)} softmax_j(scale q_i . k_j + b_ij) v_j
    W(i) = {i - left d, ..., i - d, i, i + d, ..., i + right d}  and  {0, ..., g - 1};    W(i) = everything for i < g

with d = dilation and g = global_tokens, i counted from `query_offset`; causality removes what lies right of i.
Cost O(T (left + right + 1 + g) H + g S H), memory O(T + S). Beltagy, Peters and Cohan 2020, arXiv:2004.05150. Their
`attention_window` w is left = right = w / 2; they give global tokens projections of their own, which belong to a
layer, not here. One softmax runs over window and global keys together.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jax import numpy as jnp

from attnzoo import fields
from attnzoo.compute import costs, dense, heads, schedule, streaming
from attnzoo.compute.schedule import Layout
from attnzoo.interface import Kernel
from attnzoo.kernels.softmax import EXACT
from attnzoo.masking import Band, Mask

# Tiles of a quarter of the window keep the hidden corners of the band small. Measured on a CPU for windows of 256 and
# 513 keys: 128 is the best forward and backward; 64 pays for the loop, 512 for what it hides.
SMALLEST_TILE, LARGEST_TILE = 128, 512


@dataclasses.dataclass(frozen=True)
class SlidingWindow(Kernel):
    """Longformer's local and global attention. `left` and `right` count keys, apart from the query's own."""

    left: int = 128
    right: int = 128
    dilation: int = 1
    global_tokens: int = 0

    supports = dataclasses.replace(EXACT, positions=True, work=1.0)

    def __post_init__(self):
        for name in ("left", "right", "global_tokens"):
            fields.natural_number(self, name)
        fields.positive_integer(self, "dilation")

    @property
    def band(self) -> Band:
        return Band(self.left, self.right, self.dilation, self.global_tokens)

    def head(self, params, draws, q, k, v, visible, *, bias, scale, dropout, positions):
        i = jnp.arange(len(q))[:, None] + positions.query_offset
        visible &= self.band.at(i, jnp.arange(len(k))[None, :])
        return dense.attend(dense.scores(q, k, scale), v, visible, bias, dropout)

    def batched(self, params, draws, q, k, v, mask, *, bias, scale, dropout):
        mask = mask.within(self.band)
        local, globals_ = self._local_layout(mask), self._global_layout(mask)

        def one_head(q, k, v, scale, mask, bias, dropout):
            def attend(layout):
                return streaming.attend(streaming.dot_product, scale, q, k, v, mask, bias, dropout, layout)

            out, lse = attend(local)
            if globals_ is None:
                return out, lse
            rows = globals_.rows.reshape(-1)
            global_out, global_lse = attend(globals_)
            return out.at[rows].set(global_out[rows]), lse.at[rows].set(global_lse[rows])

        return heads.over_heads(one_head, q, k, v, (dense.scale_of(scale, q)[None, None], mask, bias, dropout))

    def cost(self, dims, *, is_causal=False, dtype=jnp.float32):
        mask = Mask(dims.query_length, dims.key_length, is_causal).within(self.band)
        layouts = [layout for layout in (self._local_layout(mask), self._global_layout(mask)) if layout is not None]
        flops = sum(costs.softmax_over_tiles(dims, layout, 2 * dims.head_dim + 1) for layout in layouts)
        # Decoding keeps the last keys in a ring, and the global ones.
        kept = min(dims.key_length, self.left * self.dilation + 1 + self.global_tokens)
        cache = costs.key_value_cache(dims._replace(key_length=kept))
        return costs.of(dims, flops, dtype, extra_elements=0, state_elements=cache)

    def _local_layout(self, mask: Mask) -> Layout:
        """Tiles of queries beside the tiles of their windows and of the global keys.

        Positions of one residue modulo the dilation stand together, so that the window is dense there.
        """
        largest = min(max((self.left + self.right + 1) // 4, SMALLEST_TILE), LARGEST_TILE)
        size = schedule.tile_size(max(mask.query_length // self.dilation, 1), largest)
        rows = schedule.interleaved(mask.query_length, size, self.dilation, mask.query_offset)
        columns = schedule.interleaved(mask.key_length, size, self.dilation)
        visited = schedule.visible_tiles(mask, rows, columns, dilation=self.dilation, global_tokens=self.global_tokens)
        return Layout(rows, columns, visited)

    def _global_layout(self, mask: Mask) -> Layout | None:
        """Tiles of the queries that are global, beside all keys that causality leaves them."""
        positions = np.arange(mask.query_length) + mask.query_offset
        index = np.flatnonzero((positions >= 0) & (positions < self.global_tokens))
        if not len(index):
            return None
        rows = index[None].astype(np.int32)
        columns = schedule.natural(mask.key_length, schedule.tile_size(mask.key_length, streaming.TILE))
        everything = dataclasses.replace(mask, bands=mask.bands[:-1])
        return Layout(rows, columns, schedule.visible_tiles(everything, rows, columns))
