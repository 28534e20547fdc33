"""Softmax of chunks of tokens that lists name, and which direction a row is nearest to, by the device that a program is
lowered for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from attnzoo.contract import varying
from attnzoo.contract.call import Call
from attnzoo.engines import dense, modes
from attnzoo.engines.fused import choice
from attnzoo.engines.fused.device import Device
from attnzoo.engines.fused.listed import Given, Pulled
from attnzoo.engines.fused.way import Asked


def nearest(asked: Asked, usual: Callable, rotations: jax.Array, x: jax.Array) -> jax.Array:
    """`usual(rotations, x)`, or what a device has in its place."""

    def found(device: Device, rotations, x):
        made = None if device.gathered is None else device.gathered.nearest(rotations, x)
        return usual(rotations, x) if made is None else made

    like = jax.eval_shape(usual, rotations, x)
    return choice.by_platform(asked, lambda device: [], found, like, *varying.alike((rotations, x)))


def attend(asked: Asked, given: Given, call: Call) -> tuple[jax.Array, jax.Array]:
    """Softmax over the keys of all lists that a call makes, [B, L, N, Hv], and log-sum-exps [B, L, N].

    Raises:
      NotImplementedError: no kernel takes it; all reasons are listed.
    """
    asked.is_met = True
    declined = lambda device: _declined(device, given)
    beside = {"a bias": call.bias, "dropout": call.dropout}
    reasons = [f"{name} came, which rows that are gathered do not take" for name, x in beside.items() if x is not None]
    if reasons := reasons + choice.reasons_everywhere(declined):
        raise asked.declined(reasons)
    (batch, length, num_heads, _), count = given.q.shape, given.num_lists
    rows = jax.ShapeDtypeStruct((count, batch, length, num_heads, given.v.shape[3]), given.v.dtype)
    like = rows, jax.ShapeDtypeStruct((batch, count, num_heads, length), jnp.float32)

    def found(learned, fixed):
        return choice.by_platform(asked, declined, functools.partial(_found, given.size), like, learned, fixed)

    def gradients(residuals, cotangents):
        pull = functools.partial(_gradients, given.size)
        return choice.by_platform(asked, declined, pull, residuals[0], *residuals, *cotangents), None

    ruled = jax.custom_vjp(found)
    ruled.defvjp(lambda *operands: (found(*operands), operands), gradients)
    return _joined(*modes.with_rule(ruled, found)(*varying.alike((given[:5], given[5:7]))))


def _declined(device: Device, given: Given) -> list[str]:
    reasons = device.declined(*given[:3])
    return reasons + (["it gathers no rows"] if device.gathered is None else device.gathered.declined(given))


def _found(size: int, device: Device, learned, fixed):
    assert device.gathered is not None
    given = Given(*(*learned, *fixed, size))
    out, lse = device.gathered.forward(given)
    return out, jnp.take_along_axis(lse, given.slots(0), axis=3)


def _gradients(size: int, device: Device, learned, fixed, d_out, d_lse):
    assert device.gathered is not None
    given = Given(*(*learned, *fixed, size))
    pulled = Pulled(d_out.reshape(-1, *d_out.shape[2:]), jnp.take_along_axis(d_lse, given.tokens[0], axis=3))
    *grads, d_cap = device.gathered.backward(given, pulled)
    d_q, d_k, d_v = (_summed(x, like) for x, like in zip(grads, given[:3], strict=True))
    d_scale = jnp.einsum("btnh,btnh->", given.q, d_q, preferred_element_type=jnp.float32) / given.scale
    return d_q, d_k, d_v, d_scale, None if d_cap is None else d_cap.sum()[None, None]


def _summed(x, like: jax.Array) -> jax.Array:
    """Gradients [lists, B, L, N, W] of what all lists, and heads of a group, have in common."""
    x = x[0] if len(x) == 1 else x.sum(axis=0)
    if x.shape[2] != like.shape[2]:
        x = x.reshape(*x.shape[:2], like.shape[2], -1, x.shape[3]).sum(axis=3)
    return x.astype(like.dtype)


def _joined(out: jax.Array, lse: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One softmax from those of all lists."""
    lse = jnp.moveaxis(lse, 3, 2)  # [B, lists, L, N]
    if len(out) == 1:
        return out[0], lse[:, 0]
    top = jax.lax.stop_gradient(lse.max(axis=1))
    weights = jnp.exp(lse - dense.finite(top)[:, None])
    total = weights.sum(axis=1)
    total = jnp.where(total > 0, total, 1)
    joined = jnp.einsum("brtn,rbtnh->btnh", weights / total[:, None], out, preferred_element_type=jnp.float32)
    return joined.astype(out.dtype), top + jnp.log(total)
