"""Softmax attention by cuDNN, through `jax.nn`: the fastest route on an NVIDIA GPU, where it is known to be right.

What it declines, it declines for a reason that `declined` tells. Some are its own (`jax.nn` refuses other dtypes and
head dims), some are known defects: a window without causality sees the future (jax #39576), gradients are NaN at
lengths that are no multiple of 128 and for a single query (cudnn-frontend #160, #1072; pytorch #196678). A bias is
rounded to the dtype of queries there, whether its gradient is given depends on the version of jax, and packed segments
have no public way.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract.call import Call
from attnzoo.engines import heads

TILE = 128  # lengths that are multiples of it have shown no defect


def attend(q: jax.Array, k: jax.Array, v: jax.Array, call: Call) -> jax.Array:
    """All heads, [B, T, N, H]; only where nothing is `declined`. Padded queries are left to the door.

    An example without keys is given one, which the door has silenced: cuDNN is asked for no sum of nothing. A scale is
    multiplied into queries, since there it is a number that is known beforehand, and has no gradient.
    """
    mask = call.mask
    if call.scale is not None:
        q = (heads.precise(q) * (call.scale * q.shape[-1] ** 0.5)).astype(q.dtype)
    lengths = None
    if mask.keys is not None:
        lengths = jnp.broadcast_to(jnp.maximum(mask.used_length(), 1)[:, 0].astype(jnp.int32), q.shape[:1])
    left = min((band.left for band in mask.bands if band.left is not None), default=mask.key_length)
    window = (left, 0) if left < mask.key_length - 1 else None
    return jax.nn.dot_product_attention(
        *(q, k, v),
        is_causal=mask.is_causal,
        key_value_seq_lengths=lengths,
        local_window_size=window,
        implementation="cudnn",
    )


def declined(q, k, v, call: Call) -> list[str]:
    """Why cuDNN cannot be taken, or cannot be trusted, for softmax attention; empty where it can."""
    mask = call.mask
    holes = None if mask.hides_ends else mask.keys
    hidden = {"a dense mask": mask.dense, "hidden keys among others": holes, "segments": mask.key_segments}
    given: dict[str, Any] = hidden | {"a bias": call.bias, "dropout": call.dropout}
    given |= {"a soft cap": call.soft_cap, "a mask_mod": mask.mods or None}
    reasons = [f"{name} came, which it is not given here" for name, value in given.items() if value is not None]
    if not mask.is_placed or mask.query_offset:
        offset = f"={mask.query_offset}" if mask.is_placed else " is an array"
        reasons.append(f"query_offset{offset}: it counts queries from the first key")
    if mask.is_causal and mask.query_length != mask.key_length:
        reasons.append(
            f"causal with {mask.query_length} queries and {mask.key_length} keys: it may align them otherwise"
        )
    if any(band.has_holes for band in mask.bands):
        reasons.append("a window with dilation or global tokens: it knows neither")
    if mask.bands and not mask.is_causal:
        reasons.append("a window without is_causal=True: it sees the future there (jax #39576)")
    if mask.query_length % TILE or mask.key_length % TILE:
        lengths = f"{mask.query_length} queries and {mask.key_length} keys"
        reasons.append(f"{lengths}: its gradients may be NaN where these are no multiples of {TILE}")
    return reasons + _refused(q, k, v, call)


def _refused(q, k, v, call: Call) -> list[str]:
    """What `jax.nn` says against this call and its gradient, found by tracing them."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)]
    gradient = jax.grad(lambda q, k, v, call: attend(q, k, v, call).astype("float32").sum(), (0, 1, 2))
    try:
        jax.eval_shape(gradient, *shapes, call)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return [str(error)]
    return []
