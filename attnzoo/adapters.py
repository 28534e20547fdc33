"""Kernels for Flax's own multi-head layers, through their `attention_fn`.

Those layers know one mask, a [*batch, N, T, S] array. `as_attention_fn` is told what it means, and recovers the
structure that a kernel can honour.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from attnzoo import layers, refusal
from attnzoo.interface import Dims, Kernel
from attnzoo.layers import Structure
from attnzoo.positions import NoPositions
from attnzoo.validation import is_traced

# What the layer's mask may mean, and the fields of `Support` that this needs.
MEANINGS = {
    "dense": ("mask",),
    "key": ("key_mask",),
    "causal": ("causal",),
    "causal+key": ("causal", "key_mask"),
}


def as_attention_fn(kernel: Kernel, mask: str = "dense") -> Callable:
    """An `attention_fn` for Flax's own Linen and NNX layers that attends with `kernel`.

    Args:
      kernel: any kernel without learned parameters; for others take the layers of `attnzoo.linen` or `attnzoo.nnx`.
      mask: what the layer's mask means. "dense": any mask. "key": hidden keys, one row for all queries. "causal": the
        lower triangle. "causal+key": both. Queries that the mask leaves blind, such as padding, give 0. The structure
        is checked where the mask is concrete, and trusted where it is traced. A key mask does not tell which queries
        are padding: kernels that average queries, as `Nystrom`, count them; `attend` takes `query_seq_lengths`.

    Returns:
      A function of query, key and value [*batch, length, heads, dim] and of every keyword that the layers pass. Each is
      honoured or refused by name; a mask is never dropped.

    Raises:
      ValueError: `mask` is no such word; the kernel has learned parameters; when called, the mask is not what was said.
      NotImplementedError: when called, the kernel cannot honour the mask.

    Example:
      >>> from flax import linen
      >>> attention_fn = as_attention_fn(SlidingWindow(left=64, right=0), mask="causal")
      >>> layer = linen.MultiHeadDotProductAttention(num_heads=8, attention_fn=attention_fn)
    """
    if mask not in MEANINGS:
        raise ValueError(f"mask={mask!r}: expected what the layer's mask means, one of {', '.join(MEANINGS)}")
    if jax.tree.leaves(jax.eval_shape(lambda: kernel.init(jax.random.key(0), Dims(1, 2, 2, 1, 1, 2, 2)))):
        raise ValueError(
            f"{kernel!r} has learned parameters, which Flax's own layers cannot hold: use MultiHeadAttention of "
            "attnzoo.linen or attnzoo.nnx"
        )
    meaning = mask

    def attention_fn(
        query,
        key,
        value,
        bias=None,
        mask=None,
        broadcast_dropout=True,
        dropout_rng=None,
        dropout_rate=0.0,
        deterministic=False,
        dtype=None,
        precision=None,
        module=None,
        force_fp32_for_softmax=False,
        qk_attn_weights_einsum=None,
        attn_weights_value_einsum=None,
        is_causal=False,
    ):
        # Softmax arithmetic is in float32 at least in any case, which is what force_fp32_for_softmax asks for.
        del force_fp32_for_softmax
        for name, einsum in (
            ("qk_attn_weights_einsum", qk_attn_weights_einsum),
            ("attn_weights_value_einsum", attn_weights_value_einsum),
        ):
            if einsum is not None:
                raise NotImplementedError(f"{name} cannot be honoured: {type(kernel).__name__} has its own products")
        dropout_rate = 0.0 if deterministic else dropout_rate
        layers.refuse_broadcast_dropout(broadcast_dropout, dropout_rate)
        if dtype is not None:
            query, key, value = (x.astype(dtype) for x in (query, key, value))
        structure, seen = _structure(kernel, meaning, mask, bias, is_causal, query, key)
        attended = layers.attend_heads(
            _where(seen, query),
            key,
            value,
            structure,
            kernel=kernel,
            params=(),
            positions=NoPositions(),
            position_params=(),
            dropout_rate=dropout_rate,
            rng=dropout_rng if dropout_rate > 0 else None,
            precision=precision,
            with_weights=module is not None,
        )
        if module is not None:
            _sow(module, attended.weights)
        return _where(seen, attended.out)

    return attention_fn


def _structure(kernel, meaning, mask, bias, is_causal, query, key):
    """What the mask hides, as arguments of `attend`, and the queries that it lets see, bool [*batch, T] or None."""
    if mask is None:
        if "causal" in meaning and not is_causal:
            raise ValueError(
                f'the layer passed no mask, but as_attention_fn was told mask="{meaning}": pass it a causal mask'
            )
        return Structure(bias=bias, is_causal=is_causal), None
    for field in MEANINGS[meaning]:
        if not getattr(kernel.supports, field):
            refusal.refuse(kernel, [(f'mask="{meaning}" of as_attention_fn (one of {", ".join(MEANINGS)})', field)])
    mask = jnp.asarray(mask).astype(bool)
    if meaning == "dense":
        return Structure(mask=mask, bias=bias, is_causal=is_causal), None
    shape = (query.shape[-3], key.shape[-3])
    batch = query.shape[:-3]
    mask = mask[None] if mask.ndim == 2 else mask
    mask = jnp.broadcast_to(mask, (*batch, mask.shape[-3], *shape))
    causal = "causal" in meaning
    if causal and shape[0] != shape[1]:
        raise ValueError(
            f'mask="{meaning}" of as_attention_fn needs as many queries as keys, the layer passed {shape[0]} and '
            f'{shape[1]} (as it does when decoding): use mask="dense"'
        )
    triangle = jnp.tri(*shape, dtype=bool) if causal else jnp.ones(shape, bool)
    keys = mask.any(axis=-2).any(axis=-2) if "key" in meaning else jnp.ones((*batch, shape[1]), bool)
    seen = mask.any(axis=-1).any(axis=-2)
    expected = triangle & keys[..., None, None, :]
    _check(meaning, mask, expected & seen[..., None, :, None])
    key_mask = keys if "key" in meaning else None
    return Structure(bias=bias, is_causal=causal or is_causal, key_mask=key_mask), seen


def _check(meaning, mask, expected):
    if not is_traced(mask) and not bool((mask == expected).all()):
        raise ValueError(
            f'the layer\'s mask of shape {mask.shape} is not what as_attention_fn was told, mask="{meaning}": use '
            'mask="dense" with a kernel that takes any mask, or pass a mask of that structure'
        )


def _where(seen, x):
    """x [*batch, T, N, H] where the query sees anything, else 0."""
    return x if seen is None else jnp.where(seen[..., None, None], x, 0)


def _sow(module, weights):
    """Leave the weights where the layer's own attention function would."""
    if hasattr(module, "scope"):
        module.sow("intermediates", "attention_weights", weights)
        return
    from flax import nnx

    module.sow(nnx.Intermediate, "attention_weights", weights)
