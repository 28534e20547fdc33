"""Softmax over listed tiles, with memory O(T + S): the maximum, the sum and the output run along.

    m' = max(m, max_j s_j)    l' = l e^(m - m') + sum_j e^(s_j - m')    o' = o e^(m - m') + sum_j e^(s_j - m') v_j

A step takes a few tiles of queries, each beside a few tiles of keys (`schedule`); the backward pass visits the same
tiles again and recomputes their weights from maximum and sum, so nothing of size [T, S] is ever kept. Rabe and Staats
2021, arXiv:2112.05682; Dao et al. 2022, arXiv:2205.14135.

What is hidden scores -inf, as under a bias of -inf. The lowest finite number, of which additive masks are full, is a
score like others: maximum and sum stay apart, since beside it the logarithm of a sum is lost.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.bias import Bias, PositionBias
from attnzoo.contract.call import Call
from attnzoo.contract.dropout import Dropout
from attnzoo.contract.mask import Mask
from attnzoo.engines import dense, heads, listing, modes, schedule
from attnzoo.engines.fused import route, way
from attnzoo.engines.fused.terms import ProductScore, Terms
from attnzoo.engines.progressions import Numbers, as_arithmetic
from attnzoo.engines.schedule import Layout, Schedule
from attnzoo.engines.tiling import cut, cut_pairs, join, join_pairs

# Queries and keys in a tile. Measured on a CPU at H = 64: see `schedule.PAIRS`.
TILE = 512


class Scored(NamedTuple):
    """What the scores of one head depend on, in tiles, or for one tile of queries without its axis R."""

    q: jax.Array  # [R, t, H]
    k: jax.Array  # [C, s, H]
    bias: jax.Array | None  # [R or 1, C or 1, t or 1, s or 1]
    projected: jax.Array | None  # [R, t, ...]: what `rule` keeps of each query
    rule: PositionBias | None
    params: Any


class Tiles(NamedTuple):
    """What one head differentiates: operands cut into tiles, and what the scores depend on beside them."""

    scored: Scored
    v: jax.Array  # [C, s, Hv]


class Frame(NamedTuple):
    """What one head does not differentiate: where the tiles stand, what is hidden or dropped."""

    rows: jax.Array  # int [R, t]
    columns: jax.Array  # int [C, s]
    mask: Mask  # without its dense part
    dense: jax.Array | None  # bool [R or 1, C or 1, t or 1, s or 1]
    dropout: Dropout | None


class Running(NamedTuple):
    """Softmax over the tiles visited so far: leaves lead with [R, t], or with [G, t] for the tiles of one step."""

    out: jax.Array
    top: jax.Array  # -inf where nothing has been visible
    total: jax.Array


@dataclasses.dataclass(frozen=True)
class DotProduct(ProductScore):
    """The score of `dense.scores`; its parameters are those of `scale` and `soft_cap` that are there."""

    usual: float  # scale, where none is given

    def __call__(self, params, q, k, dtype):
        return dense.capped(product(q, k, dtype) * params.get("scale", self.usual), params.get("soft_cap"))

    def terms(self, params, q, k):
        return Terms(params.get("scale", jnp.full((1, 1), self.usual, jnp.float32)), params.get("soft_cap"))


def dot_product(
    q: jax.Array, scale: jax.Array | None = None, soft_cap: jax.Array | None = None
) -> tuple[DotProduct, dict[str, jax.Array]]:
    """The score of queries and keys of as many numbers as `q` has, and its parameters."""
    given = {"scale": scale, "soft_cap": soft_cap}
    return DotProduct(q.shape[-1] ** -0.5), {name: x[None, None] for name, x in given.items() if x is not None}


def product(q: jax.Array, k: jax.Array, dtype=None) -> jax.Array:
    """q k^T of operands in `dtype`, accumulated in float32 at least; gradients come in the dtypes of q and k.

    Operands are as they are where `dtype` is None.
    """
    return _dot("th,sh->ts", q, k) if dtype is None else _product_in(q, k, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product_in(q: jax.Array, k: jax.Array, dtype) -> jax.Array:
    return _dot("th,sh->ts", q.astype(dtype), k.astype(dtype))


def _product_gradients(dtype, operands, d_scores):
    q, k = operands
    d_scores = _as_operand(d_scores, dtype)
    d_q, d_k = _dot("ts,sh->th", d_scores, k.astype(dtype)), _over_queries(d_scores, q.astype(dtype))
    return d_q.astype(q.dtype), d_k.astype(k.dtype)


_product_in.defvjp(lambda q, k, dtype: (_product_in(q, k, dtype), (q, k)), _product_gradients)


def _as_operand(pairs: jax.Array, dtype) -> jax.Array:
    """Gradients by pairs as an operand of the products that sum them: in the dtype of the others, if its range allows.

    Small gradients, shared by many keys, fall below the range of float16.
    """
    return pairs if dtype == jnp.float16 else pairs.astype(dtype)


def _over_queries(pairs: jax.Array, x: jax.Array) -> jax.Array:
    """pairs^T x: [t, s], [t, H] -> [s, H]. As the transpose of x^T pairs it takes half the time on a CPU.

    The barrier keeps XLA from undoing that.
    """
    return jax.lax.optimization_barrier(_dot("th,ts->hs", x, pairs)).T


def over_heads(*args, **kwargs) -> tuple[jax.Array, jax.Array]:
    """Softmax attention of all heads over listed tiles, of the arguments of `part`.

    Returns:
      out [B, T, N, Hv], and the log-sum-exp of the scores [B, T, N], -inf where nothing is visible.

    Example:
      >>> from attnzoo.contract.call import Call
      >>> from attnzoo.engines import streaming
      >>> @jax.jit
      ... def causal(q, k, v):
      ...     score, params = streaming.dot_product(q)
      ...     call = Call(Mask(4, 4, is_causal=True))
      ...     return streaming.over_heads(score, params, q, k, v, call, streaming.natural_layout)
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> out, lse = causal(q, k, v)
      >>> bool(jnp.allclose(lse[0, :, 0], 8**0.5 + jnp.log(jnp.arange(1, 5))))  # of 1 to 4 keys, all of one score
      True
    """
    only = part(*args, **kwargs)
    return only.out, only.lse()


def part(
    score: Callable,
    params: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    call: Call,
    layout_of: Callable[..., Layout],
    drawn: Any = (),
    *,
    per_pair: int = 1,
) -> dense.Part:
    """Softmax of all heads over the keys that a layout lists.

    Args:
      score: `score(params, q [t, H], k [s, H], dtype) -> [t, s]`, in float32 at least; `dtype` is that of operands of
        products, for `product`, since where gradients are taken q and k come in float32 at least; None forward.
      params: a tree whose leaves lead with [B or 1, N or 1].
      q: [B, T, N, H]. k: [B, S, K, H], or of N heads where each query head has keys of its own. v: [B, S, K, Hv].
      call: its mask, bias and dropout; scale and soft cap are the score's own matter.
      layout_of: `layout_of(mask, drawn)` of one head; its tiles are known beforehand, its steps may be traced.
      drawn: a tree that `layout_of` needs beside the mask; leaves lead with [B or 1, N or 1].
      per_pair: numbers that the score of one pair goes through at once.

    Returns:
      out [B, T, N, Hv], and [B, T, N] that weigh it in `joined`: the largest score, and the logarithm of the sum.

    Example:
      >>> import numpy as np
      >>> from attnzoo.contract.call import Call
      >>> from attnzoo.engines import streaming
      >>> @jax.jit
      ... def in_two_sets(q, k, v):
      ...     score, params = streaming.dot_product(q)
      ...     def of(keys):
      ...         layout_of = lambda mask, drawn: streaming.listed_layout(mask, np.arange(4), keys)
      ...         return streaming.part(score, params, q, k, v, Call(Mask(4, 4)), layout_of)
      ...     return streaming.joined(of(np.array([0, 2])), of(np.array([1, 3])))
      >>> q = k = v = jax.random.normal(jax.random.key(0), (1, 4, 2, 8))
      >>> out, lse = in_two_sets(q, k, v)
      >>> bool(jnp.allclose(out, attend(q, k, v), atol=1e-5))
      True
    """
    over = _pass_of(score, layout_of, per_pair, q, k, v, call)

    @jax.custom_vjp
    def attend(operands, learned, fixed):
        return forward(operands, learned, fixed)[0]

    def forward(operands, learned, fixed):
        # Traced once for the value and for its gradient: the second trace names the mesh that is there, and so does
        # the first one, or they would count as two.
        with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
            out, rows = over.found(operands, learned, fixed)
        return (out, rows), (operands, learned, fixed, out, (dense.finite(rows[0]), rows[1]))

    def backward(residuals, cotangents):
        (operands, learned, fixed, out, rows), (d_out, (_, d_log_total)) = residuals, cotangents
        grads = over.gradients(operands, learned, fixed, out, rows, d_out, d_log_total)
        return *jax.tree.map(lambda grad, x: grad.astype(x.dtype), grads, (operands, learned)), None

    attend.defvjp(forward, backward)
    given = (q, k, v), (params, call.bias), (call.mask, call.dropout, drawn)
    out, rows = modes.with_rule(attend, over.found)(*given)
    return as_part(out, rows)


def _pass_of(score: Callable, layout_of, per_pair: int, q, k, v, call: Call) -> Pass | route.Pass:
    """By XLA, or by a kernel of ours where it is asked for."""
    if (asked := way.asked()) is None:
        return Pass(score, layout_of, per_pair)
    return route.Pass(route.taken(asked, score, q, k, v, call), layout_of, asked)


def as_part(out: jax.Array, rows: tuple[jax.Array, jax.Array]) -> dense.Part:
    """What a `Pass` found, with heads behind queries."""
    top, log_total = (jnp.moveaxis(x, 1, 2) for x in rows)
    return dense.Part(out, jax.lax.stop_gradient(top), log_total)


class Pass:
    """Over the tiles of a layout, of all heads: once for what is found, and once for its gradients.

    Operands are q, k and v; what is learned, the parameters of the score and the bias; what is fixed, mask, dropout and
    what the layout needs beside the mask: all as in `part`.
    """

    def __init__(self, score: Callable, layout_of: Callable[..., Layout], per_pair: int = 1):
        self.score, self.layout_of, self.per_pair = score, layout_of, per_pair
        self.precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # jax declares none
        self.found = jax.jit(self._found, inline=True, static_argnames="dtype")

    def _found(self, operands, learned, fixed, dtype=None):
        """out [B, T, N, Hv] in `dtype`, that of v where None, and by row [B, N, T] the largest score and the logarithm
        of the sum.
        """
        q, _, v = operands
        batch, length, num_heads, _ = q.shape
        of_out = jax.ShapeDtypeStruct((batch, length, num_heads, v.shape[3]), dtype or v.dtype)
        of_row = jax.ShapeDtypeStruct((batch, num_heads, length), _accumulated(q))

        def head(operands, leading):
            learned, fixed = leading
            out, *rows = _forward(self.score, *_cut_head(operands, learned, fixed, self.layout_of), len(operands[0]))
            return out.astype(of_out.dtype), tuple(rows)

        into = of_out, (of_row, of_row)
        return heads.accumulate(head, operands, (learned, fixed), into, self._numbers(operands))

    def gradients(self, operands, learned, fixed, out, rows, d_out, d_log_total):
        """Those of operands and of what is learned, in float32 at least.

        `out` and `rows` are of all keys that the queries meet, of which the operands may have some; the largest score
        is 0 where nothing is visible.
        """

        def head(sequences, leading):
            (operands, out, d_out), (learned, fixed, rows, d_log_total) = sequences, leading
            tiles = _cut_head(operands, learned, fixed, self.layout_of)
            return _backward(self.score, *tiles, operands, learned, out, rows, d_out, d_log_total)

        precise = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.promote_types(x.dtype, _accumulated(operands[0])))
        into = jax.tree.map(precise, (operands, learned))
        given = (operands, out, d_out), (learned, fixed, rows, d_log_total)
        with jax.default_matmul_precision(self.precision):
            return heads.accumulate(head, *given, into, self._numbers(operands))

    def _numbers(self, operands) -> int:
        (batch, length, num_heads, _), key_length = operands[0].shape, operands[1].shape[1]
        return batch * num_heads * length * key_length * self.per_pair


def _accumulated(q: jax.Array):
    """The dtype of what is summed."""
    return jnp.promote_types(q.dtype, jnp.float32)


def natural_layout(
    mask: Mask, drawn: Any = (), *, tile: tuple[int, int] = (TILE, TILE), pairs: int = schedule.PAIRS
) -> Layout:
    """All queries and keys in their order, in even tiles of at most about `tile`, and `pairs` in a step."""
    return listed_layout(mask, np.arange(mask.query_length), np.arange(mask.key_length), tile=tile, pairs=pairs)


def pairwise_layout(mask: Mask, drawn: Any = ()) -> Layout:
    """The same where each pair goes through as many numbers as a head has.

    128 x 128 pairs of 64 are 4 MB, about as much as the scores of a step elsewhere. A kernel of a device, which takes
    scores that are products and no others, holds no such numbers.
    """
    if way.tiles() is not None:
        return natural_layout(mask, drawn)
    return natural_layout(mask, drawn, tile=(128, 128), pairs=128 * 128)


def listed_layout(
    mask: Mask,
    queries: np.ndarray,
    keys: np.ndarray,
    *,
    tile: tuple[int, int] = (TILE, TILE),
    pairs: int = schedule.PAIRS,
) -> Layout:
    """The same of some queries beside some keys, by their indices."""
    is_known = listing.is_known(mask)
    if is_known:
        tile = listing.sizes(mask, tile)
    sizes = (schedule.tile_size(len(index), size) for index, size in zip((queries, keys), tile, strict=True))
    rows, columns = map(schedule.tiled, (queries, keys), sizes)
    kinds = listing.kinds(mask, rows, columns) if is_known else None
    return Layout(rows, columns, schedule.visible_tiles(mask, rows, columns, pairs=pairs, kinds=kinds))


def listed_everywhere(mask: Mask, drawn: Any = ()) -> Layout:
    """All queries beside all keys, wherever these stand."""
    sizes = schedule.tile_size(mask.query_length, TILE), schedule.tile_size(mask.key_length, TILE)
    rows, columns = map(schedule.natural, (mask.query_length, mask.key_length), sizes)
    return Layout(rows, columns, schedule.all_tiles(mask, rows, columns))


def joined(*parts: dense.Part) -> tuple[jax.Array, jax.Array]:
    """Softmax over the keys of all parts, none of which is in two, and its log-sum-exp."""
    both = merged(*parts)
    return both.out.astype(parts[0].out.dtype), both.lse()


def merged(*parts: dense.Part) -> dense.Part:
    """The same as a part of softmax over more keys, in float32 at least."""

    def running(part: dense.Part) -> Running:
        total = jnp.exp(part.log_total)
        return Running(part.out.astype(total.dtype) * total[..., None], part.top, total)

    return dense.Part(*_settled(functools.reduce(_merged, map(running, parts))))


def _cut_head(operands, learned, fixed, layout_of) -> tuple[Tiles, Frame, Layout]:
    (q, k, v), (params, bias), (mask, dropout, drawn) = operands, learned, fixed
    layout = layout_of(mask, drawn)
    rows, columns = layout.rows, layout.columns
    array, projected, rule = _cut_bias(bias, rows, columns)
    scored = Scored(cut(q, rows), cut(k, columns), array, projected, rule, params)
    dense = None if mask.dense is None else cut_pairs(mask.dense, rows, columns)
    frame = Frame(as_arithmetic(rows), as_arithmetic(columns), dataclasses.replace(mask, dense=None), dense, dropout)
    return Tiles(scored, cut(v, columns)), frame, layout


def _cut_bias(
    bias: Bias | None, rows: Numbers, columns: Numbers
) -> tuple[jax.Array | None, jax.Array | None, PositionBias | None]:
    """The array in tiles, what a rule keeps of each query in tiles, and the rule."""
    if bias is None:
        return None, None, None
    if not isinstance(bias.given, PositionBias):
        return cut_pairs(bias.given, rows, columns), None, None
    return None, None if bias.projected is None else cut(bias.projected, rows), bias.given


def _forward(score, tiles: Tiles, frame: Frame, layout: Layout, length: int):
    """One head: out [T, Hv], the largest score [T] and the logarithm of the sum [T], as in a `dense.Part`."""
    q = tiles.scored.q
    score = functools.partial(score, dtype=None)
    accumulated = jnp.promote_types(q.dtype, jnp.float32)
    (count, height), width = q.shape[:2], tiles.v.shape[-1]
    zero = _zero(q, accumulated)
    running = Running(
        jnp.full((count, height, width), zero),
        jnp.full((count, height), zero - jnp.inf),
        jnp.full((count, height), zero),
    )
    for visited in layout.schedules:
        visit = _each_row(functools.partial(_visit, score, tiles, frame, visited))

        def step(running, rows, blocks, visit=visit):
            merged = _merged(Running(*(x[rows] for x in running)), visit(rows, blocks))
            return Running(*(x.at[rows].set(new) for x, new in zip(running, merged, strict=True)))

        running = visited.scan(step, running)
    fills = 0, -jnp.inf, 0
    return [join(x, layout.rows, length, fill) for x, fill in zip(_settled(running), fills, strict=True)]


def _zero(q: jax.Array, dtype) -> jax.Array:
    """0 with the batch axes of the queries, whatever they hold.

    A carry that starts without those axes gains them in the first step, and then each `vmap` traces the step twice.
    """
    return jnp.where(True, 0, q[0, 0, 0]).astype(dtype)


def _each_row(function: Callable) -> Callable:
    """`function` of each tile of queries in a step; a single one makes no batch, whose products would be slower."""

    def mapped(rows, blocks):
        if len(rows) == 1:
            return jax.tree.map(lambda x: x[None], function(rows[0], blocks[0]))
        return jax.vmap(function)(rows, blocks)

    return mapped


def _visit(score, tiles: Tiles, frame: Frame, visited: Schedule, row, blocks) -> Running:
    """Softmax of one tile of queries over the listed tiles of keys."""
    scores, visible = _scores(score, _gather(tiles.scored, visited, row, blocks), frame, visited, row, blocks)
    scores = scores if visible is None else jnp.where(visible, scores, -jnp.inf)
    top = jax.lax.stop_gradient(scores.max(axis=1))
    weights = jnp.exp(scores - dense.finite(top)[:, None])
    total = weights.sum(axis=1)
    weights = _dropped(weights, _dropout(frame, row, blocks))
    values = _blocks(tiles.v, visited, blocks)
    return Running(_dot("ts,sh->th", weights.astype(values.dtype), values), top, total)


@jax.jit
def _merged(a: Running, b: Running) -> Running:
    """Softmax over the tiles of both."""
    top = jnp.maximum(a.top, b.top)
    base = dense.finite(top)
    first, second = jnp.exp(a.top - base), jnp.exp(b.top - base)
    out = a.out * first[..., None] + b.out * second[..., None]
    return Running(out, top, a.total * first + b.total * second)


@jax.jit
def _settled(running: Running) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Output, largest score, and logarithm of the sum: 0, -inf and 0 for queries that have seen nothing."""
    total = jnp.where(running.total > 0, running.total, 1)
    return running.out / total[..., None], running.top, jnp.log(total)


def _backward(score, tiles: Tiles, frame: Frame, layout: Layout, operands, learned, out, rows, d_out, d_lse):
    """One head: the gradients of `operands` and `learned`."""
    score = functools.partial(score, dtype=tiles.scored.q.dtype)
    # d s_ij = w_ij (d w_ij - d_out_i . out_i + d_lse_i): the row sum of the softmax rule is known beforehand.
    shift = d_lse - jnp.sum(d_out.astype(d_lse.dtype) * out.astype(d_lse.dtype), axis=-1)
    top, log_total, shift, d_out = (cut(x, layout.rows) for x in (*rows, shift, d_out))

    def gradients(visited, row, blocks):
        # In float32 at least, so that gradients of a tile are not rounded before they are summed over tiles.
        picked = jax.tree.map(heads.precise, _gather(tiles.scored, visited, row, blocks))
        scores, pull, visible = jax.vjp(
            lambda picked: _scores(score, picked, frame, visited, row, blocks), picked, has_aux=True
        )
        scores = scores if visible is None else jnp.where(visible, scores, -jnp.inf)
        weights = jnp.exp(scores - top[row][:, None] - log_total[row][:, None])
        values = _blocks(tiles.v, visited, blocks)
        d_row, factors = d_out[row], _dropout(frame, row, blocks)
        d_weights = _dropped(_dot("th,sh->ts", d_row, values), factors)
        d_v = _over_queries(_as_operand(_dropped(weights, factors), values.dtype), d_row)
        (d_picked,) = pull(weights * (d_weights + shift[row][:, None]))
        return Tiles(d_picked, d_v)

    zero = _zero(tiles.scored.q, shift.dtype)
    total = jax.tree.map(lambda x: jnp.full(x.shape, zero, jnp.promote_types(x.dtype, shift.dtype)), tiles)
    for visited in layout.schedules:

        def step(total, rows, blocks, visited=visited):
            parts = _each_row(functools.partial(gradients, visited))(rows, blocks)
            return _scatter(total, parts, visited, rows, blocks)

        total = visited.scan(step, total)
    return _uncut(total, layout, operands, learned)


def _uncut(grads: Tiles, layout: Layout, operands, learned):
    """Gradients of tiles as those of what they were cut from."""
    (q, k, v), (_, bias), scored = operands, learned, grads.scored
    of_keys = (join(grad, layout.columns, len(x), 0) for grad, x in ((scored.k, k), (grads.v, v)))
    of_operands = join(scored.q, layout.rows, len(q), 0), *of_keys
    if scored.rule is not None:
        projected = None if scored.projected is None else join(scored.projected, layout.rows, len(q), 0)
        return of_operands, (scored.params, Bias(scored.rule, projected))
    if scored.bias is None:
        return of_operands, (scored.params, None)
    array = join_pairs(scored.bias, layout.rows, layout.columns, bias.given.shape)
    return of_operands, (scored.params, Bias(array))


def _gather(scored: Scored, visited: Schedule, row, blocks) -> Scored:
    """What the scores of one tile of queries depend on."""
    return scored._replace(
        q=scored.q[row],
        k=_blocks(scored.k, visited, blocks),
        bias=None if scored.bias is None else _pair(scored.bias, row, blocks),
        projected=None if scored.projected is None else scored.projected[row],
    )


def _scatter(total: Tiles, parts: Tiles, visited: Schedule, rows, blocks) -> Tiles:
    """Add the gradients of one step, whose leaves lead with [G], to those of the whole."""
    before, new = total.scored, parts.scored
    scored = Scored(
        before.q.at[rows].add(new.q),
        _add_blocks(before.k, visited, blocks, new.k),
        None if before.bias is None or new.bias is None else _add_pair(before.bias, rows, blocks, new.bias),
        None if before.projected is None else before.projected.at[rows].add(new.projected),
        *jax.tree.map(lambda x, part: x + part.sum(axis=0), (before.rule, before.params), (new.rule, new.params)),
    )
    return Tiles(scored, _add_blocks(total.v, visited, blocks, parts.v))


def _scores(score, picked: Scored, frame: Frame, visited: Schedule, row, blocks):
    """Scores [t, L s] of one tile of queries, and which of them are visible, None for all."""
    rows, columns = frame.rows[row], _columns(frame, blocks)
    scores = score(picked.params, picked.q, picked.k)
    if picked.bias is not None:
        scores += picked.bias
    if picked.rule is not None:
        scores = picked.rule.added_to(scores, *frame.mask.in_whole(rows, columns)[1:], picked.projected)
    if visited.is_whole:
        return scores, None
    visible = frame.mask.at(rows, columns)
    if frame.dense is not None:
        visible &= _pair(frame.dense, row, blocks)
    return scores, visible


def _dropout(frame: Frame, row, blocks) -> jax.Array | None:
    """The factors [t, L s] of one tile of queries."""
    index, _, positions = frame.mask.in_whole(frame.rows[row], _columns(frame, blocks))
    return None if frame.dropout is None else frame.dropout.at(index, positions)


def _dropped(weights: jax.Array, factors: jax.Array | None) -> jax.Array:
    return weights if factors is None else weights * factors.astype(weights.dtype)


def _columns(frame: Frame, blocks):
    """Key indices [L s] of the listed tiles, -1 where there is no key."""
    return jnp.where(blocks[:, None] < 0, -1, frame.columns[blocks]).reshape(-1)


def _blocks(tiles: jax.Array, visited: Schedule, blocks) -> jax.Array:
    """[C, s, H] -> the listed tiles, one below the other: [L s, H]."""
    if visited.is_run:
        listed = jax.lax.dynamic_slice_in_dim(tiles, blocks[0], len(blocks))
    else:
        listed = tiles[jnp.maximum(blocks, 0)]
    return listed.reshape(-1, tiles.shape[-1])


def _add_blocks(total: jax.Array, visited: Schedule, blocks, parts: jax.Array) -> jax.Array:
    """Add [G, L s, H] to the tiles that `blocks` [G, L] lists."""
    parts = parts.reshape(*blocks.shape, *total.shape[1:])
    if not visited.is_run:
        return total.at[jnp.maximum(blocks, 0)].add(parts)
    for first, part in zip(blocks[:, 0], parts, strict=True):
        old = jax.lax.dynamic_slice_in_dim(total, first, len(part))
        total = jax.lax.dynamic_update_slice_in_dim(total, old + part, first, 0)
    return total


def _pair(pairs: jax.Array, row, blocks) -> jax.Array:
    """[R or 1, C or 1, t or 1, s or 1] -> the tiles beside one tile of queries: [t or 1, L s or 1]."""
    row, blocks = _pair_index(pairs, row, blocks)
    picked = jnp.moveaxis(pairs[row, blocks], 0, 1)
    return picked.reshape(picked.shape[0], -1)


def _add_pair(total: jax.Array, rows, blocks, parts: jax.Array) -> jax.Array:
    """Add [G, t or 1, L s or 1] to the pairs of tiles that `rows` [G] and `blocks` [G, L] list."""
    rows, blocks = _pair_index(total, rows[:, None], blocks)
    parts = parts.reshape(*parts.shape[:2], blocks.shape[-1], -1)
    return total.at[rows, blocks].add(jnp.moveaxis(parts, 2, 1))


def _pair_index(pairs, rows, blocks):
    """Where tiles lie in `pairs`, whose axes of 1 are shared."""
    shared_columns = pairs.shape[1] == 1 and pairs.shape[3] == 1
    blocks = jnp.zeros_like(blocks[..., :1]) if shared_columns else jnp.maximum(blocks, 0)
    return (jnp.zeros_like(rows) if pairs.shape[0] == 1 else rows), blocks


def _dot(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """einsum, accumulated in float32 at least."""
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))
