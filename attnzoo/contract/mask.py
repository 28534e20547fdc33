"""Who may see whom, as structure rather than as a [T, S] array.

A mask is asked about tiles: `mask.at(rows, columns)`. Causality and bands are arithmetic on positions;
padding and segments are vectors; a dense array is kept only where the caller brought one.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.fields import LARGEST, is_integer
from attnzoo.contract.mask_mod import MaskMod

UNENDING = 2**40  # further than any two positions lie apart


@jax.tree_util.register_static
class Known(int):
    """An offset that is known before the program runs, so that schedules may follow from it; no leaf of a tree."""


START = Known(0)


class Origin(NamedTuple):
    """Where a part stands in the whole, from which biases and dropout count; leaves lead as those of a mask.

    Attributes:
      query: the index in the whole of the first query, or of each, int [..., T].
      key: of the first key, or of each, int [..., S], -1 for none.
      offset: the key position of query 0 of the whole.
    """

    query: int | jax.Array
    key: int | jax.Array
    offset: int | jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Globals:
    """Tokens that see every key, and that every query sees, as far as no more than a pattern would hide them.

    Attributes:
      most: how many there are at most.
      which: bool [..., S], by position; None for the first `most`.

    Example:
      >>> from attnzoo.contract.mask import Globals
      >>> (Globals(1) | Globals(2, which=jnp.array([False, False, True, True]))).positions(4)
      Array([0, 2, 3], dtype=int32)
    """

    most: int = dataclasses.field(metadata={"static": True})
    which: jax.Array | None = None

    def at(self, positions):
        """Which of the positions [...] are theirs, for each head there is: bool [..., ...]."""
        if self.which is None:
            return (positions >= 0) & (positions < self.most)
        there = (positions >= 0) & (positions < self.which.shape[-1])
        return jnp.logical_and(*jnp.broadcast_arrays(there, pick(self.which, positions)))

    def positions(self, length: int):
        """Where they stand among `length` keys of one head, in order: int [most], -1 for none."""
        if self.which is None:
            place = np.arange(self.most)
            return np.where(place < length, place, -1)
        return jnp.nonzero(self.which, size=self.most, fill_value=-1)[0]

    def __or__(self, other: Globals) -> Globals:
        """Those of both, one of which says which they are."""
        shape = next(x.which.shape for x in (self, other) if x.which is not None)
        own, others = (jnp.broadcast_to(x.at(jnp.arange(shape[-1])), shape) for x in (self, other))
        return Globals(self.most + other.most, own | others)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Band:
    """Query position p sees keys p - left * dilation .. p + right * dilation in steps of `dilation`, and global tokens.

    A side of None has no end.

    Example:
      >>> from attnzoo.contract.mask import Band
      >>> positions = jnp.arange(4)
      >>> Band(left=1, right=0).at(positions[:, None], positions[None]).astype(int)
      Array([[1, 0, 0, 0],
             [1, 1, 0, 0],
             [0, 1, 1, 0],
             [0, 0, 1, 1]], dtype=int32)
    """

    left: int | None = dataclasses.field(metadata={"static": True})
    right: int | None = dataclasses.field(metadata={"static": True})
    dilation: int = dataclasses.field(default=1, metadata={"static": True})
    global_tokens: Globals | None = None

    def at(self, i, j):
        """Which of query positions i [t, 1] and key positions j [1, s] the band joins: bool [..., t, s]."""
        inside = (i - j) % self.dilation == 0 if self.dilation > 1 else True
        if self.left is not None:
            inside &= i - j <= min(self.left * self.dilation, LARGEST)
        if self.right is not None:
            inside &= j - i <= min(self.right * self.dilation, LARGEST)
        if self.global_tokens is not None:
            inside |= self.global_tokens.at(i[:, 0])[..., :, None] | self.global_tokens.at(j[0])[..., None, :]
        return inside

    def beside(self, tokens: Globals | None) -> Band:
        """The same, and more global tokens."""
        if tokens is None:
            return self
        own = self.global_tokens
        return dataclasses.replace(self, global_tokens=tokens if own is None else own | tokens)

    @property
    def has_holes(self) -> bool:
        """Whether some query may see keys that are no interval."""
        return self.dilation > 1 or self.global_tokens is not None

    @property
    def reach(self) -> tuple[int, int]:
        """How far to the left and to the right a query sees, global tokens apart; `UNENDING` for no end."""
        sides = (UNENDING if side is None else side * self.dilation for side in (self.left, self.right))
        left, right = (min(side, UNENDING) for side in sides)
        return left, right


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """Visibility of S keys to T queries. Arrays lead with [B or 1, N or 1]; those of a single head lead with nothing.

    Attributes:
      query_length: T.
      key_length: S.
      is_causal: query i sees no key after position i + query_offset.
      query_offset: the key position of query 0: `Known`, or int32 [...], which may be traced.
      bands: every one of them must join a query and a key.
      mods: likewise, functions that a caller brought.
      global_tokens: what the pattern of a kernel hides nothing from and nothing of, beside its own, or None.
      dense: bool [..., T or 1, S or 1], or None.
      keys: bool [..., S], False for keys hidden from every query (padding), or None.
      hides_ends: whether `keys` shows the first ones up to a length, and so hides ends alone.
      queries: bool [..., T], False for queries that are padding, or None.
      query_segments: int [..., T], or None.
      key_segments: int [..., S], or None.
      origin: where this is a part, its place in the whole; None for the whole.

    Example:
      >>> mask = Mask(4, 4, is_causal=True, keys=jnp.array([True, True, True, False]))
      >>> mask.at(jnp.arange(4), jnp.arange(4)).astype(int)
      Array([[1, 0, 0, 0],
             [1, 1, 0, 0],
             [1, 1, 1, 0],
             [1, 1, 1, 0]], dtype=int32)
    """

    query_length: int = dataclasses.field(metadata={"static": True})
    key_length: int = dataclasses.field(metadata={"static": True})
    is_causal: bool = dataclasses.field(default=False, metadata={"static": True})
    query_offset: int | jax.Array = START
    bands: tuple[Band, ...] = ()
    mods: tuple[MaskMod, ...] = ()
    global_tokens: Globals | None = None
    dense: jax.Array | None = None
    keys: jax.Array | None = None
    hides_ends: bool = dataclasses.field(default=False, metadata={"static": True})
    queries: jax.Array | None = None
    query_segments: jax.Array | None = None
    key_segments: jax.Array | None = None
    origin: Origin | None = None

    def __post_init__(self):
        if is_integer(self.query_offset):
            object.__setattr__(self, "query_offset", Known(self.query_offset))

    def within(self, band: Band) -> Mask:
        """This mask, and the band of a kernel, which global tokens are free of."""
        return dataclasses.replace(self, bands=(*self.bands, band.beside(self.global_tokens)))

    @jax.jit
    def at(self, rows: jax.Array, columns: jax.Array) -> jax.Array:
        """Visibility of keys `columns` [s] to queries `rows` [t]: bool [..., t, s]. Negative indices are hidden."""
        _, stands, key_stands = self.in_whole(rows, columns)
        i, j = stands[:, None], key_stands[None, :]
        visible = (rows >= 0)[:, None] & (columns >= 0)[None, :]
        if self.is_listed:
            visible &= j >= 0
        if self.is_causal:
            visible &= j <= i
        for band in self.bands:
            visible &= band.at(i, j)
        for mod in self.mods:
            visible = visible & mod.at(stands, key_stands)
        if self.dense is not None:
            visible &= pick(pick(self.dense, rows, -2), columns, -1)
        if self.keys is not None:
            visible &= pick(self.keys, columns)[..., None, :]
        if self.queries is not None:
            visible &= pick(self.queries, rows)[..., :, None]
        if self.segments is not None:
            query, key = self.segments
            visible &= pick(query, rows)[..., :, None] == pick(key, columns)[..., None, :]
        return visible

    def in_whole(self, rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries `rows` by index, where they stand, and where keys `columns` stand, counted in the whole."""
        if self.origin is None:
            return rows, rows + self.query_offset, columns
        stands = lambda first, index: index + first if jnp.ndim(first) == 0 else pick(first, index)
        row = stands(self.origin.query, rows)
        return row, row + self.origin.offset, stands(self.origin.key, columns)

    @property
    def is_listed(self) -> bool:
        """Whether queries or keys of one head stand anywhere in a whole, and not one after another."""
        return self.origin is not None and max(jnp.ndim(self.origin.query), jnp.ndim(self.origin.key)) > 0

    @property
    def segments(self) -> tuple[jax.Array, jax.Array] | None:
        """Those of queries [..., T] and of keys [..., S], None where none are told apart."""
        if self.query_segments is None or self.key_segments is None:
            return None
        return self.query_segments, self.key_segments

    @property
    def reach(self) -> tuple[int, int]:
        """How far to the left and to the right of its position a query sees, as far as causality and bands tell."""
        sides = [band.reach for band in self.bands] + [(UNENDING, 0 if self.is_causal else UNENDING)]
        return tuple(map(min, zip(*sides, strict=True)))

    @property
    def stands(self) -> jax.Array:
        """The key position of each query, int [B or 1, T]."""
        return jnp.arange(self.query_length)[None] + self.query_offset

    @property
    def key_places(self) -> jax.Array:
        """How many keys of its own segment stand before each key, int [..., S].

        Example:
          >>> Mask(2, 5, query_segments=jnp.array([7, 3]), key_segments=jnp.array([7, 7, 3, 7, 3])).key_places.tolist()
          [0, 1, 0, 2, 1]
        """
        if self.segments is None:
            return jnp.arange(self.key_length)
        return _counted(self.segments[1])

    @property
    def is_placed(self) -> bool:
        """Whether it is known beforehand where the queries stand."""
        return isinstance(self.query_offset, Known)

    @property
    def is_known(self) -> bool:
        """Whether it is known beforehand what causality and bands hide."""
        return self.is_placed or min(self.reach) >= UNENDING

    @property
    def place(self) -> int:
        """The position of query 0 where it is known, and 0 where it does not matter."""
        return self.query_offset if isinstance(self.query_offset, Known) else 0

    def span(self, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The keys that any of the queries first..last may see, as far as reach tells: (low, high), inclusive."""
        left, right = self.reach
        low, high = first + self.place - left, last + self.place + right
        return np.maximum(low, 0), np.minimum(high, self.key_length - 1)

    def core(self, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The keys that each of the queries first..last is known to see, before any array is looked at: (low, high)."""
        arrays = (self.dense, self.keys, self.queries, self.query_segments, self.key_segments)
        has_holes = self.mods or any(band.has_holes for band in self.bands)
        if has_holes or self.is_listed or not self.is_known or any(array is not None for array in arrays):
            return np.zeros_like(first), np.full_like(last, -1)
        left, right = self.reach
        low, high = last + self.place - left, first + self.place + right
        return np.maximum(low, 0), np.minimum(high, self.key_length - 1)

    def may_show(self) -> jax.Array | None:
        """Whether any query may see any key, as far as reach, padding and the range of segments tell, bool []; None
        where these hide nothing that is not known beforehand.
        """
        (left, right), holds = self.reach, []
        if not self.is_placed and all(band.global_tokens is None for band in self.bands):
            first = jnp.asarray(self.query_offset)
            holds += [self.key_length > first - left] if left < LARGEST // 2 else []
            holds += [first + self.query_length - 1 + right >= 0] if right < LARGEST // 2 else []
        holds += [shown.any(axis=-1) for shown in (self.keys, self.queries) if shown is not None]
        if self.segments is not None:
            query, key = self.segments
            holds.append((query.min(axis=-1) <= key.max(axis=-1)) & (key.min(axis=-1) <= query.max(axis=-1)))
        return functools.reduce(jnp.logical_and, holds).any() if holds else None

    def used_length(self) -> int | jax.Array:
        """Keys up to and with the last one that is not padding: a scalar for each leading axis."""
        if self.keys is None:
            return self.key_length
        return jnp.max(jnp.where(self.keys, jnp.arange(1, self.key_length + 1), 0), axis=-1, initial=0)


@functools.partial(jnp.vectorize, signature="(s)->(s)")
def _counted(ids: jax.Array) -> jax.Array:
    """How many equal ids stand before each."""
    order, places = jnp.argsort(ids, stable=True), jnp.arange(len(ids))
    begins = jnp.diff(ids[order], prepend=ids[order[:1]]) != 0
    counts = places - jax.lax.cummax(jnp.where(begins, places, 0))
    return jnp.zeros_like(order).at[order].set(counts)


def pick(array: jax.Array, index: jax.Array, axis: int = -1) -> jax.Array:
    """Entries of one axis; an axis of 1 is shared. Indices out of range give some entry, for the caller to hide."""
    if array.shape[axis] == 1:
        return array
    return jnp.take(array, index, axis=axis, mode="clip")
