"""Softmax over the keys of all devices: each hands keys on around a ring, and what it has found of them is merged.

No device ever has more than its own keys and those of one other (Liu et al. 2023, arXiv:2310.01889); backward, their
gradients travel with them, home. Over P devices each sends P - 1 times its part of keys and values. Keys that no query
of a device may see, for their distance, padding or segments, pass it by.

Where the future is hidden, the first device would see one part and the last one all. So sequences are exchanged first:
device i takes pieces i and 2 P - 1 - i of 2 P, and in each step all devices meet as many pairs, all of them visible
(the zigzag of Zhu 2024, github.com/zhuzilin/ring-flash-attention). Queries, keys, values and outputs are sent once more
for it, which halves the work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.contract import varying
from attnzoo.contract.bias import Bias, PositionBias
from attnzoo.contract.call import Call
from attnzoo.contract.mask import START, UNENDING, Mask, Origin
from attnzoo.contract.shards import Shards
from attnzoo.engines import dense, modes, streaming
from attnzoo.engines.schedule import Layout


class Queries(NamedTuple):
    """What there is of queries: [B, T, N, H], [..., T], [..., T] and [B, N, T, R]."""

    q: jax.Array
    shown: jax.Array | None
    segments: jax.Array | None
    projected: jax.Array | None


class Keys(NamedTuple):
    """What there is of keys: [B, S, K, H], [B, S, K, Hv], [..., S] and [..., S]."""

    k: jax.Array
    v: jax.Array
    shown: jax.Array | None
    segments: jax.Array | None


LENGTHS = {Queries: (1, 2, 2, 2), Keys: (1, 1, 2, 2)}  # the axes of sequences


class Asked(NamedTuple):
    """What is the same for all queries and keys: what is learned, and what is not."""

    params: Any
    bias: Any  # a rule, or an array [B or 1, N or 1, T or 1, S or 1]
    mods: Any
    dense: jax.Array | None
    offset: Any
    dropout: Any


class Pair(NamedTuple):
    """Pieces that meet, and where they begin in the whole."""

    query_piece: int | jax.Array
    key_piece: int | jax.Array
    first_query: jax.Array
    first_key: jax.Array
    is_causal: bool


def part(
    score: Callable,
    params: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    call: Call,
    layout_of: Callable[..., Layout],
    *,
    per_pair: int = 1,
) -> dense.Part:
    """Softmax of the queries of a device over all keys, of the arguments of `streaming.part`."""
    ring, mask = _Ring(call, streaming.Pass(score, layout_of, per_pair)), call.mask
    given, projected = (None, None) if call.bias is None else (call.bias.given, call.bias.projected)
    queries = ring.in_pieces(Queries(q, mask.queries, mask.query_segments, projected))
    keys = ring.in_pieces(Keys(k, v, mask.keys, mask.key_segments))
    asked = Asked(params, ring.filled(given), mask.mods, ring.filled(mask.dense), mask.query_offset, call.dropout)

    @jax.custom_vjp
    def attend(queries, keys, asked):
        return ring.forward(queries, keys, asked)

    def forward(queries, keys, asked):
        found = ring.forward(queries, keys, asked)
        return found, (queries, keys, asked, found._replace(top=dense.finite(found.top)))

    def backward(residuals, cotangents):
        queries, keys, asked, found = residuals
        return ring.backward(queries, keys, asked, found, cotangents)

    attend.defvjp(forward, backward)
    found = modes.with_rule(attend, ring.forward)(queries, keys, asked)
    found = found._replace(out=found.out.astype(v.dtype), top=jax.lax.stop_gradient(found.top))
    return jax.tree.map(ring.put_together, found)


class _Ring:
    """Who has which piece of the sequences, and meets which in which step."""

    def __init__(self, call: Call, over: streaming.Pass):
        mask, shards = call.mask, call.shards
        assert shards is not None
        self.shards: Shards = shards
        self.over = over
        # What is structure of the mask alone; arrays come as operands.
        self.mask = Mask(mask.query_length, mask.key_length, mask.is_causal, START, mask.bands)
        has_rows = mask.dense is not None or (call.bias is not None and not isinstance(call.bias.given, PositionBias))
        self.is_balanced = (
            mask.is_causal
            and mask.is_placed
            and mask.place == 0
            and mask.query_length == mask.key_length
            and mask.query_length % 2 == 0
            and mask.reach[0] >= UNENDING
            and not has_rows  # whose arrays are larger than what is gained
        )

    def in_pieces(self, of: Any) -> Any:
        """`Queries` or `Keys` with pieces leading: one, or the two that this device takes."""
        each = ((x, axis) for x, axis in zip(of, LENGTHS[type(of)], strict=True))
        return type(of)(*(None if x is None else self._pieces(x, axis) for x, axis in each))

    def _pieces(self, x: jax.Array, axis: int) -> jax.Array:
        if not self.is_balanced:
            return x[None]
        first, second = jnp.split(x, 2, axis)
        first = self.shards.exchanged(first, lambda i: self._owner(2 * i))
        second = self.shards.exchanged(second, lambda i: self._owner(2 * i + 1))
        return self._in_turn(first, second)

    def put_together(self, pieces: jax.Array) -> jax.Array:
        """[pieces, B, t, ...] -> [B, T, ...], where the queries came from."""
        if not self.is_balanced:
            return pieces[0]
        count, both = self.shards.count, self._in_turn(*pieces)
        back = [{self._owner(2 * i + second): i for i in range(count)} for second in (0, 1)]
        return jnp.concatenate([self.shards.exchanged(x, to.get) for x, to in zip(both, back, strict=True)], axis=1)

    def _in_turn(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Both, turned round on every other device: pieces of even number, of which it has one, and those in order."""
        is_even = self.shards.index % 2 == 0
        return jnp.stack([jnp.where(is_even, first, second), jnp.where(is_even, second, first)])

    def _owner(self, piece: int) -> int:
        return min(piece, 2 * self.shards.count - 1 - piece)

    def filled(self, array: Any) -> Any:
        """An array with columns of all keys, as many as devices have together; rules as they are."""
        is_array = isinstance(array, jax.Array) and array.shape[3] > 1
        return self.shards.filled(array, 3) if is_array else array

    def forward(self, queries: Queries, keys: Keys, asked: Asked) -> dense.Part:
        """What all queries of this device get: leaves lead with pieces."""
        shape, dtype = queries.q.shape, jnp.promote_types(queries.q.dtype, jnp.float32)
        row = jnp.zeros(shape[:4], dtype)
        nothing = dense.Part(jnp.zeros((*shape[:4], keys.v.shape[4]), dtype), row - jnp.inf, row)

        def visit(found, keys, pair):
            operands, fixed = self._operands(queries, keys, asked, pair)

            def merged(found):
                new = streaming.as_part(*self.over.found(*operands, fixed, dtype=dtype))
                old = jax.tree.map(lambda x: x[pair.query_piece], found)
                return jax.tree.map(lambda x, y: x.at[pair.query_piece].set(y), found, streaming.merged(old, new))

            return _where_seen(fixed[0], merged, found)

        def step(carry, turn):
            found, keys = carry
            keys = self.shards.handed_on(keys)
            return (self._visits(functools.partial(visit, keys=keys), found, turn), keys), None

        found = varying.as_of(nothing, queries)
        found = self._visits(functools.partial(visit, keys=keys), found, 0)
        return jax.lax.scan(step, (found, keys), jnp.arange(1, self.shards.count))[0][0]

    def backward(self, queries: Queries, keys: Keys, asked: Asked, found: dense.Part, cotangents: dense.Part):
        """The gradients of queries, keys and what is asked."""
        precise = lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, found.top.dtype))
        learned = (queries.q, queries.projected), (keys.k, keys.v), (asked.params, asked.bias)
        zeros = varying.as_of(jax.tree.map(precise, learned), queries)
        d_out = cotangents.out.astype(keys.v.dtype)

        def visit(totals, keys, pair):
            (operands, learned), fixed = self._operands(queries, keys, asked, pair)
            piece = lambda x: x[pair.query_piece]
            by_row = lambda x: jnp.moveaxis(piece(x), 2, 1)

            def added(totals):
                of_queries, of_keys, (of_params, of_bias) = totals
                rows = by_row(found.top), by_row(found.log_total)
                d_rows = piece(d_out), by_row(cotangents.log_total)
                grads = self.over.gradients(operands, learned, fixed, piece(found.out), rows, *d_rows)
                (d_q, d_k, d_v), (d_params, d_bias) = grads
                d_given, d_projected = (None, None) if d_bias is None else (d_bias.given, d_bias.projected)
                add = lambda piece: lambda x, y: x.at[piece].add(y)
                of_queries = jax.tree.map(add(pair.query_piece), of_queries, (d_q, d_projected))
                of_keys = jax.tree.map(add(pair.key_piece), of_keys, (d_k, d_v))
                of_params = jax.tree.map(jnp.add, of_params, d_params)
                of_bias = jax.tree.map(functools.partial(self._with_columns, pair), of_bias, d_given)
                return of_queries, of_keys, (of_params, of_bias)

            return _where_seen(fixed[0], added, totals)

        def step(carry, turn):
            (of_queries, of_keys, of_asked), keys = carry
            keys, of_keys = self.shards.handed_on((keys, of_keys))
            visit_next = functools.partial(visit, keys=keys)
            return (self._visits(visit_next, (of_queries, of_keys, of_asked), turn), keys), None

        totals = self._visits(functools.partial(visit, keys=keys), zeros, 0)
        totals = jax.lax.scan(step, (totals, keys), jnp.arange(1, self.shards.count))[0][0]
        (d_q, d_projected), of_keys, (d_params, d_bias) = totals
        d_k, d_v = self.shards.handed_on(of_keys)
        fit = lambda grads, like: jax.tree.map(lambda grad, x: grad.astype(x.dtype), grads, like)
        d_q, d_projected = fit((d_q, d_projected), (queries.q, queries.projected))
        d_k, d_v = fit((d_k, d_v), (keys.k, keys.v))
        d_params, d_bias = fit((d_params, d_bias), (asked.params, asked.bias))
        return Queries(d_q, None, None, d_projected), Keys(d_k, d_v, None, None), Asked(d_params, d_bias, *[None] * 4)

    def _visits(self, visit: Callable, carry: Any, turn: int | jax.Array) -> Any:
        """`visit(carry, pair=...)` of all pairs of pieces that meet in a turn."""
        here = self.shards.index
        there = (here - turn) % self.shards.count
        if not self.is_balanced:
            first_query, first_key = here * self.mask.query_length, there * self.mask.key_length
            return visit(carry, pair=Pair(0, 0, first_query, first_key, self.mask.is_causal))
        size, last = self.mask.query_length // 2, 2 * self.shards.count - 1
        begins = lambda device, piece: jnp.where(piece == 0, device, last - device) * size
        pair = lambda a, b, is_causal=False: Pair(a, b, begins(here, a), begins(there, b), is_causal)
        carry = visit(carry, pair=pair(1, 0))
        if isinstance(turn, int):  # of its own keys
            return visit(visit(carry, pair=pair(0, 0, True)), pair=pair(1, 1, True))
        same = jnp.where(there < here, 0, 1)
        return visit(carry, pair=pair(same, same))

    def _operands(self, queries: Queries, keys: Keys, asked: Asked, pair: Pair):
        """Those of `streaming.Pass` for two pieces that meet: ((operands, learned), fixed)."""
        of_queries = jax.tree.map(lambda x: x[pair.query_piece], queries)
        of_keys = jax.tree.map(lambda x: x[pair.key_piece], keys)
        length = of_queries.q.shape[1], of_keys.k.shape[1]
        first_query, first_key = pair.first_query[None, None], pair.first_key[None, None]
        is_diagonal = self.is_balanced and pair.is_causal
        mask = Mask(
            *length,
            pair.is_causal,
            START if is_diagonal else asked.offset + first_query - first_key,
            self.mask.bands,
            asked.mods,
            dense=self._columns(pair, length[1], asked.dense),
            keys=of_keys.shown,
            queries=of_queries.shown,
            query_segments=of_queries.segments,
            key_segments=of_keys.segments,
            origin=Origin(first_query, first_key, asked.offset),
        )
        given = self._columns(pair, length[1], asked.bias)
        bias = None if given is None else Bias(given, of_queries.projected)
        return ((of_queries.q, of_keys.k, of_keys.v), (asked.params, bias)), (mask, asked.dropout, ())

    def _columns(self, pair: Pair, length: int, array: Any) -> Any:
        """The columns of the keys of a pair; a rule as it is."""
        if not isinstance(array, jax.Array) or array.shape[3] == 1:
            return array
        return jax.lax.dynamic_slice_in_dim(array, pair.first_key, length, 3)

    def _with_columns(self, pair: Pair, total: jax.Array, part: jax.Array) -> jax.Array:
        """`total` and what was found of the columns of a pair, or of a leaf of a rule."""
        if total.shape == part.shape:
            return total + part
        old = jax.lax.dynamic_slice_in_dim(total, pair.first_key, part.shape[3], 3)
        return jax.lax.dynamic_update_slice_in_dim(total, old + part, pair.first_key, 3)


def _where_seen(mask: Mask, visit: Callable, carry: Any) -> Any:
    """`visit(carry)` of pieces that meet under a mask, or what was carried where it hides all of them."""
    is_some = mask.may_show()
    return visit(carry) if is_some is None else jax.lax.cond(is_some, visit, lambda carry: carry, carry)
