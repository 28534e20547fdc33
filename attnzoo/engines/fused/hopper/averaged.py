"""Few queries that read many keys on a Hopper GPU, and averages of runs of these: what landmarks ask of a sequence.

A block of threads holds the queries and passes over some of the keys (`passes`), which are read once for both. It
leaves softmax over its own keys, which XLA joins to that over all, and sums of each piece, of which runs are made.
Gradients of averages are the same for all keys of a run, and are added where those of keys are written (`few`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.hopper import few
from attnzoo.engines.fused.hopper.passes import Pass, Place, Rule, launch
from attnzoo.engines.fused.hopper.scores import Scores, scalars
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    Blocks,
    Matrix,
    Vectors,
    added,
    filled,
    loaded,
    products,
    spread,
)
from attnzoo.engines.fused.operands import Found, Operands, filled_up
from attnzoo.engines.fused.pairs import Lists


def fits(given: Operands, lists: Lists, runs: int) -> bool:
    """Whether queries are few, and runs of keys are whole pieces, whose sums are as wide as a piece is long."""
    if not few.fits(given, lists) or given.queries.run is None or given.keys.run is None:
        return False
    return given.queries.run < given.keys.run and given.keys.run % (ROWS * runs) == 0 and given.k.shape[3] == ROWS


def forward(given: Operands, interpret: Any) -> Found:
    """What queries find, and averages."""
    (batch, length, own, _), num_heads, scores = given.k.shape, given.q.shape[2], Scores(given, 0)
    width, runs = given.v.shape[3], given.averages
    assert runs is not None

    def make(piece, held, own, place: Place):
        (made,) = products((held.q, piece.k.T))
        beside = few.beside_all(place)._replace(own_start=jnp.int32(0), other_start=place.start)
        return scores.of(beside, held, piece, made)[0]

    def add(piece, own, tile: jax.Array, sums):
        out, top, total = sums
        largest = jnp.maximum(top, tile.max(axis=1))
        base = jnp.where(largest == -jnp.inf, 0.0, largest)
        weights, faded = scores.power(tile - spread(base, tile.shape)), scores.power(top - base)
        out, total = out * spread(faded, out.shape), total * faded + weights.sum(axis=1)
        return added(out, weights.astype(given.v.dtype), piece.v, interpret), largest, total

    def write(piece, held, own, tile):
        yield loaded(piece.k).sum(axis=0)

    def joined(out, top, total):
        largest = top.max(axis=2)
        faded = scores.power(top - jnp.where(largest == -jnp.inf, 0.0, largest)[:, :, None])
        total = (total * faded).sum(axis=2)
        return (out * faded[..., None]).sum(axis=2) / jnp.where(total > 0, total, 1.0)[..., None], largest, total

    work = Pass(
        (batch, length, num_heads),
        {"k": Matrix(given.k), "v": Matrix(given.v)},
        {"sums": Vectors(jax.ShapeDtypeStruct((batch, num_heads, 1, length), jnp.float32))},
        {"q": few.held_few(given.q)},
        {"out": (few.MOST, width), "top": (few.MOST,), "total": (few.MOST,)},
        {},
        scalars(given),
        joined,
    )
    begin = lambda: (filled(0, ROWS, width), filled(-jnp.inf, ROWS), filled(0, ROWS))
    made = launch("averaged", work, Rule(make, add, write, begin), interpret)
    sums = made["sums"][:, :: num_heads // own].reshape(batch, own, runs, -1, ROWS).sum(axis=3)
    slots = given.queries.positions.shape[1]
    row = lambda x: filled_up(x, slots, axis=2)[:, :, :slots]
    return Found(
        jnp.moveaxis(made["out"], 1, 2)[:, : given.q.shape[1]].astype(given.v.dtype),
        row(made["top"]) / scores.unit,
        row(jnp.log(jnp.where(made["total"] > 0, made["total"], 1.0))),
        jnp.moveaxis(sums, 1, 2) / (length // runs),
    )


def pulled(given: Operands, averages: jax.Array | None) -> Blocks:
    """What gradients of keys have beside, by those of averages, [B, runs, K, H]: a row for each piece and head."""
    if averages is None:
        return {}
    length, num_heads, (batch, runs, own, _) = given.k.shape[1], given.q.shape[2], averages.shape
    shares = jnp.moveaxis(averages, 1, 2) / (length // runs * (num_heads // own))
    rows = jnp.repeat(jnp.repeat(shares, length // runs // ROWS, axis=2), num_heads // own, axis=1)
    return {"beside": Vectors(rows.reshape(batch, num_heads, 1, length))}
