"""Projections along a sequence on a Hopper GPU, of each head its own: sum_s E_rs x_s, as sums of a recurrence (`sums`).

The columns of E are keys that examples share, and x are values. One pass reads both where they lie, and another one
makes gradients of both. XLA turns x round, for a product of each head.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract import varying
from attnzoo.engines.fused.hopper import chunks, ends, sums, warpgroups
from attnzoo.engines.fused.hopper.meeting import How
from attnzoo.engines.fused.hopper.warpgroups import ROWS
from attnzoo.engines.fused.operands import filled_up


def projected(projection: jax.Array, x: jax.Array, *, interpret: Any = None) -> jax.Array | None:
    """[B, r, N, H] of E [N, r, S] and x [B, S, K, H], float32; None of other shapes and types than kernels take."""
    widths = projection.shape[1], x.shape[3]
    are_wide = all(width % ROWS == 0 and width <= chunks.WIDEST for width in widths)
    if warpgroups.missing() or not are_wide or x.dtype != chunks.DTYPE:
        return None
    columns = jnp.transpose(projection, (2, 0, 1))[None].astype(x.dtype)
    own = ends.unit(columns, x)
    keys = sums.Keys(filled_up(columns, own), filled_up(x, own), [], None, [])
    made = sums.summed(How(None, None, None, interpret=interpret), varying.alike(keys), None)
    return jnp.moveaxis(made.sums, 1, 2).astype(projection.dtype)
