"""Few queries that read many keys on a Hopper GPU, and averages of runs of these: what landmarks ask of a sequence.

A block of threads holds the queries and passes over some of the keys (`passes`), which are read once for both. It
leaves softmax over its own keys, which XLA joins to that over all, and what each run has of a piece, one or two, which
XLA joins as well. Gradients of averages are the same for all keys of a run, and are added where those of keys are
written (`few`).
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
    Pieces,
    added,
    along,
    filled,
    index,
    loaded,
    products,
    spread,
)
from attnzoo.engines.fused.operands import Found, Operands, filled_up
from attnzoo.engines.fused.pairs import Lists
from attnzoo.engines.runs import Runs


def fits(given: Operands, lists: Lists, runs: Runs) -> bool:
    """Whether queries are few, and pieces of keys are of two runs at most."""
    if not few.fits(given, lists) or given.queries.run is None or given.keys.run is None:
        return False
    return given.queries.run < given.keys.run and runs.are_few(ROWS, 2)


def forward(given: Operands, interpret: Any) -> Found:
    """What queries find, and averages."""
    (batch, length, own, _), num_heads, scores = given.k.shape, given.q.shape[2], Scores(given, 0)
    width, runs = given.v.shape[3], given.averages
    assert runs is not None
    shares = _weights(runs)
    most, pieces = shares.shape[1:]

    def make(piece, held, own, place: Place):
        (made,) = products((held.q, piece.k.T))
        step = few.beside_all(place)._replace(own_start=jnp.int32(0), other_start=place.start)
        return scores.of(step, held, piece, made)[0], place

    def add(piece, own, made, sums):
        (tile, _), (out, top, total) = made, sums
        largest = jnp.maximum(top, tile.max(axis=1))
        base = jnp.where(largest == -jnp.inf, 0.0, largest)
        weights, faded = scores.power(tile - spread(base, tile.shape)), scores.power(top - base)
        out, total = out * spread(faded, out.shape), total * faded + weights.sum(axis=1)
        return added(out, weights.astype(given.v.dtype), piece.v, interpret), largest, total

    def write(piece, held, own, made):
        keys, (_, place) = loaded(piece.k), made
        if most == 1:
            return [keys.sum(axis=0)]
        is_first = _is_of_first(runs, place, keys.shape)
        return [jnp.where(is_first, keys, 0.0).sum(axis=0), jnp.where(is_first, 0.0, keys).sum(axis=0)]

    def joined(out, top, total):
        largest = top.max(axis=2)
        faded = scores.power(top - jnp.where(largest == -jnp.inf, 0.0, largest)[:, :, None])
        total = (total * faded).sum(axis=2)
        return (out * faded[..., None]).sum(axis=2) / jnp.where(total > 0, total, 1.0)[..., None], largest, total

    sums = Pieces(jax.ShapeDtypeStruct((batch, num_heads, pieces, given.k.shape[3]), jnp.float32))
    written: Blocks = {f"sums_{number}": sums for number in range(most)}
    work = Pass(
        (batch, length, num_heads),
        {"k": Matrix(given.k), "v": Matrix(given.v)},
        written,
        {"q": few.held_few(given.q)},
        {"out": (few.MOST, width), "top": (few.MOST,), "total": (few.MOST,)},
        {},
        scalars(given),
        joined,
    )
    begin = lambda: (filled(0, ROWS, width), filled(-jnp.inf, ROWS), filled(0, ROWS))
    made = launch("averaged", work, Rule(make, add, write, begin), interpret)
    averages = jnp.zeros(())
    for number, key in enumerate(work.out):
        of_keys = made[key][:, :: num_heads // own]
        averages += jnp.einsum("rp,bkph->brkh", shares[:, number], of_keys, precision=jax.lax.Precision.HIGHEST)
    slots = given.queries.positions.shape[1]
    row = lambda x: filled_up(x, slots, axis=2)[:, :, :slots]
    return Found(
        jnp.moveaxis(made["out"], 1, 2)[:, : given.q.shape[1]].astype(given.v.dtype),
        row(made["top"]) / scores.unit,
        row(jnp.log(jnp.where(made["total"] > 0, made["total"], 1.0))),
        averages,
    )


def pulled(given: Operands, averages: jax.Array) -> few.Beside:
    """What gradients of keys have beside, by those of averages, [B, runs, K, H]: a row for each run of each piece."""
    runs, group = given.averages, given.q.shape[2] // averages.shape[2]
    assert runs is not None
    shares = jnp.einsum("rnp,brkh->nbkph", _weights(runs), averages / group, precision=jax.lax.Precision.HIGHEST)

    def of(piece, place: Place, shape: tuple[int, ...]) -> jax.Array:
        first, *second = (along(getattr(piece, name).at[0], shape, 1) for name in blocks)
        return jnp.where(_is_of_first(runs, place, shape), first, *second) if second else first

    blocks: Blocks = {f"beside_{number}": Pieces(rows) for number, rows in enumerate(shares)}
    return few.Beside(blocks, of)


def _weights(runs: Runs) -> jax.Array:
    """What each average has of each run of each piece, [runs, one or two, pieces]."""
    return runs.weights(runs.beside(ROWS).T)


def _is_of_first(runs: Runs, place: Place, shape: tuple[int, ...]) -> jax.Array:
    """Which rows of a piece are of its first run, [keys, W]."""
    stop = runs.start(runs.of(place.start) + 1)
    return place.start + index(shape, 0) < stop
