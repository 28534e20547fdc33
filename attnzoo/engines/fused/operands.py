"""What the kernel of a device is given: operands in the order of tiles, where they stand, and who sees whom."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.mask import Band, Mask
from attnzoo.contract.mask_mod import MaskMod
from attnzoo.engines import heads, tiling
from attnzoo.engines.fused import pairs
from attnzoo.engines.fused.pairs import Lists
from attnzoo.engines.fused.terms import Terms
from attnzoo.engines.fused.way import Tiles
from attnzoo.engines.progressions import Numbers, as_arithmetic
from attnzoo.engines.runs import Runs
from attnzoo.engines.schedule import Layout

# Where no key stands, and, less than 0, no query: neither causality nor the end of a band joins them to anything, and
# their difference is a whole number of 32 bits.
NOWHERE = 2**29

Visible = Callable[[jax.Array, jax.Array, Any], jax.Array]


class Side(NamedTuple):
    """Where queries or keys stand.

    Attributes:
      tile: how many are in a tile.
      positions: int32 [B or 1, tiles * tile], -`NOWHERE` for none among queries and `NOWHERE` among keys.
      run: how many stand one after another from the first on, behind whom there is none; None where they do not.
      segments: int32 [B or 1, tiles * tile], or None.
    """

    tile: int
    positions: jax.Array
    run: int | None
    segments: jax.Array | None

    @property
    def tiles(self) -> int:
        """How many there are."""
        return self.positions.shape[1] // self.tile


class Operands(NamedTuple):
    """What softmax of all heads over listed tiles is made from, in the order of tiles.

    Attributes:
      q: [B, T', N, H], T' being that of whole tiles, or, where tokens are in order, a multiple of a device's `unit`.
      k: [B, S', K, H].
      v: [B, S', K, Hv].
      queries: where they stand.
      keys: likewise.
      scale: of scores, float32 [B or 1, N or 1].
      soft_cap: float32 [B or 1, N or 1], or None.
      of_key: what is added to the scores of each key, float32 [B or 1, N or 1, S'], or None.
      visible: `visible(i, j, head)` of positions that broadcast against each other and the number of the query head:
        whether queries may see keys, segments apart. It need not be asked of pairs of whole tiles.
      averages: of which runs of keys averages are wanted, too; None for none.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    queries: Side
    keys: Side
    scale: jax.Array
    soft_cap: jax.Array | None
    of_key: jax.Array | None
    visible: Visible
    averages: Runs | None = None


class Found(NamedTuple):
    """What a kernel gives for queries in the order of tiles; 0, -inf and 0 where they see nothing."""

    out: jax.Array  # [B, T', N, Hv], in the dtype of v
    top: jax.Array  # the largest score, float32 [B, N, T']
    log_total: jax.Array  # log sum_j e^(s_j - top), float32 [B, N, T']
    averages: jax.Array | None = None  # of the runs of keys that are wanted, float32 [B, runs, K, H]


class Pulled(NamedTuple):
    """What a kernel is given for its gradients, in the order of tiles, 0 where no query stands.

    A kernel that finds the shift itself, from out and d_log_total, spares the program that does.
    """

    d_out: jax.Array  # [B, T', N, Hv]
    top: jax.Array  # float32 [B, N, T'], some number where nothing is visible
    log_total: jax.Array  # float32 [B, N, T'], likewise
    shift: jax.Array  # d_log_total - d_out . out, float32 [B, N, T']: d s_ij = w_ij (d_out_i . v_j + shift_i)
    out: jax.Array  # [B, T', N, Hv]
    d_log_total: jax.Array  # float32 [B, N, T']
    averages: jax.Array | None = None  # the gradient of those, which belongs to that of keys


class Gradients(NamedTuple):
    """Those of what a kernel was given, summed in float32 before they are rounded."""

    q: jax.Array  # [B, T', N, H]
    k: jax.Array  # [B, S', K, H]
    v: jax.Array  # [B, S', K, Hv]
    of_key: jax.Array | None = None  # float32 [B, N, S']
    soft_cap: jax.Array | None = None  # float32 [B, N, T'], of which the sum over queries is the gradient


class Cutting(NamedTuple):
    """How the sequences of all heads are cut into tiles, int [B or 1, tiles, size], and which of these are visited."""

    rows: Numbers
    columns: Numbers
    lists: Lists

    @staticmethod
    def of(layout_of: Callable[..., Layout], mask: Mask, drawn: Any, tiles: Tiles) -> Cutting:
        """What is cut is the same for all heads; what is visited may differ."""
        known: list[Cutting] = []

        def of_head(mask, drawn):
            with tiles.in_use():
                layout = layout_of(mask, drawn)
            rows, columns = (_filled(x, tiles.grain) for x in (layout.rows, layout.columns))
            cutting = Cutting(rows, columns, pairs.of_layout(Layout(rows, columns, layout.schedules)))
            known.append(jax.tree.map(lambda x: x if isinstance(x, np.ndarray) else None, cutting))
            return jax.tree.map(lambda x: () if isinstance(x, np.ndarray) else x, cutting)

        traced = _over_leading(of_head, mask, drawn)
        # What is known came once for each trace, and is the same in all.
        merge = lambda constant, found: found if constant is None else constant[None, None]
        found = jax.tree.map(merge, known[0], traced, is_leaf=lambda x: x is None)
        return found._replace(rows=found.rows[:, 0], columns=found.columns[:, 0])

    def operands(self, q, k, v, terms: Terms, mask: Mask, unit: int) -> Operands:
        """Those of a kernel, of a device with such a `unit`; `terms` and the mask say the rest."""
        bare = dataclasses.replace(mask, mods=())
        rows, columns = (x[:, 0] for x in _over_leading(_places, bare, self.rows[:, None], self.columns[:, None]))
        segments = (None, None) if mask.segments is None else (x[:, 0].astype(jnp.int32) for x in mask.segments)
        of_rows, of_columns = (
            None if x is None else cut(x, index) for x, index in zip(segments, self[:2], strict=True)
        )
        terms = jax.tree.map(lambda x: x.astype(jnp.float32), terms)
        of_key = None if terms.of_key is None else cut(terms.of_key, self.columns, axis=2)
        return Operands(
            cut(q, self.rows, unit=unit),
            cut(k, self.columns, unit=unit),
            cut(v, self.columns, unit=unit),
            Side(self.rows.shape[2], rows, _run(mask, self.rows, mask.queries), of_rows),
            Side(self.columns.shape[2], columns, _run(mask, self.columns, mask.keys), of_columns),
            terms.scale,
            terms.soft_cap,
            of_key,
            visible_of(mask),
        )


def cut(x: jax.Array, index: Numbers, axis: int = 1, unit: int | None = None) -> jax.Array:
    """[B or 1, ..., L, ...] in the order of tiles [B or 1, tiles, size]: [B or 1, ..., tiles * size, ...].

    Where a `unit` is given, and tokens are in that order, there are no more than a multiple of it.
    """
    if unit is not None and _are_in_order(index, x.shape[axis]):
        return filled_up(x, unit, axis)
    one = lambda x, index: tiling.cut(x, index).reshape(-1, *x.shape[1:])
    return _along(one, x, index, axis)


def join(x: jax.Array, index: Numbers, length: int, fill: float = 0, axis: int = 1) -> jax.Array:
    """The inverse; `fill` for what no tile holds."""
    if _are_in_order(index, length):
        return jax.lax.slice_in_dim(x, 0, length, axis=axis)
    one = lambda x, index: tiling.join(x.reshape(*index.shape, *x.shape[1:]), index, length, fill)
    return _along(one, x, index, axis)


def filled_up(x: jax.Array, unit: int, axis: int = 1) -> jax.Array:
    """With zeros behind an axis, of which a multiple of a unit is there then."""
    behind = -x.shape[axis] % unit
    return jnp.pad(x, [(0, behind if i == axis else 0) for i in range(x.ndim)]) if behind else x


def _are_in_order(index: Numbers, length: int) -> bool:
    return len(index) == 1 and tiling.is_natural(index, length)


def _along(one: Callable, x: jax.Array, index: Numbers, axis: int) -> jax.Array:
    """`one(x [L, ...], index [tiles, size])` of an axis of x and of the examples that index tells apart."""
    x = jnp.moveaxis(x, axis, 1)
    if len(index) == 1:
        found = jax.vmap(lambda x: one(x, index[0]))(x)
    else:
        found = jax.vmap(one)(jnp.broadcast_to(x, (len(index), *x.shape[1:])), index)
    return jnp.moveaxis(found, 1, axis)


def _filled(index: Numbers, grain: int) -> Numbers:
    """Tiles [count, size] whose size is a multiple of `grain`."""
    xp = np if isinstance(index, np.ndarray) else jnp
    return xp.pad(index, ((0, 0), (0, -index.shape[1] % grain)), constant_values=-1)


def _over_leading(function: Callable, *trees: Any) -> Any:
    """`function` of one head, over trees whose leaves lead with [B or 1, N or 1]: leaves of [B or 1, N or 1, ...]."""
    leaves = [x.shape for x in jax.tree.leaves(trees)]
    batch, num_heads = (max((shape[axis] for shape in leaves), default=1) for axis in (0, 1))
    return heads.over_axis(heads.over_axis(function, num_heads), batch)(*trees)


def _places(mask: Mask, rows: Numbers, columns: Numbers) -> tuple[jax.Array, jax.Array]:
    """Where the queries and keys of one head stand, in the order of tiles; what is hidden from all stands nowhere."""
    rows, columns = (as_arithmetic(x).reshape(-1) for x in (rows, columns))
    _, stands, key_stands = mask.in_whole(rows, columns)
    is_row, is_column = rows >= 0, (columns >= 0) & (key_stands >= 0)
    if mask.queries is not None:
        is_row &= jnp.take(mask.queries, rows, mode="clip")
    if mask.keys is not None:
        is_column &= jnp.take(mask.keys, columns, mode="clip")
    as_int = lambda is_there, place, else_: jnp.where(is_there, place, else_).astype(jnp.int32)
    return as_int(is_row, stands, -NOWHERE), as_int(is_column, key_stands, NOWHERE)


def _run(mask: Mask, index: Numbers, shown: jax.Array | None) -> int | None:
    """How many of tiles [1, tiles, size] stand one after another, and no other; None where they do not."""
    if shown is not None or mask.is_listed or not isinstance(index, np.ndarray):
        return None
    flat = index.reshape(-1)
    length = int(np.count_nonzero(flat >= 0))
    return length if (flat[:length] == np.arange(length)).all() else None


def visible_of(mask: Mask) -> Visible:
    """What causality, bands and functions leave visible, as arithmetic on positions."""

    def visible(i, j, head):
        seen = j <= i if mask.is_causal else (i > -NOWHERE) & (j < NOWHERE)
        for band in mask.bands:
            seen &= _within(band, i, j)
        for mod in mask.mods:
            seen &= _shown(mod, i, j, head)
        return seen

    return visible


def _within(band: Band, i: jax.Array, j: jax.Array) -> jax.Array:
    """As `Band.at`, of positions in any arrangement."""
    inside: Any = True
    left, right = band.reach
    if band.dilation > 1:
        inside &= jax.lax.rem(i - j, np.int32(band.dilation)) == 0
    if left < NOWHERE:
        inside &= i - j <= left
    if right < NOWHERE:
        inside &= j - i <= right
    if band.global_tokens is not None:
        inside |= band.global_tokens.at(i) | band.global_tokens.at(j)
    return inside


def _shown(mod: MaskMod, i: jax.Array, j: jax.Array, head: Any) -> jax.Array:
    """What a function that closes over nothing shows to a query head."""
    one = lambda i, j: mod.program((), head, i, j)
    return jax.vmap(jax.vmap(one))(*jnp.broadcast_arrays(i, j))
