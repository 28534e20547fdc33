"""Few queries that read many keys on a TPU, and averages of runs of these: what landmarks ask of a sequence.

Queries are held, and what they find is summed there, while tiles of keys pass, which are read once for both: sums of
pieces of each tile, as many as fill a register, are results, of which XLA makes runs. Gradients of averages are the
same for all keys of a piece, and sums of those of keys start from them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.engines.fused.operands import Found, Operands
from attnzoo.engines.fused.pairs import Pairs
from attnzoo.engines.fused.tpu.folding import SUBLANES
from attnzoo.engines.fused.tpu.grid import Array, Grid, Kernel, Step
from attnzoo.engines.fused.tpu.held import Held
from attnzoo.engines.fused.tpu.mosaic import INNER, PLAIN, dot


def fits(given: Operands, by_column: Pairs, runs: int, interpret: bool = False) -> bool:
    """Whether there is room for queries, which share no keys, and runs are whole pieces."""
    are_plain = given.soft_cap is None is given.of_key and given.q.shape[2] == given.k.shape[2]
    length = given.keys.run
    if not are_plain or length is None or length % (runs * _piece(given)):
        return False
    return _grid(given, by_column, interpret).has_room


def forward(given: Operands, by_column: Pairs, kernel: Kernel, interpret: bool) -> Found:
    """What queries find, whose largest scores, sums, and sums of values such a kernel adds up, and averages."""
    grid, (batch, _, num_heads, width) = _grid(given, by_column, interpret), given.v.shape
    lanes = grid.heads.beside * given.k.shape[3]
    of_pieces = Array((SUBLANES, lanes), axis=1, is_shared=True)
    sums, top, total, out = grid.call(_Averaged(kernel), {}, (of_pieces,), ())
    top, total = map(grid.heads.by_query, (top, total))
    total = jnp.where(total > 0, total, 1)
    out = out.swapaxes(2, 3).reshape(batch, num_heads, width, -1) / total[:, :, None]
    return Found(out.transpose(0, 3, 1, 2).astype(given.v.dtype), top, jnp.log(total), _of_runs(grid, sums))


def pulled(grid: Grid, averages: jax.Array) -> jax.Array:
    """Gradients of averages [B, runs, K, H] as the kernel of those of keys is given them: a row for each piece."""
    (_, runs, _, _), length = averages.shape, grid.given.keys.run
    assert length is not None
    rows = jnp.repeat(averages / (length // runs), length // runs // _piece(grid.given), axis=1)
    rows = jnp.pad(rows, ((0, 0), (0, grid.tiles * SUBLANES - rows.shape[1]), (0, 0), (0, 0)))
    return grid.heads.outward(rows)


def begin(step: Step, d_k: Any) -> None:
    """The sum of gradients of a tile of keys of all heads starts from those of averages."""
    d_k[...] = dot(_members(len(d_k), jnp.float32), step.arrays["averages"][0, 0], INNER)


@dataclasses.dataclass(frozen=True)
class _Averaged(Kernel):
    """A kernel whose results are sums of pieces of keys, beside what is held.

    Attributes:
      kernel: which adds up what queries find.
    """

    kernel: Kernel

    @property
    def products(self):
        return self.kernel.products

    def add(self, step, sums, is_partial):
        self.kernel.add(step, sums, is_partial)

    def end(self, step, sums):
        k = step.wide("k")
        return (dot(_members(len(k), k.dtype), k, PLAIN),)


def _grid(given: Operands, by_column: Pairs, interpret: bool) -> Held:
    """Over tiles of keys, with sums of queries."""
    tile, width = given.queries.tile, given.v.shape[3]
    row = Array((1, tile))
    left = row._replace(start=-jnp.inf), row, Array((width, tile))
    return Held(given, by_column, False, interpret, left)


def _piece(given: Operands) -> int:
    """Keys whose sum is a row."""
    return given.keys.tile // SUBLANES


def _members(tile: int, dtype: Any) -> jax.Array:
    """[SUBLANES, tile]: which keys are in each piece."""
    piece, key = (jax.lax.broadcasted_iota(jnp.int32, (SUBLANES, tile), axis) for axis in (0, 1))
    return (jax.lax.div(key, np.int32(tile // SUBLANES)) == piece).astype(dtype)


def _of_runs(grid: Grid, sums: jax.Array) -> jax.Array:
    """Averages [B, runs, K, H] of the sums of pieces of all tiles."""
    given = grid.given
    runs, length, (batch, _, own, width) = given.averages, given.keys.run, given.k.shape
    assert runs is not None and length is not None
    pieces = grid.heads.inward(sums, width)[:, : length // _piece(given)]
    return pieces.reshape(batch, runs, -1, own, width).sum(axis=2) / (length // runs)
