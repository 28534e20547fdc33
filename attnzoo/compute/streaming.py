"""Softmax over listed tiles, with memory O(T + S): the maximum, the sum and the output run along.

    m' = max(m, max_j s_j)    l' = l e^(m - m') + sum_j e^(s_j - m')    o' = o e^(m - m') + sum_j e^(s_j - m') v_j

A step takes one tile of queries and a few tiles of keys (`schedule`); the backward pass visits the same tiles
again and recomputes their weights from the log-sum-exp, so nothing of size [T, S] is ever kept. Rabe and Staats
2021, arXiv:2112.05682; Dao et al. 2022, arXiv:2205.14135.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.compute import heads, schedule
from attnzoo.compute.schedule import Layout, Schedule
from attnzoo.dropout import Dropout
from attnzoo.masking import Mask, pick
from attnzoo.positions import Bias

# Measured on a CPU at H = 64 (length 4096, float32): 1024 x 1024 is within 4% of the best forward and the best
# when causal, and its scores (4 MB) still fit a cache. Smaller tiles pay for the loop, larger ones for memory.
TILE = 1024


class Tiles(NamedTuple):
    """What a step differentiates: operands cut into tiles, and what the scores depend on beside them."""

    q: jax.Array  # [R, t, H]
    k: jax.Array  # [C, s, H]
    v: jax.Array  # [C, s, Hv]
    bias: jax.Array | None  # [R or 1, C or 1, t or 1, s or 1]
    rule: Bias | None
    params: Any


class Frame(NamedTuple):
    """What a step does not differentiate: where the tiles stand, which are visited, what is hidden or dropped."""

    rows: jax.Array  # int [R, t]
    columns: jax.Array  # int [C, s]
    schedule: Schedule
    mask: Mask  # without its dense part
    dense: jax.Array | None  # bool [R or 1, C or 1, t or 1, s or 1]
    dropout: Dropout | None


def dot_product(params, q, k):
    """Scores scale q k^T; `params` is the scale."""
    return _dot("th,sh->ts", q, k) * params


def over_heads(
    score: Callable,
    params: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    bias: Bias | None = None,
    dropout: Dropout | None = None,
    *,
    tile: tuple[int, int] = (TILE, TILE),
):
    """Softmax attention of all heads over the tiles that `mask` leaves visible.

    Args:
      score: `score(params, q [t, H], k [s, H]) -> [t, s]`, in float32 at least; hashable.
      params: a tree whose leaves lead with [B or 1, N or 1].
      tile: the largest tile, queries and keys.

    Returns:
      out [B, T, N, Hv], and the log-sum-exp of the scores [B, T, N], -inf where nothing is visible.
    """
    layout = natural_layout(mask, tile)

    def one_head(q, k, v, params, mask, bias, dropout):
        return attend(score, params, q, k, v, mask, bias, dropout, layout)

    return heads.over_heads(one_head, q, k, v, (params, mask, bias, dropout))


def natural_layout(mask: Mask, tile: tuple[int, int] = (TILE, TILE)) -> Layout:
    """Queries and keys in their order, in even tiles of at most about `tile`."""
    rows = schedule.natural(mask.query_length, schedule.tile_size(mask.query_length, tile[0]))
    columns = schedule.natural(mask.key_length, schedule.tile_size(mask.key_length, tile[1]))
    return Layout(rows, columns, schedule.visible_tiles(mask, rows, columns))


def attend(score, params, q, k, v, mask: Mask, bias: Bias | None, dropout: Dropout | None, layout: Layout):
    """One head: q [T, H], k [S, H], v [S, Hv] -> out [T, Hv] and log-sum-exp [T]; 0 and -inf for queries left out."""
    rows, columns, visited = layout
    rule = bias if bias is not None and bias.rule is not None else None
    array = bias.array if bias is not None else None
    tiles = Tiles(_cut(q, rows), _cut(k, columns), _cut(v, columns), _cut_pairs(array, rows, columns), rule, params)
    frame = Frame(
        jnp.asarray(rows),
        jnp.asarray(columns),
        Schedule(*map(jnp.asarray, visited)),
        dataclasses.replace(mask, dense=None),
        _cut_pairs(mask.dense, rows, columns),
        dropout,
    )
    out, lse = _attend(score, jax.config.jax_default_matmul_precision, tiles, frame)
    return _join(out, rows, len(q), 0), _join(lse, rows, len(q), -jnp.inf)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(score, precision, tiles: Tiles, frame: Frame):
    return _forward(score, precision, tiles, frame)[0]


def _forward(score, precision, tiles, frame):
    # Without the barrier, differentiating a loop over heads would move what does not depend on the head (masks, shared
    # keys) into a scan of its own, which keeps all of it: T^2 memory.
    tiles, frame = jax.lax.optimization_barrier((tiles, frame))
    accumulate = jnp.promote_types(tiles.q.dtype, jnp.float32)
    lowest = jnp.finfo(accumulate).min
    (count, height), width = tiles.q.shape[:2], tiles.v.shape[-1]

    def step(carry, listed):
        row, blocks = listed
        out, top, total = (x[row] for x in carry)
        scores, visible = _scores(score, _gather(tiles, frame, row, blocks), frame, row, blocks)
        scores = jnp.where(visible, scores, lowest)
        new_top = jnp.maximum(top, scores.max(axis=1))
        weights = jnp.where(visible, jnp.exp(scores - new_top[:, None]), 0)
        shrink = jnp.exp(top - new_top)
        total = total * shrink + weights.sum(axis=1)
        weights = _dropped(weights, frame, row, blocks)
        values = _blocks(tiles.v, blocks)
        out = out * shrink[:, None] + _dot("ts,sh->th", weights.astype(values.dtype), values)
        return tuple(x.at[row].set(new) for x, new in zip(carry, (out, new_top, total), strict=True)), None

    start = (
        jnp.zeros((count, height, width), accumulate),
        jnp.full((count, height), lowest, accumulate),
        jnp.zeros((count, height), accumulate),
    )
    (out, top, total), _ = jax.lax.scan(step, start, frame.schedule)
    seen = total > 0
    out = (out / jnp.where(seen, total, 1)[..., None]).astype(tiles.v.dtype)
    lse = jnp.where(seen, top + jnp.log(jnp.where(seen, total, 1)), -jnp.inf)
    return (out, lse), (tiles, frame, out, lse)


def _backward(score, precision, residuals, cotangents):
    residuals, cotangents = jax.lax.optimization_barrier((residuals, cotangents))
    with jax.default_matmul_precision(precision):
        return _gradients(score, *residuals, *cotangents), None


def _gradients(score, tiles, frame, out, lse, d_out, d_lse):
    # d s_ij = w_ij (d w_ij - d_out_i . out_i + d_lse_i): the row sum of the softmax rule is known beforehand.
    accumulate = lse.dtype
    shift = d_lse - jnp.sum(d_out.astype(accumulate) * out.astype(accumulate), axis=-1)
    lse = jnp.where(lse == -jnp.inf, 0, lse)

    def step(grads, listed):
        row, blocks = listed
        picked = _gather(tiles, frame, row, blocks)
        scores, pull, visible = jax.vjp(lambda picked: _scores(score, picked, frame, row, blocks), picked, has_aux=True)
        weights = jnp.where(visible, jnp.exp(scores - lse[row][:, None]), 0)
        values = _blocks(tiles.v, blocks)
        d_weights = _dropped(_dot("th,sh->ts", d_out[row], values), frame, row, blocks)
        d_v = _dot("ts,th->sh", _dropped(weights, frame, row, blocks).astype(values.dtype), d_out[row])
        (d_picked,) = pull(weights * (d_weights + shift[row][:, None]))
        return _scatter(grads, d_picked._replace(v=d_v), row, blocks), None

    start = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, accumulate)), tiles)
    grads, _ = jax.lax.scan(step, start, frame.schedule)
    return jax.tree.map(lambda grad, x: grad.astype(x.dtype), grads, tiles)


_attend.defvjp(_forward, _backward)


def _gather(tiles: Tiles, frame: Frame, row, blocks) -> Tiles:
    """The part of `tiles` that the scores of one step depend on."""
    bias = _pair(tiles.bias, row, blocks)
    return tiles._replace(q=tiles.q[row], k=_blocks(tiles.k, blocks), v=None, bias=bias)


def _scatter(grads: Tiles, step: Tiles, row, blocks) -> Tiles:
    """Add the gradients of one step to those of the whole."""
    return Tiles(
        grads.q.at[row].add(step.q),
        _add_blocks(grads.k, blocks, step.k),
        _add_blocks(grads.v, blocks, step.v),
        None if grads.bias is None else _add_pair(grads.bias, row, blocks, step.bias),
        *jax.tree.map(jnp.add, (grads.rule, grads.params), (step.rule, step.params)),
    )


def _scores(score, picked: Tiles, frame: Frame, row, blocks):
    """Scores [t, L s] of one step, and which of them are visible."""
    rows, columns = frame.rows[row], _columns(frame, blocks)
    scores = score(picked.params, picked.q, picked.k)
    if picked.bias is not None:
        scores += picked.bias
    if picked.rule is not None:
        scores += picked.rule.at(rows, columns)
    visible = frame.mask.at(rows, columns)
    if frame.dense is not None:
        visible &= _pair(frame.dense, row, blocks)
    return scores, visible


def _dropped(weights, frame: Frame, row, blocks):
    if frame.dropout is None:
        return weights
    return weights * frame.dropout.at(frame.rows[row], _columns(frame, blocks)).astype(weights.dtype)


def _columns(frame: Frame, blocks):
    """Key indices [L s] of the listed tiles, -1 where there is no key."""
    return jnp.where(blocks[:, None] < 0, -1, frame.columns[blocks]).reshape(-1)


def _blocks(tiles: jax.Array, blocks) -> jax.Array:
    """[C, s, H] -> the listed tiles, one below the other: [L s, H]."""
    return tiles[jnp.maximum(blocks, 0)].reshape(-1, tiles.shape[-1])


def _add_blocks(grads: jax.Array, blocks, step: jax.Array) -> jax.Array:
    return grads.at[jnp.maximum(blocks, 0)].add(step.reshape(len(blocks), *grads.shape[1:]))


def _pair(pairs: jax.Array | None, row, blocks) -> jax.Array | None:
    """[R or 1, C or 1, t or 1, s or 1] -> the tiles of one step, side by side: [t or 1, L s or 1]."""
    if pairs is None:
        return None
    row, blocks = _pair_index(pairs, row, blocks)
    picked = jnp.moveaxis(pairs[row, blocks], 0, 1)
    return picked.reshape(picked.shape[0], -1)


def _add_pair(grads: jax.Array, row, blocks, step: jax.Array) -> jax.Array:
    row, blocks = _pair_index(grads, row, blocks)
    step = step.reshape(step.shape[0], len(blocks), -1)
    return grads.at[row, blocks].add(jnp.moveaxis(step, 1, 0))


def _pair_index(pairs, row, blocks):
    """Where a step's tiles lie in `pairs`, whose axes of 1 are shared."""
    shared_columns = pairs.shape[1] == 1 and pairs.shape[3] == 1
    return (0 if pairs.shape[0] == 1 else row), (jnp.zeros(1, int) if shared_columns else jnp.maximum(blocks, 0))


def _is_natural(index: np.ndarray, length: int) -> bool:
    return np.array_equal(index.reshape(-1)[:length], np.arange(length))


def _cut(array: jax.Array, index: np.ndarray) -> jax.Array:
    """[T, ...] -> [R, t, ...]; what stands where `index` is -1 is hidden by the mask."""
    if _is_natural(index, len(array)):
        tiles = jnp.pad(array, [(0, index.size - len(array))] + [(0, 0)] * (array.ndim - 1))
    else:
        tiles = pick(array, index.reshape(-1), 0)
    return tiles.reshape(*index.shape, *array.shape[1:])


def _cut_pairs(array: jax.Array | None, rows: np.ndarray, columns: np.ndarray) -> jax.Array | None:
    """[T or 1, S or 1] -> [R or 1, C or 1, t or 1, s or 1]."""
    if array is None:
        return None
    row_tiles, column_tiles = ((1, 1) if n == 1 else i.shape for n, i in zip(array.shape, (rows, columns), strict=True))
    array = pick(pick(array, rows.reshape(-1), 0), columns.reshape(-1), 1)
    return array.reshape(row_tiles + column_tiles).swapaxes(1, 2)


def _join(tiles: jax.Array, rows: np.ndarray, length: int, fill: float) -> jax.Array:
    """[R, t, ...] -> [T, ...], the inverse of `_cut`; `fill` for queries that no tile holds."""
    flat = tiles.reshape(-1, *tiles.shape[2:])
    if _is_natural(rows, length):
        return flat[:length]
    index = rows.reshape(-1)
    return jnp.full((length, *flat.shape[1:]), fill, flat.dtype).at[index[index >= 0]].set(flat[index >= 0])


def _dot(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """einsum, accumulated in float32 at least."""
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))
