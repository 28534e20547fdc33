"""Tokens that hash alike: which of some directions is nearest to each, and softmax of chunks of them by kernels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attnzoo.contract.call import Call
from attnzoo.engines.fused import gathered as fused
from attnzoo.engines.fused import way
from attnzoo.engines.fused.listed import Given


def nearest(rotations: jax.Array, x: jax.Array) -> jax.Array:
    """argmax [x R; -x R] of R [N, r, H, c] and x [B, L, K, H]: [B, r, N, L], by a kernel of a device that has one."""
    asked = way.asked()
    assert asked is not None
    return fused.nearest(asked, _nearest, rotations, x)


def _nearest(rotations: jax.Array, x: jax.Array) -> jax.Array:
    x = jnp.repeat(x, len(rotations) // x.shape[2], axis=2)
    return jax.vmap(jax.vmap(nearest_of_head, (0, 1), 1), (None, 0))(rotations, x)


def nearest_of_head(rotations: jax.Array, x: jax.Array) -> jax.Array:
    """The same of one head, R [r, H, c] and x [L, H]: [r, L]."""
    precise = jnp.promote_types(x.dtype, jnp.float32)
    # In full precision whatever that of other products is: two routes must not hash one token to two buckets.
    x, rotations = x.astype(precise), rotations.astype(precise)
    turned = jnp.einsum("lh,rhc->rlc", x, rotations, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmax(jnp.concatenate([turned, -turned], axis=-1), axis=-1).astype(jnp.int32)


def by_kernel(
    q: jax.Array, k: jax.Array, v: jax.Array, tokens: tuple[jax.Array, jax.Array], size: int, call: Call
) -> tuple[jax.Array, jax.Array]:
    """Softmax of chunks of queries over their own chunk of keys and the one before, in all lists of a head, by a kernel
    of a device: [B, L, N, Hv], and log-sum-exps [B, L, N].

    Args:
      q: [B, L, N, H]. k: [B, L, K, H]. v: [B, L, K, Hv].
      tokens: of queries and of keys, the token in each slot, int32 [B, lists, N, L], hidden keys last.
      size: slots of a chunk.
    """
    asked, (keys, queries) = way.asked(), (call.mask.keys, call.mask.queries)
    assert asked is not None
    number = lambda x, dtype: jnp.asarray(x, dtype).reshape(-1, 1)
    given = Given(
        *(q, k, v),
        number(q.shape[3] ** -0.5 if call.scale is None else call.scale, jnp.float32),
        None if call.soft_cap is None else number(call.soft_cap, jnp.float32),
        jax.tree.map(lambda x: x.astype(jnp.int32), tokens),
        number(k.shape[1] if keys is None else keys[:, 0].sum(axis=1), jnp.int32),
        size,
    )
    out, lse = fused.attend(asked, given, call)
    if queries is None:
        return out, lse
    shown = queries[:, 0, :, None]
    return jnp.where(shown[..., None], out, 0), jnp.where(shown, lse, -jnp.inf)
