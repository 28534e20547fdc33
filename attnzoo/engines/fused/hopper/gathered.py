"""Softmax of chunks of queries over their own chunk of keys and the one before, by lists of rows, on a Hopper GPU.

A query meets all keys of a list at once, so that nothing runs along: its sum, and backward what its weights and their
gradients have in common, are of what is there. Gradients of a chunk of keys are those by its own queries, which are
carried, and those by the next ones.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.hopper import hashed, warpgroups
from attnzoo.engines.fused.hopper.indexed import Rows, Rule, Runs, Turn, Work, launch
from attnzoo.engines.fused.hopper.scores import LOG2E, exponent, raised, tanh
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    Matrix,
    added,
    along,
    filled,
    loaded,
    products,
    reset_block,
    spread,
    widened,
)
from attnzoo.engines.fused.listed import Gathered, Given, Pulled
from attnzoo.engines.fused.operands import filled_up

MOST = 4  # lists of each head


def gathered(interpret: Any) -> Gathered:
    """These kernels."""
    of_keyword = functools.partial(functools.partial, interpret=interpret)
    return Gathered(declined, of_keyword(forward), of_keyword(backward), of_keyword(hashed.nearest))


def declined(given: Given) -> list[str]:
    """Why there is no kernel for such lists; operands are of types and widths that others take."""
    reasons = []
    if given.size != ROWS:
        reasons.append(f"chunks of {given.size} tokens: it takes {ROWS}")
    if given.num_lists > MOST:
        reasons.append(f"{given.num_lists} lists of each head: it takes {MOST}")
    return reasons


def forward(given: Given, *, interpret: Any = None) -> tuple[jax.Array, jax.Array]:
    """What queries find in each list, [lists, B, L, N, Hv], and log-sum-exps of slots, [B, lists, N, L]."""
    own_width, given = given.v.shape[3], _widened(given)
    width = given.v.shape[3]

    def step(now: Turn, carry):
        weights, top, total = _weights(given, now)
        out = filled(0, ROWS, width)
        for each, keys in zip(weights, (now.before, now.own), strict=True):
            out = added(out, each.astype(given.v.dtype), keys.v, interpret)
        now.write("out", out * spread(1 / total, out.shape))
        now.leave("lse", top * (1 / LOG2E) + jnp.log(total))
        return carry

    work = _work(given)._replace(out=_of_lists(given, {"out": (width, given.v.dtype)}), left=("lse",))
    made = launch("forward_gathered", work, Rule(tuple, step), interpret)
    return _by_list(given, made["out"])[..., :own_width], _slots(given, made["lse"])


def backward(given: Given, pulled: Pulled, *, interpret: Any = None) -> tuple[jax.Array | None, ...]:
    """Gradients of queries, keys and values by each list and query head, [lists, B, L, N, W], and of the soft cap by
    slots, or None.
    """
    widths, given = [x.shape[3] for x in given[:3]], _widened(given)
    dtype, (width, value_width) = given.q.dtype, (given.q.shape[3], given.v.shape[3])
    begin = lambda: (filled(0, ROWS, width), filled(0, ROWS, value_width))

    def step(now: Turn, carry):
        d_out, halves, d_cap = now.queries.d_out, (now.before, now.own), filled(0, ROWS)
        weights, shift = _normalised(given, now)
        raised, undone = now.scalars.get("raised"), now.scalars.get("undone", 1.0)
        weights = weights if raised is None else [each * raised for each in weights]
        d_q, scale = filled(0, ROWS, width), now.scalars["scale"] * undone
        for each, keys in zip(weights, halves, strict=True):
            (d_weights,) = products((d_out, keys.v.T))  # once more: both halves have no registers
            d_scores = each * (d_weights + spread(shift, each.shape))
            if given.soft_cap is not None:
                slope, by_cap = _by_cap(now, keys)
                d_cap = d_cap + (d_scores * by_cap).sum(axis=1)
                d_scores = d_scores * slope
            reset_block(now.memory.weights, each.astype(dtype))
            reset_block(now.memory.d_scores, d_scores.astype(dtype))
            d_k = added(carry[0], now.memory.d_scores.T, now.queries.q, interpret)
            carry = d_k, added(carry[1], now.memory.weights.T, d_out, interpret)
            if keys is now.before:
                now.write("d_k", carry[0] * scale, of_keys=True)
                now.write("d_v", carry[1] * undone, of_keys=True)
                carry = begin()
            d_q = added(d_q, now.memory.d_scores, keys.k, interpret)
        now.write("d_q", d_q * scale)
        if given.soft_cap is not None:
            now.leave("d_cap", d_cap * undone)
        return carry

    pulled, scalars = _in_range(given, pulled)
    work = _work(given)
    is_own = given.num_lists == 1
    of_queries = dtype if is_own else jnp.float32
    of_keys = dtype if is_own and given.k.shape[2] == given.q.shape[2] else jnp.float32
    out = {"d_q": (width, of_queries), "d_k": (width, of_keys), "d_v": (value_width, of_keys)}
    pairs = jax.ShapeDtypeStruct((ROWS, ROWS), dtype)
    made = launch(
        "backward_gathered",
        work._replace(
            beyond=1,
            scalars=work.scalars | scalars,
            queries=work.queries | {"d_out": Matrix(widened(pulled.d_out))},
            numbers={"d_lse": _chunks(_joined(pulled.d_lse))},
            out=_of_lists(given, out),
            left=("d_cap",) if given.soft_cap is not None else (),
            own={"weights": pairs, "d_scores": pairs},
        ),
        Rule(begin, step),
        interpret,
    )
    grads = (_by_list(given, made[name])[..., :own] for name, own in zip(("d_q", "d_k", "d_v"), widths, strict=True))
    return *grads, _slots(given, made["d_cap"]) if given.soft_cap is not None else None


def _in_range(given: Given, pulled: Pulled) -> tuple[Pulled, dict[str, jax.Array]]:
    """What is pulled, so that gradients of pairs are in the range of their type, and by what they are multiplied."""
    if given.q.dtype != jnp.float16:
        return pulled, {}
    precise = lambda x: x.astype(jnp.float32)
    lists = precise(pulled.d_out).reshape(given.num_lists, -1, *pulled.d_out.shape[1:])
    down = exponent(jnp.abs(lists).max(axis=(0, 2, 4)))
    factor = jnp.exp2(-down)
    d_out, d_lse = lists * factor[:, None, :, None], pulled.d_lse * factor[:, None, :, None]
    value = jnp.abs(precise(given.v)).max(axis=(1, 3)).repeat(given.q.shape[2] // given.v.shape[2], axis=1)
    up = raised(2 * jnp.abs(d_out).sum(axis=4).max(axis=(0, 2)) * value + jnp.abs(d_lse).max(axis=(1, 3)))
    scalars = {"raised": jnp.exp2(up), "undone": jnp.exp2(down - up)}
    return Pulled(d_out.astype(jnp.float16).reshape(pulled.d_out.shape), d_lse), scalars


def _weights(given: Given, now: Turn) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """e^(score - largest) of both halves, times shares; the largest, in units of log 2; sums, or 1 of nothing."""
    made = products((now.queries.q, now.before.k.T), (now.queries.q, now.own.k.T))
    tiles = [
        _scores(given, now, products, chunk) for products, chunk in zip(made, (now.chunk - 1, now.chunk), strict=True)
    ]
    top = jnp.maximum(*(tile.max(axis=1) for tile in tiles))
    base = jnp.where(top == -jnp.inf, 0.0, top)
    weights = [jnp.exp2(tile - spread(base, tile.shape)) for tile in tiles]
    if given.num_lists > 1:
        weights = [each * _share(given, now, lines) for each, lines in zip(weights, now.lines[1:], strict=True)]
    total = sum(each.sum(axis=1) for each in weights)
    return weights, top, jnp.where(total > 0, total, 1.0)


def _normalised(given: Given, now: Turn) -> tuple[list[jax.Array], jax.Array]:
    """Softmax of both halves, and what is added to gradients of weights."""
    weights, _, total = _weights(given, now)
    weights = [each * spread(1 / total, each.shape) for each in weights]
    shift = loaded(now.numbers["d_lse"])
    for each, keys in zip(weights, (now.before, now.own), strict=True):
        (d_weights,) = products((now.queries.d_out, keys.v.T))
        shift = shift - (each * d_weights).sum(axis=1)
    return weights, shift


def _scores(given: Given, now: Turn, made: jax.Array, chunk) -> jax.Array:
    """Scores beside a chunk of keys, in units of log 2; what is hidden stands behind all that is not."""
    scale, cap = now.scalars["scale"], now.scalars.get("soft_cap")
    scores = made * (scale * LOG2E) if cap is None else tanh(made * (scale / cap)) * (cap * LOG2E)
    row, column = warpgroups.rows_and_columns()
    queries, keys = given.q.shape[1] - now.chunk * ROWS, now.scalars["shown"] - chunk * ROWS
    seen = (row < queries) & (column < jnp.where(chunk < 0, 0, keys))
    return jnp.where(seen, scores, -jnp.inf)


def _by_cap(now: Turn, keys) -> tuple[jax.Array, jax.Array]:
    """The slopes of scores by products, as a share of the scale, and by the cap."""
    scale, cap = now.scalars["scale"], now.scalars["soft_cap"]
    (made,) = products((now.queries.q, keys.k.T))
    inner = made * (scale / cap)
    squashed = tanh(inner)
    slope = 1 - squashed * squashed
    return slope, squashed - inner * slope


def _share(given: Given, now: Turn, lines) -> jax.Array:
    """1 / the lists in which a pair meets."""
    shape, times = (ROWS, ROWS), filled(1, ROWS, ROWS)
    for i in range(1, given.num_lists):
        chunk, key_chunk = along(now.lines[0].at[i], shape, 0), along(lines.at[i], shape, 1)
        times = times + jnp.where((key_chunk == chunk) | (key_chunk == chunk - 1), 1.0, 0.0)
    return 1 / times


def _work(given: Given) -> Work:
    (batch, _, num_heads, _), runs = given.q.shape, Runs.of(given.q.shape[1])
    scalars = {"scale": given.scale, "shown": given.shown}
    return Work(
        (batch, given.num_lists, num_heads),
        runs,
        beyond=0,
        queries={"q": Matrix(given.q)},
        keys={"k": Matrix(given.k), "v": Matrix(given.v)},
        lists=(_list(given, 0), _list(given, 1)),
        numbers={},
        scalars=scalars | ({} if given.soft_cap is None else {"soft_cap": given.soft_cap}),
        out={},
        left=(),
        own={},
    )


def _list(given: Given, side: int) -> jax.Array:
    """What a kernel is told of each slot: the row, and in which chunk of each other list it stands."""
    lines = [tokens := given.tokens[side]]
    for i in range(1, given.num_lists):
        other = jnp.roll(given.slots(side), -i, axis=1) // ROWS
        lines.append(jnp.take_along_axis(other, tokens, axis=3))
    return jnp.stack([_chunks(_joined(x)) for x in lines], axis=2)


def _joined(x: jax.Array) -> jax.Array:
    """[B, lists, N, ...] -> [B * lists * N, ...]."""
    return x.reshape(-1, *x.shape[3:])


def _chunks(x: jax.Array) -> jax.Array:
    """[..., L] -> [..., chunks, `ROWS`], with zeros behind."""
    return filled_up(x, ROWS, axis=x.ndim - 1).reshape(*x.shape[:-1], -1, ROWS)


def _slots(given: Given, left: jax.Array) -> jax.Array:
    """What each run leaves of its own chunks, [B, lists, N, L]."""
    (batch, length, num_heads, _), runs = given.q.shape, Runs.of(given.q.shape[1])
    return left[:, :, : runs.chunks].reshape(batch, given.num_lists, num_heads, -1)[..., :length]


def _of_lists(given: Given, widths: dict[str, tuple[int, Any]]) -> Rows:
    batch, length, num_heads, _ = given.q.shape
    like = lambda width, dtype: jax.ShapeDtypeStruct((given.num_lists * batch, length, num_heads, width), dtype)
    return {name: Matrix(like(*kind)) for name, kind in widths.items()}


def _by_list(given: Given, rows: jax.Array) -> jax.Array:
    return rows.reshape(given.num_lists, -1, *rows.shape[1:])


def _widened(given: Given) -> Given:
    return given._replace(q=widened(given.q), k=widened(given.k), v=widened(given.v))
