"""Wide values on a Hopper GPU: their columns, which do not know of each other, as heads that share queries and keys."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.hopper.meeting import Given, How
from attnzoo.engines.fused.hopper.recurrence import State
from attnzoo.engines.fused.hopper.warpgroups import ROWS


def by_columns(recur: Callable, how: How, given: Given) -> tuple[jax.Array, State]:
    """`recur(how, given)` of values [B, T, K, Hv], Hv a multiple of `ROWS`, by one that takes `ROWS` of them."""
    num_heads, width = given.read.shape[2], given.value.shape[3]
    if width == ROWS:
        return recur(how, given)
    by_part = lambda x: x if x is None or x.ndim == 4 or x.shape[1] == 1 else jnp.repeat(x, width // ROWS, axis=1)
    value = jnp.repeat(given.value, num_heads // given.value.shape[2], axis=2)
    given = given._replace(
        value=value.reshape(*value.shape[:2], -1, ROWS),
        beside_read=list(map(by_part, given.beside_read)),
        beside_key=list(map(by_part, given.beside_key)),
        log_decay=by_part(given.log_decay),
        rate=by_part(given.rate),
        found=None if given.found is None else State(_parted(given.found.sums)),
    )
    out, left = recur(how, given)
    sums = jnp.moveaxis(left.sums.reshape(len(left.sums), num_heads, -1, *left.sums.shape[2:]), 2, 3)
    return out.reshape(*value.shape), State(sums.reshape(*sums.shape[:3], width))


def _parted(sums: jax.Array) -> jax.Array:
    """A state [B, N, F, Hv] by parts of values: [B, N * parts, F, `ROWS`]."""
    sums = jnp.moveaxis(sums.reshape(*sums.shape[:3], -1, ROWS), 3, 2)
    return sums.reshape(len(sums), -1, *sums.shape[3:])
