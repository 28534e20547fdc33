"""How products of queries and keys become scores, and these weights, in the kernels of a Hopper GPU.

Weights are powers of 2, of scores in units of log 2; in natural units where keys are biased, since a score of
finfo.min, which is one like others there, has no multiple.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.hopper import warpgroups
from attnzoo.engines.fused.hopper.tiles import Step
from attnzoo.engines.fused.hopper.warpgroups import along
from attnzoo.engines.fused.operands import Operands, Pulled, Side

LOG2E = math.log2(math.e)


class Scores(NamedTuple):
    """How products become scores, in tiles whose axis `axis` is that of queries."""

    given: Operands
    axis: int

    @property
    def is_biased(self) -> bool:
        return self.given.of_key is not None

    @property
    def unit(self) -> float:
        """As how many a score counts."""
        return 1.0 if self.is_biased else LOG2E

    def power(self, scores: jax.Array) -> jax.Array:
        """exp of scores in these units."""
        return jnp.exp2(scores * LOG2E if self.is_biased else scores)

    def of(self, now: Step, queries, keys, made: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """The scores of products q k^T, and tanh in a soft cap, None where there is none."""
        scale, cap, squashed = now.scalars["scale"], now.scalars.get("soft_cap"), None
        if cap is None:
            scores = made * (scale * self.unit)
        else:
            squashed = tanh(made * (scale / cap))
            scores = squashed * (cap * self.unit)
        if self.is_biased:
            scores = scores + along(keys.of_key.at[0], made.shape, 1 - self.axis)
        if now.is_masked:
            scores = jnp.where(self._seen(now, queries, keys, made.shape), scores, -jnp.inf)
        return scores, squashed

    def _seen(self, now: Step, queries, keys, shape) -> jax.Array:
        given, (own, other) = self.given, (now.own_start, now.other_start)
        query_start, key_start = (own, other) if self.axis == 0 else (other, own)
        i, is_query = _stands(given.queries, "query", queries, now, query_start, shape, self.axis)
        j, is_key = _stands(given.keys, "key", keys, now, key_start, shape, 1 - self.axis)
        seen = given.visible(i, j, now.head)
        for is_there in (is_query, is_key):
            seen = seen if is_there is None else seen & is_there
        if given.queries.segments is None:
            return seen
        query = along(queries.query.at[len(vectors_of(given.queries)) - 1], shape, self.axis)
        key = along(keys.key.at[len(vectors_of(given.keys)) - 1], shape, 1 - self.axis)
        return seen & (query == key)

    def kept(self, pulled: Pulled) -> jax.Array:
        """What a query is known by, [B, N, count, T']: logarithms that add up to that of its sum, and the shift."""
        # The lowest of numbers is lost in a sum.
        logs = (pulled.top, pulled.log_total) if self.is_biased else (pulled.top + pulled.log_total,)
        return jnp.stack([*(x * self.unit for x in logs), pulled.shift], axis=2)

    def weights(self, scores: jax.Array, kept) -> jax.Array:
        """Softmax of scores."""
        for i in range(kept.shape[0] - 1):
            scores = scores - along(kept.at[i], scores.shape, self.axis)
        return self.power(scores)

    def shift(self, shape: tuple[int, ...], kept) -> jax.Array:
        """What is added to gradients of weights."""
        return along(kept.at[kept.shape[0] - 1], shape, self.axis)


def _stands(side: Side, name: str, refs, now: Step, start, shape, axis: int) -> tuple[jax.Array, jax.Array | None]:
    """Positions [rows, columns], and where there are any; None for everywhere, or where positions tell."""
    if side.run is None:
        return along(getattr(refs, name).at[0], shape, axis), None
    place = warpgroups.index(shape, axis) + start
    is_there = None if side.run == side.positions.shape[1] else place < side.run
    return place + now.scalars[f"first_{name}"], is_there


def tanh(x: jax.Array) -> jax.Array:
    """As precise as float32, unlike the instruction, whose error times a cap of 50 is that of a score."""
    return 1 - 2 / (jnp.exp2(x * (2 * LOG2E)) + 1)


def exponent(x: jax.Array) -> jax.Array:
    """Of the least power of 2 that is no smaller."""
    return jnp.ceil(jnp.log2(jnp.where(x > 0, x, 1)))


def raised(most: jax.Array) -> jax.Array:
    """Of the power of 2 by which gradients of pairs in float16 are multiplied, which are `most` at most.

    Float16 ends at 6e-5, above a weight of one in 20,000 keys. So the largest there may be comes to 2^15.
    """
    return jnp.clip(15 - exponent(most), 0, 15)


def vectors_of(side: Side) -> list[jax.Array]:
    """What is read of where queries or keys stand, int32 [B or 1, L] each: positions that are not counted, segments."""
    read = None if side.run is not None else side.positions, side.segments
    return [x for x in read if x is not None]


def scalars(given: Operands) -> dict[str, jax.Array]:
    """Those of a head: scale, soft cap, and the first positions of what is counted."""
    first = {"first_query": given.queries, "first_key": given.keys}
    found = {"scale": given.scale} | ({} if given.soft_cap is None else {"soft_cap": given.soft_cap})
    return found | {name: side.positions[:, :1] for name, side in first.items() if side.run is not None}
