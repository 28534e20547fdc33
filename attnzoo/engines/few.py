"""Softmax over keys that are few, and projections that make few of many: by XLA, or kernels where one asks for them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract import varying
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Mask
from attnzoo.engines import dense, heads, streaming
from attnzoo.engines.fused import projected as fused
from attnzoo.engines.fused import route, way
from attnzoo.engines.runs import Runs


def projected(projection: jax.Array, x: jax.Array) -> jax.Array:
    """[N or 1, r, S], in float32 at least, and [B, S, K, H] -> [B, r, N or K, H]: sums over positions."""
    if len(projection) == 1 < x.shape[2]:  # one product where heads share, as if they were one
        whole = projected(projection, x.reshape(*x.shape[:2], 1, -1))
        return whole.reshape(len(x), -1, *x.shape[2:])
    if (asked := way.asked()) is not None:
        return fused.projected(asked, _projected, projection, x)
    return _projected(projection, x)


def _projected(projection: jax.Array, x: jax.Array) -> jax.Array:
    batch, _, key_heads, width = x.shape
    groups = projection.reshape(key_heads, -1, *projection.shape[1:])
    return jnp.einsum("kgrs,bskh->brkgh", groups, x).reshape(batch, -1, len(projection), width)


def over_heads(q: jax.Array, k: jax.Array, v: jax.Array, call: Call) -> jax.Array:
    """[B, T, N, Hv] of q [B, T, N, H], k [B, r, N or K, H] and v [B, r, N or K, Hv], by the scale and cap of a call.

    Keys and values in float32 beside queries in fewer bits stay so; a kernel of a device rounds them to these.
    """
    if way.asked() is None:
        return heads.over_heads(lambda q, k, v: of_head(q, k, v, call.scale, call.soft_cap), q, k, v)
    return by_kernel(q, k.astype(q.dtype), v.astype(q.dtype), call)


def by_kernel(q: jax.Array, k: jax.Array, v: jax.Array, call: Call, shown: jax.Array | None = None) -> jax.Array:
    """The same by a kernel of a device, where keys or queries are few; `shown` [B, r], or [B, S], are keys to see."""
    score, params = streaming.dot_product(q, call.scale, call.soft_cap)
    mask = Mask(q.shape[1], k.shape[1], keys=None if shown is None else shown[:, None])
    return streaming.over_heads(score, params, q, k, v, Call(mask), streaming.natural_layout)[0]


def means(x: jax.Array, count: int, asked: way.Asked | None = None) -> jax.Array:
    """[B, T, N, H] -> [B, count, N, H], in float32 at least: means of so many runs of tokens (`runs.Runs`).

    XLA has those of runs that are all as long. Others are sums by a kernel of a device that projects, or of slices: as
    products they would turn tokens round. Each token has its share of the gradient.

    Args:
      asked: for kernels; by whoever asks now, unless given.
    """
    runs, precise = Runs(x.shape[1], count), jnp.promote_types(x.dtype, jnp.float32)
    if runs.are_even:
        return heads.means(x, count)
    asked = asked or way.asked()
    assert asked is not None
    sizes = runs.sizes[None, :, None, None].astype(precise)

    @jax.custom_vjp
    def uneven(x):
        projection = members(runs.starts, jnp.arange(runs.length)[None]).astype(precise)[None]
        return fused.projected(asked, lambda _, x: _sums(runs, x), projection, x) / sizes

    def backward(_, d_means):
        shares = (d_means / sizes).astype(x.dtype)
        return (fused.picked(asked, shares, runs.of(np.arange(runs.length))),)

    uneven.defvjp(lambda x: (uneven(x), None), backward)
    return uneven(x.reshape(*x.shape[:2], 1, -1)).reshape(len(x), count, *x.shape[2:])


def members(starts: jax.Array | np.ndarray, tokens: jax.Array | np.ndarray) -> Any:
    """Which tokens [1 | runs, L] are of each run, [runs, L], where these start and the last ends [runs + 1]."""
    return (starts[:-1, None] <= tokens) & (tokens < starts[1:, None])


def _sums(runs: Runs, x: jax.Array) -> jax.Array:
    """Those of runs of tokens [B, T, 1, W], each from a slice as long as the longest."""
    longest = runs.sizes.max()
    first = np.minimum(runs.starts[:-1], x.shape[1] - longest)
    own = members(runs.starts, first[:, None] + np.arange(longest))[..., None, None]
    rows = jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(x, i, longest, axis=1), out_axes=1)(first)
    return rows.sum(axis=2, where=own, dtype=jnp.promote_types(x.dtype, jnp.float32))


def averaged(q: jax.Array, k: jax.Array, v: jax.Array, call: Call, runs: int) -> tuple[jax.Array, jax.Array]:
    """The same of few queries [B, m, N, H], which see all keys, by a kernel, and averages of so many runs of these,
    [B, runs, K, H] in float32 at least: by the same kernel, where it can.
    """
    asked = way.asked()
    assert asked is not None
    score, params = streaming.dot_product(q, call.scale)
    fixed = (mask := Mask(q.shape[1], k.shape[1])), None, ()
    averages = route.Averages(Runs(k.shape[1], runs), functools.partial(means, count=runs, asked=asked))
    over = route.Pass(route.taken(asked, score, q, k, v, Call(mask)), streaming.natural_layout, asked, averages)

    @jax.custom_vjp
    def attend(operands, params):
        out, _, averages = over.found(operands, (params, None), fixed)
        return out, averages

    def forward(operands, params):
        out, rows, averages = over.found(operands, (params, None), fixed)
        return (out, averages), (operands, params, out, rows)

    def backward(residuals, cotangents):
        operands, params, out, rows = residuals
        d_out, d_averages = cotangents
        nothing = jnp.zeros_like(rows[1])
        grads, (d_params, _) = over.gradients(operands, (params, None), fixed, out, rows, d_out, nothing, d_averages)
        return jax.tree.map(lambda grad, x: grad.astype(x.dtype), (grads, d_params), (operands, params))

    attend.defvjp(forward, backward)
    return attend(*varying.alike(((q, k, v), params)))


def of_head(q: jax.Array, k: jax.Array, v: jax.Array, scale, soft_cap, shown: jax.Array | bool = True) -> jax.Array:
    """The same of one head, q [T, H] and k [r, H], of which it sees the keys that are `shown` [r]."""
    return dense.attend(dense.scores(q.astype(k.dtype), k, scale, soft_cap), v, visible=shown)[0]
