"""Gradients of softmax on an NVIDIA Hopper GPU where there are few keys, or few queries: one kernel makes all of them.

A block of threads holds what is few, and passes over the others (`passes`), each of which is read once: of these
it writes gradients, and of those it leaves sums. Where keys are held a query meets all of its own at once, so that
what its weights and their gradients have in common, which else is read off its output, is a sum of what is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.engines.fused.hopper.passes import Pass, Place, Rule, launch
from attnzoo.engines.fused.hopper.scores import Scores, scalars
from attnzoo.engines.fused.hopper.tiles import Step
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    Blocks,
    Matrix,
    Vectors,
    added,
    along,
    filled,
    products,
    set_block,
    spread,
)
from attnzoo.engines.fused.operands import Operands, Pulled
from attnzoo.engines.fused.pairs import Lists

MOST = ROWS  # keys or queries that are held


class Beside(NamedTuple):
    """What gradients of keys have beside those of what queries find.

    Attributes:
      blocks: what is read of each piece of keys.
      of: `of(piece, place, shape)`: what is added, [keys, H], of such a piece.
    """

    blocks: Blocks
    of: Callable[[Any, Place, tuple[int, ...]], jax.Array]


def fits(given: Operands, lists: Lists) -> bool:
    """Whether keys or queries are few, and each meets each tile of the others."""
    tiles = [side.tiles for side in (given.queries, given.keys)]
    return is_plain(given) and _fewest(given) <= MOST and _are_all_listed(lists, *tiles)


def is_plain(given: Operands) -> bool:
    """Whether pairs are hidden by positions alone, which are counted, and nothing is added to scores or caps them."""
    is_counted = all(side.run is not None and side.segments is None for side in (given.queries, given.keys))
    return is_counted and given.of_key is None and given.soft_cap is None and given.q.dtype == jnp.bfloat16


def _fewest(given: Operands) -> int:
    """Keys, or queries, of which positions are counted."""
    return min(side.run for side in (given.queries, given.keys) if side.run is not None)


def _are_all_listed(lists: Lists, rows: int, columns: int) -> bool:
    """Whether each tile of queries meets each of keys, so that what is hidden is hidden by positions alone."""
    start = lists.by_row.start
    return isinstance(start, np.ndarray) and bool((np.diff(start) == columns).all()) and start.shape[2] == rows + 1


def gradients(
    given: Operands, pulled: Pulled, of_keys: Any, interpret: Any, beside: Beside | None = None
) -> tuple[jax.Array, ...]:
    """Those of queries, keys and values, of each query head in `of_keys`.

    Args:
      beside: of keys, if queries are held: `averaged.pulled`.
    """
    if given.keys.run == _fewest(given):
        return _keys_held(given, pulled, of_keys, interpret)
    return _queries_held(given, pulled, of_keys, interpret, beside)


def _keys_held(given: Operands, pulled: Pulled, of_keys: Any, interpret: Any) -> tuple[jax.Array, ...]:
    scores, dtype = Scores(given, 0), given.q.dtype

    def make(piece, held, own, place: Place):
        made, d_weights = products((piece.q, held.k.T), (piece.d_out, held.v.T))
        tile, _ = scores.of(beside_all(place), piece, held, made)
        weights = scores.weights(tile, piece.kept)
        d_scores = weights * d_weights
        shift = scores.shift(tile.shape, piece.kept) - spread(d_scores.sum(axis=1), tile.shape)
        set_block(own.weights, weights.astype(dtype))
        set_block(own.d_scores, (d_scores + weights * shift).astype(dtype))
        return place

    def write(piece, held, own, place: Place):
        (d_q,) = products((own.d_scores, held.k))
        yield d_q * place.scalars["scale"]

    def add(piece, own, place: Place, sums):
        d_k, d_v = sums
        d_k = added(d_k, own.d_scores.T, piece.q, interpret)
        return d_k, added(d_v, own.weights.T, piece.d_out, interpret)

    (batch, length, num_heads, _), widths = given.q.shape, (given.k.shape[3], given.v.shape[3])
    work = Pass(
        (batch, length, num_heads),
        {
            "q": Matrix(given.q),
            "d_out": Matrix(pulled.d_out),
            "kept": Vectors(scores.kept(pulled._replace(shift=pulled.d_log_total))),
        },
        {"d_q": Matrix(jax.ShapeDtypeStruct(given.q.shape, dtype))},
        {"k": held_few(given.k), "v": held_few(given.v)},
        {"d_k": (MOST, widths[0]), "d_v": (MOST, widths[1])},
        _own(dtype),
        scalars(given),
    )
    begin = lambda: tuple(filled(0, MOST, width) for width in widths)
    made = launch("backward_few_keys", work, Rule(make, add, write, begin), interpret)
    d_k, d_v = (_many(made[name], given.k.shape[1]) for name in ("d_k", "d_v"))
    return made["d_q"], (d_k * given.scale[:, None, :, None]).astype(of_keys), d_v.astype(of_keys)


def _queries_held(
    given: Operands, pulled: Pulled, of_keys: Any, interpret: Any, beside: Beside | None
) -> tuple[jax.Array, ...]:
    scores, dtype = Scores(given, 1), given.q.dtype

    def make(piece, held, own, place: Place):
        made, d_weights = products((piece.k, held.q.T), (piece.v, held.d_out.T))
        tile, _ = scores.of(beside_all(place), held, piece, made)
        weights = scores.power(tile - along(held.log, tile.shape, 1))
        set_block(own.weights, weights.astype(dtype))
        set_block(own.d_scores, (weights * (d_weights + along(held.shift, tile.shape, 1))).astype(dtype))
        return place

    def write(piece, held, own, place: Place):
        (d_k,) = products((own.d_scores, held.q))
        d_k = d_k * place.scalars["scale"]
        yield d_k + beside.of(piece, place, d_k.shape) if beside else d_k
        (d_v,) = products((own.weights, held.d_out))
        yield d_v

    def add(piece, own, place: Place, sums):
        (d_q,) = sums
        return (added(d_q, own.d_scores.T, piece.k, interpret),)

    (batch, length, _, width), num_heads = given.k.shape, given.q.shape[2]
    log, shift = jnp.moveaxis(scores.kept(pulled)[..., :MOST], 2, 0)
    of_head = lambda width: Matrix(jax.ShapeDtypeStruct((batch, length, num_heads, width), of_keys))
    work = Pass(
        (batch, length, num_heads),
        {"k": Matrix(given.k), "v": Matrix(given.v), **(beside.blocks if beside else {})},
        {"d_k": of_head(width), "d_v": of_head(given.v.shape[3])},
        {"q": held_few(given.q), "d_out": held_few(pulled.d_out), "log": log, "shift": shift},
        {"d_q": (MOST, width)},
        _own(dtype),
        scalars(given),
    )
    made = launch("backward_few_queries", work, Rule(make, add, write, lambda: (filled(0, MOST, width),)), interpret)
    d_q = _many(made["d_q"], given.q.shape[1]) * given.scale[:, None, :, None]
    return d_q.astype(dtype), made["d_k"], made["d_v"]


def beside_all(place: Place) -> Step:
    """A piece beside all that is held."""
    return Step(None, [], place.head, place.scalars, place.start, jnp.int32(0), True, lambda: None)


def _own(dtype: Any) -> dict[str, Any]:
    pairs = jax.ShapeDtypeStruct((ROWS, MOST), dtype)
    return {"weights": pairs, "d_scores": pairs}


def held_few(x: jax.Array) -> jax.Array:
    """[B, L, heads, W] -> [B, heads, `MOST`, W] of the first ones, or all."""
    return jnp.moveaxis(jnp.pad(x[:, :MOST], ((0, 0), (0, max(0, MOST - x.shape[1])), (0, 0), (0, 0))), 2, 1)


def _many(x: jax.Array, length: int) -> jax.Array:
    """The inverse, with zeros for the others of so many."""
    return jnp.pad(jnp.moveaxis(x, 1, 2), ((0, 0), (0, max(0, length - MOST)), (0, 0), (0, 0)))[:, :length]
