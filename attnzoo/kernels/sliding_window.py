"""Sliding-window attention: every query sees its neighbours, every `dilation`-th one, and a few global tokens.

    y_i = sum_{j in W(i)} softmax_j(scale q_i . k_j + b_ij) v_j
    W(i) = {i - left d, ..., i - d, i, i + d, ..., i + right d}  and  G;    W(i) = everything for i in G

with d = dilation and G the positions of global tokens, i counted from `query_offset`; causality removes what lies right
of i. G is {0, ..., global_tokens - 1} and what a caller names for each example.
Cost O(T (left + right + 1 + |G|) H + |G| S H), memory O(T + S). Beltagy, Peters and Cohan 2020, arXiv:2004.05150. Their
`attention_window` w is left = right = w / 2; they give global tokens projections of their own, which belong to a
layer, not here. One softmax runs over window and global keys together.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract import fields
from attnzoo.contract.mask import Band, Globals, Mask
from attnzoo.engines import across, caching, dense, everywhere, heads, schedule, streaming
from attnzoo.engines.progressions import Numbers, numpy_of
from attnzoo.engines.schedule import Layout
from attnzoo.kernel import Kernel
from attnzoo.kernels.softmax import EXACT


@dataclasses.dataclass(frozen=True)
class SlidingWindow(Kernel):
    """Longformer's local and global attention. `left` and `right` count keys, apart from the query's own.

    Attributes:
      left: keys before the query's own, every `dilation`-th of them.
      right: keys after it, likewise.
      dilation: distance between neighbouring keys of a window, in tokens.
      global_tokens: how many tokens from position 0 on see all keys, and are seen by all queries, beside those that
        `attend(..., global_tokens=)` names.

    Raises:
      ValueError: a field is no integer, or too small.

    Example:
      >>> q = k = jnp.ones((1, 4, 2, 8))
      >>> (attention_weights(q, k, kernel=SlidingWindow(left=1, right=0))[0, 0] > 0).astype(int)
      Array([[1, 0, 0, 0],
             [1, 1, 0, 0],
             [0, 1, 1, 0],
             [0, 0, 1, 1]], dtype=int32)
    """

    left: int = 128
    right: int = 128
    dilation: int = 1
    global_tokens: int = 0

    supports = dataclasses.replace(EXACT, positions=True, global_tokens=True, work=1.0)

    def __post_init__(self):
        for name in ("left", "right", "global_tokens"):
            fields.natural_number(self, name)
        fields.positive_integer(self, "dilation")

    @property
    def band(self) -> Band:
        return Band(self.left, self.right, self.dilation, Globals(self.global_tokens) if self.global_tokens else None)

    def head(self, params, draws, q, k, v, visible, *, bias, scale, soft_cap, dropout, positions, global_tokens):
        i = jnp.arange(len(q))[:, None] + positions.query_offset
        visible &= self.band.beside(global_tokens).at(i, jnp.arange(len(k))[None, :])
        return dense.attend(dense.scores(q, k, scale, soft_cap), v, visible, bias, dropout)

    def batched(self, params, draws, q, k, v, call):
        score, params = streaming.dot_product(q, call.scale, call.soft_cap)
        if call.shards is not None and self._has_globals(call.mask):
            return self._on_a_device(call.shards, score, params, q, k, v, call)
        return across.over_heads(score, params, q, k, v, call.under(call.mask.within(self.band)), self._layout)

    def meets(self, shards, mask):
        """Global tokens are looked for where keys and queries are the same tokens."""
        return shards.are_beside(mask) or not self._has_globals(mask)

    def as_softmax(self, mask):
        return mask.within(self.band)

    def start(self, params, draws, dims, max_length, dtype):
        """The global keys, and a ring of those that the next query's window reaches back to."""
        return caching.empty(dims, min(self.global_tokens + self.left * self.dilation, max_length), dtype)

    def step(self, params, draws, cache, q, k, v, positions, call):
        kept = cache["key"].shape[1]
        pinned = min(self.global_tokens, kept)
        slots = caching.Slots(pinned, kept - pinned)
        new = {"key": k, "value": v}
        columns, beside = caching.beside_ring(cache, new, positions, slots)

        def one_head(q, k, v, positions, columns, call):
            visible = caching.seen(positions, columns, call.mask) & self.band.at(positions[:, None], columns[None, :])
            bias = caching.bias_at(call.bias, positions, columns)
            return dense.attend(dense.scores(q, k, call.scale, call.soft_cap), v, visible, bias)

        given = positions[:, None], columns[:, None], call.by_head(q.shape[2])
        out = heads.over_heads(one_head, q, beside["key"], beside["value"], given)
        return caching.written(cache, new, positions, slots), out

    def _has_globals(self, mask: Mask) -> bool:
        return self.global_tokens > 0 or mask.global_tokens is not None

    def _on_a_device(self, shards, score, params, q, k, v, call):
        """The queries of a device beside keys of their windows, and global ones; those of global tokens beside all."""
        mask, asked = call.mask, call.mask.global_tokens
        place = shards.indices(mask.query_length, 0)[0]
        which = jnp.broadcast_to(place < self.global_tokens, (q.shape[0], 1, mask.query_length))
        which = which if asked is None else which | asked.which
        tokens = everywhere.Tokens.among(shards, which, self.global_tokens + (0 if asked is None else asked.most))
        given, beyond = (score, params, q, k, v), call.under(dataclasses.replace(mask, global_tokens=None))
        window = dataclasses.replace(self.band, global_tokens=None)
        others = dataclasses.replace(
            beyond.mask, keys=~which if mask.keys is None else mask.keys & ~which, hides_ends=False
        )
        near = across.part(*given, call.under(others.within(window)), self._layout)
        everyone = streaming.merged(near, everywhere.as_keys(tokens, *given, beyond))
        seeing_all = everywhere.as_queries(tokens, *given, beyond)
        found = dense.Part(*map(tokens.instead, seeing_all, everyone))
        return found.out.astype(v.dtype), found.lse()

    def _layout(self, mask: Mask, drawn=()) -> Layout:
        """Tiles of queries beside those of their windows and of the global keys; then global queries beside all keys.

        Positions of one residue modulo the dilation stand together, so that the window is dense there. Global tokens
        are taken out of the tiles that they would stand in, and have some of their own. The first tokens, where none
        may look ahead, see each other alone, and so are queries like others.
        """
        length = max(mask.query_length // self.dilation, 1)
        size = schedule.window_tile_size(length, max(self.left, self.right), streaming.TILE)
        if mask.is_placed:
            rows = schedule.interleaved(mask.query_length, size, self.dilation, mask.place)
        else:
            rows = schedule.rows_apart(mask.query_length, size, self.dilation)
        columns = schedule.interleaved(mask.key_length, size, self.dilation)
        tokens = mask.bands[-1].global_tokens
        if tokens is None:
            return Layout(rows, columns, schedule.visible_tiles(mask, rows, columns, dilation=self.dilation))
        keys = tokens.positions(mask.key_length)
        own = schedule.tiled(keys, size)
        visited = schedule.visible_tiles(mask, rows, columns, dilation=self.dilation, pinned=len(own))
        all_columns = _joined(_without(tokens, columns, 0), own)
        if mask.is_causal and tokens.which is None:
            return Layout(rows, all_columns, visited)
        seeing_all = schedule.tiled(_found(keys, mask), size)
        endless = dataclasses.replace(mask, bands=(*mask.bands[:-1], Band(None, None, 1, tokens)))
        below = schedule.all_tiles(endless, seeing_all, columns, pinned=len(own))
        visited += tuple(dataclasses.replace(x, rows=x.rows + len(rows)) for x in below)
        return Layout(_joined(_without(tokens, rows, mask.query_offset), seeing_all), all_columns, visited)


def _without(tokens: Globals, index: np.ndarray, offset: int | jax.Array) -> Numbers:
    """Tiles of `index` with -1 for what stands at a position of a global token."""
    theirs = tokens.at(index + offset)
    return numpy_of(theirs).where((index >= 0) & theirs, -1, index)


def _found(positions: Numbers, mask: Mask) -> Numbers:
    """The queries at `positions`, -1 where there is none."""
    index = positions - mask.query_offset
    there = (positions >= 0) & (index >= 0) & (index < mask.query_length)
    return numpy_of(index).where(there, index, -1)


def _joined(*tiles: Numbers) -> Numbers:
    return numpy_of(*tiles).concatenate(tiles)
