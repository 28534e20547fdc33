"""Few queries that read many keys on a TPU, and averages of runs of these: what landmarks ask of a sequence.

Queries are held, and what they find is summed there, while tiles of keys pass, which are read once for both: sums of
what each run has of a tile, of as many runs as fill a register, are results, which XLA joins. Gradients of averages are
the same for all keys of a run, and sums of those of keys start from them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.operands import Found, Operands
from attnzoo.engines.fused.pairs import Pairs
from attnzoo.engines.fused.tpu.folding import SUBLANES
from attnzoo.engines.fused.tpu.grid import Array, Grid, Kernel, Step
from attnzoo.engines.fused.tpu.held import Held
from attnzoo.engines.fused.tpu.mosaic import INNER, PLAIN, dot
from attnzoo.engines.runs import Runs


def fits(given: Operands, by_column: Pairs, runs: Runs, interpret: bool = False) -> bool:
    """Whether there is room for queries, which share no keys, and no tile has keys of more runs than rows."""
    are_plain = given.soft_cap is None is given.of_key and given.q.shape[2] == given.k.shape[2]
    if not are_plain or given.keys.run is None or not runs.are_few(given.keys.tile, SUBLANES):
        return False
    return _grid(given, by_column, interpret).has_room


def forward(given: Operands, by_column: Pairs, kernel: Kernel, interpret: bool) -> Found:
    """What queries find, whose largest scores, sums, and sums of values such a kernel adds up, and averages."""
    grid, (batch, _, num_heads, width) = _grid(given, by_column, interpret), given.v.shape
    lanes = grid.heads.beside * given.k.shape[3]
    of_runs = Array((SUBLANES, lanes), axis=1, is_shared=True)
    sums, top, total, out = grid.call(_Averaged(kernel), {}, (of_runs,), ())
    top, total = map(grid.heads.by_query, (top, total))
    total = jnp.where(total > 0, total, 1)
    out = out.swapaxes(2, 3).reshape(batch, num_heads, width, -1) / total[:, :, None]
    out = out.transpose(0, 3, 1, 2).astype(given.v.dtype)
    sums = grid.heads.inward(sums, given.k.shape[3])
    averages = jnp.einsum("rp,bpkh->brkh", _weights(given), sums, precision=jax.lax.Precision.HIGHEST)
    return Found(out, top, jnp.log(total), averages)


def pulled(grid: Grid, averages: jax.Array) -> jax.Array:
    """Gradients of averages [B, runs, K, H] as the kernel of those of keys is given them: rows for each tile."""
    rows = jnp.einsum("rp,brkh->bpkh", _weights(grid.given), averages, precision=jax.lax.Precision.HIGHEST)
    return grid.heads.outward(rows)


def begin(step: Step, d_k: Any) -> None:
    """The sum of gradients of a tile of keys of all heads starts from those of averages."""
    d_k[...] = dot(_members(step, jnp.float32), step.arrays["averages"][0, 0], INNER)


@dataclasses.dataclass(frozen=True)
class _Averaged(Kernel):
    """A kernel whose results are sums of keys of each run, beside what is held.

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
        return (dot(_members(step, k.dtype), k, PLAIN),)


def _grid(given: Operands, by_column: Pairs, interpret: bool) -> Held:
    """Over tiles of keys, with sums of queries."""
    tile, width = given.queries.tile, given.v.shape[3]
    row = Array((1, tile))
    left = row._replace(start=-jnp.inf), row, Array((width, tile))
    return Held(given, by_column, False, interpret, left)


def _runs(given: Operands) -> Runs:
    """Those of which averages are wanted."""
    assert given.averages is not None
    return given.averages


def _weights(given: Operands) -> jax.Array:
    """What each average has of each row of all tiles, [runs, rows]."""
    runs = _runs(given)
    return runs.weights(runs.beside(given.keys.tile, SUBLANES).ravel())


def _members(step: Step, dtype: Any) -> jax.Array:
    """[SUBLANES, tile]: which keys of a tile are of each of its runs."""
    runs, tile = _runs(step.given), step.given.keys.tile
    start = step.place.column * tile
    row, key = (jax.lax.broadcasted_iota(jnp.int32, (SUBLANES, tile), axis) for axis in (0, 1))
    return (runs.of(start + key) == runs.of(start) + row).astype(dtype)
