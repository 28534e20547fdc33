"""The recurrence of a Hopper GPU that is given few heads: parts of a sequence beside each other, as if examples.

A block of threads takes a head from end to end, so that a batch of 16 heads leaves seven of eight multiprocessors idle.
Where blocks are a quarter of these or fewer, sequences are cut into parts, as many as occupy all. What a part writes
into an empty state is a product of matrices, made by XLA; sums over the parts before it make of them the state that it
finds. Programs move twice as much so, forward, and two and a half times with gradients.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.engines import heads, state
from attnzoo.engines.fused.hopper import recurrence as hopper_recurrence
from attnzoo.engines.fused.hopper.recurrence import Side, Sides, State, Walked
from attnzoo.engines.fused.hopper.warpgroups import ROWS, all_slots, unclipped

PROCESSORS = 132  # of an H100 or H200
FEWEST = 4  # parts that are worth what they move beside the kernel
SHORTEST = 8  # pieces of a part, beside which a state is little


def recurrence(
    given: Sides,
    found: State | None,
    *,
    is_backward: bool = False,
    states: jax.Array | None = None,
    **how: Any,
) -> Walked:
    """As `recurrence.recurrence`, in parts where that occupies the device."""
    parts, length = count(given), given.read.rows.shape[1]
    if parts > 1:
        full = lambda side: side._replace(rows=unclipped(side.rows))
        given = Sides(full(given.read), full(given.key), full(given.value), given.decays)
        found, given = _found(given, found, parts, is_backward), _cut(given, parts)
        states = None if states is None else _examples(states, parts)
    walked = hopper_recurrence.recurrence(given, found, is_backward=is_backward, states=states, **how)
    return walked if parts == 1 else _joined(walked, parts, is_backward, length)


def count(given: Sides) -> int:
    """Parts of a sequence: equal ones, of which all blocks of threads run at once."""
    batch, length, _, _ = given.read.rows.shape
    return best(batch * _heads(given) * given.value.rows.shape[3] // ROWS, all_slots(length) // ROWS)


def best(blocks: int, pieces: int) -> int:
    """The same, where each has so many blocks of threads, and all have so many pieces."""
    most = min(PROCESSORS // blocks, pieces // SHORTEST)
    return next((parts for parts in range(most, FEWEST - 1, -1) if pieces % parts == 0), 1)


def _heads(given: Sides) -> int:
    return max(side.rows.shape[2] for side in given[:3])


def _examples(x: jax.Array, parts: int, axis: int = 1) -> jax.Array:
    """[B, ..., parts * L, ...] -> [B * parts, ..., L, ...]."""
    x = jnp.moveaxis(x.reshape(*x.shape[:axis], parts, -1, *x.shape[axis + 1 :]), axis, 1)
    return x.reshape(-1, *x.shape[2:])


def _whole(x: jax.Array, parts: int, axis: int = 1) -> jax.Array:
    """The inverse."""
    x = jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _cut(given: Sides, parts: int) -> Sides:
    one = lambda x: None if x is None else _examples(x, parts, 2)
    read, key, value = (Side(_examples(side.rows, parts), one(side.one)) for side in given[:3])
    if (decays := given.decays) is not None:
        decays = _examples(jnp.broadcast_to(decays, (len(given.read.rows), *decays.shape[1:])), parts, 3)
    return Sides(read, key, value, decays)


def _joined(walked: Walked, parts: int, is_backward: bool, length: int) -> Walked:
    last = 0 if is_backward else parts - 1
    whole = lambda x, axis: None if x is None else _whole(x, parts, axis)
    left = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:])[:, last], walked.left)
    one, states, passed = map(whole, (walked.one, walked.states, walked.passed), (2, 1, 3))
    return Walked(_whole(walked.out, parts)[:, :length], one, left, states, passed)


def _found(given: Sides, found: State | None, parts: int, is_backward: bool) -> State:
    """The state before each part, of one before all of them: [B * parts, N, ...]."""
    fading, totals = (None, None) if given.decays is None else _fading(given.decays, parts, is_backward)
    written = _written(given, fading, parts)
    if found is None:
        found = jax.tree.map(lambda x: jnp.zeros_like(x[:, 0]), written)

    def of_each(before, left):
        turned = lambda x: jnp.flip(x, axis=1) if is_backward else x
        chain = jnp.concatenate([before[:, None], turned(left)[:, :-1]], axis=1)
        return turned(_summed(chain, None if totals is None else turned(totals))).reshape(-1, *left.shape[2:])

    return jax.tree.map(of_each, found, written)


def _summed(chain: jax.Array, totals: jax.Array | None) -> jax.Array:
    """Sums [B, parts, N, ...] of each and of what parts, [B or 1, parts, N or 1], leave of those before it."""
    if totals is None:
        return jnp.cumsum(chain, axis=1)
    between = jnp.pad(totals[:, :-1], ((0, 0), (1, 0), (0, 0)))
    pairs = jax.vmap(jax.vmap(state.pair_sums, in_axes=1))(between)
    weights = jnp.tril(jnp.exp(pairs))
    weights = jnp.broadcast_to(weights, (len(chain), chain.shape[2], *pairs.shape[2:]))
    return jnp.einsum("bnts,bsn...->btn...", weights, chain, precision="highest")


def _fading(decays: jax.Array, parts: int, is_backward: bool) -> tuple[jax.Array, jax.Array]:
    """Logarithms of what a part leaves of what its tokens write, [B or 1, parts, N or 1, t], and of what it found."""
    within = _examples(decays[:, :, 1], parts, 2).reshape(len(decays), parts, decays.shape[1], -1, ROWS)
    totals = decays[:, :, int(is_backward), ROWS - 1 :: ROWS]
    totals = _examples(totals, parts, 2).reshape(*within.shape[:-1])
    ends = ((0, 0),) * (totals.ndim - 1)
    if is_backward:
        beyond = jnp.cumsum(jnp.pad(totals[..., :-1], (*ends, (1, 0))), axis=-1)
    else:
        beyond = jnp.flip(jnp.cumsum(jnp.pad(jnp.flip(totals[..., 1:], axis=-1), (*ends, (1, 0))), axis=-1), axis=-1)
    return (within + beyond[..., None]).reshape(*within.shape[:3], -1), totals.sum(axis=-1)


def _written(given: Sides, fading: jax.Array | None, parts: int) -> State:
    """What each part writes into an empty state: [B, parts, N, ...]."""
    num_heads, (batch, _, own, _) = _heads(given), given.key.rows.shape
    # [B, parts, t, K, 1, W], and [B, parts, K, heads that share it or 1, t]
    rows = lambda side: _examples(side.rows, parts).reshape(batch, parts, -1, own, 1, side.rows.shape[3])
    by_head = lambda x: x.reshape(*x.shape[:2], own if x.shape[2] > 1 else 1, -1, x.shape[3])
    one = lambda x: by_head(_examples(x, parts, 2).reshape(batch, parts, num_heads, -1))
    left = None if fading is None else jnp.exp(by_head(fading))
    key, value = rows(given.key), rows(given.value)
    faded = value if left is None else (value * jnp.moveaxis(left, 4, 2)[..., None]).astype(value.dtype)
    spread = lambda x: jnp.broadcast_to(x, (*x.shape[:3], num_heads // own, *x.shape[4:])).reshape(
        batch, parts, num_heads, *x.shape[4:]
    )
    sums = spread(jnp.einsum("bptkaf,bptkgh->bpkgfh", key, faded, preferred_element_type=jnp.float32))
    if given.value.one is None and given.key.one is None:
        return State(sums)
    weight, other = (given.value.one, key) if given.value.one is not None else (given.key.one, value)
    weight = one(weight) if left is None else one(weight) * left
    ones = spread(jnp.einsum("bptkaw,bpkgt->bpkgw", heads.precise(other), weight, precision="highest"))
    return State(sums, ones if given.value.one is not None else ones[:, :, :, None])
