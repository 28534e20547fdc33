"""Kernels for Flax's own multi-head layers, through their `attention_fn`.

Those layers know one mask, a [*batch, N, T, S] array. `as_attention_fn` is told what it means, and recovers the
structure that a kernel can honour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.contract.sizes import Dims
from attnzoo.door import refusal, validation
from attnzoo.door.arguments import Asked
from attnzoo.door.validation import is_traced
from attnzoo.kernel import Kernel
from attnzoo.layers import projected
from attnzoo.layers.projected import Attention, Dropping

# What the layer's mask may mean, and the fields of `Support` that this needs.
MEANINGS = {
    "dense": ("mask",),
    "key": ("key_mask",),
    "causal": ("causal",),
    "causal+key": ("causal", "key_mask"),
}


def as_attention_fn(
    kernel: Kernel, mask: str = "dense", query_offset: int | None = None, *, dropout_on: str = "weights"
) -> Callable:
    """An `attention_fn` for Flax's own Linen and NNX layers that attends with `kernel`.

    Args:
      kernel: any kernel without learned parameters; for others take the layers of `attnzoo.linen` or `attnzoo.nnx`.
      mask: what the layer's mask means. "dense": any mask. "key": hidden keys, one row for all queries. "causal": the
        lower triangle, which `init` of a Linen layer with decode=True is given, too. "causal+key": both. Queries that
        the mask leaves blind, such as padding, give 0. The structure is checked where the mask is concrete, and trusted
        where it is traced. A key mask does not tell which queries are padding: kernels that average queries, as
        `Nystrom`, count them; `attend` takes `query_seq_lengths`.
      query_offset: the key position of query 0, as in `attend`. None reads it off the mask where there are not as many
        queries as keys and they must be placed: with `decode=True` Flax shows a query the keys of its cache up to its
        own. Where a mask is traced and is no such one, outputs are NaN.
      dropout_on: what the layer's `dropout_rate` drops: "weights", or "outputs", entries of what each head gives, for
        kernels that have no weights.

    Returns:
      A function of query, key and value [*batch, length, heads, dim] and of every keyword that the layers pass. Each is
      honoured or refused by name; a mask is never dropped.

    Raises:
      ValueError: `mask` or `dropout_on` is no such word; `query_offset` is no integer; the kernel has learned
        parameters, or wants more of tokens than keys and values; when called, the mask is not what was said, or does
        not tell where the queries stand.
      NotImplementedError: when called, the kernel cannot honour the mask, or has no weights to drop.

    Example:
      >>> from flax import linen
      >>> attention_fn = as_attention_fn(SlidingWindow(left=64, right=0), mask="causal")
      >>> layer = linen.MultiHeadDotProductAttention(num_heads=8, attention_fn=attention_fn)
    """
    validation.kernel(kernel)
    if mask not in MEANINGS:
        raise ValueError(f"mask={mask!r}: expected what the layer's mask means, one of {', '.join(MEANINGS)}")
    if jax.tree.leaves(jax.eval_shape(lambda: kernel.init(jax.random.key(0), Dims(1, 2, 2, 1, 1, 2, 2)))):
        raise ValueError(
            f"{kernel!r} has learned parameters, which Flax's own layers cannot hold: use MultiHeadAttention of "
            "attnzoo.linen or attnzoo.nnx"
        )
    if inputs := kernel.token_inputs(Dims(1, 2, 2, 1, 1, 2, 2)):
        raise ValueError(
            f"{kernel!r} wants {', '.join(map(repr, inputs))} of every token, which Flax's own layers do not make: use "
            "MultiHeadAttention of attnzoo.linen or attnzoo.nnx"
        )
    if query_offset is not None:
        validation.query_offset(query_offset, None)
    projected.check_dropout(kernel, 0.0, dropout_on)
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
        projected.refuse_einsums(
            kernel,
            qk_attn_weights_einsum=qk_attn_weights_einsum,
            attn_weights_value_einsum=attn_weights_value_einsum,
        )
        rate, rng = (0.0, None) if deterministic or dropout_rate == 0 else (dropout_rate, dropout_rng)
        projected.check_dropout(kernel, rate, dropout_on)
        validation.dropout(rate, rng)
        if dtype is not None:
            query, key, value = (x.astype(dtype) for x in (query, key, value))
        # Softmax is computed in float32 at least in any case; where that is asked for, Flax keeps weights in it, too.
        weights_dtype = jnp.promote_types(query.dtype, jnp.float32) if force_fp32_for_softmax else query.dtype
        found = _recovered(kernel, meaning, mask, bias, is_causal, query, key, query_offset)
        attended = projected.attend_heads(
            _where(found.seen, query),
            key,
            value,
            found.asked,
            Attention(kernel, precision=precision),
            Dropping(rate, rng, broadcast_dropout, dropout_on),
            weights_dtype=weights_dtype if module is not None else None,
        )
        if module is not None:
            _sow(module, attended.weights)
        out = _where(found.seen, attended.out)
        return out if found.sure is None else jnp.where(found.sure[..., None, None, None], out, jnp.nan)

    return attention_fn


class _Recovered(NamedTuple):
    """What a layer's mask tells.

    Attributes:
      asked: what it hides and where the queries stand, as arguments of `attend`.
      seen: the queries that it lets see, bool [*batch, T], or None.
      sure: bool [*batch], False where the place of the queries was not to be read off it, or None.
    """

    asked: Asked
    seen: jax.Array | None = None
    sure: jax.Array | None = None


def _recovered(kernel, meaning, mask, bias, is_causal, query, key, told) -> _Recovered:
    shape, batch = (query.shape[-3], key.shape[-3]), query.shape[:-3]
    counts = kernel.supports.positions or is_causal or "causal" in meaning
    is_known = told is not None or shape[0] == shape[1] or not counts
    if mask is None:
        if "causal" in meaning and not is_causal:
            raise ValueError(
                f'the layer passed no mask, but as_attention_fn was told mask="{meaning}": pass it a causal mask, to '
                "`init` of a layer with decode=True as well"
            )
        if not is_known:
            _refuse_place(kernel, shape, "it passed no mask")
        return _Recovered({"bias": bias, "is_causal": is_causal, "query_offset": told or 0})
    for field in MEANINGS[meaning]:
        if not getattr(kernel.supports, field):
            refusal.refuse(kernel, [(f'mask="{meaning}" of as_attention_fn (one of {", ".join(MEANINGS)})', field)])
    mask = projected.as_bool(mask)
    offset: int | jax.Array = told or 0
    given: Asked = {"bias": bias, "is_causal": is_causal or "causal" in meaning}
    if meaning == "dense" and is_known:
        return _Recovered(given | {"mask": mask, "query_offset": offset})
    whole = mask[None] if mask.ndim == 2 else mask
    whole = jnp.broadcast_to(whole, (*batch, whole.shape[-3], *shape))
    if not is_known:
        if meaning == "key":
            _refuse_place(kernel, shape, 'mask="key" tells nothing of it')
        offset = (
            jnp.max(jnp.where(whole[..., 0, -1, :], projected.along(len(batch), shape[1]) + 1, 0), axis=-1) - shape[0]
        )
    last = jnp.broadcast_to(offset, batch)[..., None] + projected.along(len(batch), shape[0])
    triangle = projected.along(len(batch) + 1, shape[1]) <= last[..., None]
    if meaning == "dense":
        sure = (whole == triangle[..., None, :, :]).all(axis=(-3, -2, -1))
        if not is_traced(sure) and not bool(sure.all()):
            _refuse_place(kernel, shape, "its mask is not that of a cache, which shows all keys up to the query's own")
        return _Recovered(given | {"mask": mask, "query_offset": offset}, sure=sure)
    triangle = triangle if "causal" in meaning else jnp.ones_like(triangle)
    keys = whole.any(axis=-2).any(axis=-2) if "key" in meaning else jnp.ones((*batch, shape[1]), bool)
    seen = whole.any(axis=-1).any(axis=-2)
    expected = (triangle & keys[..., None, :])[..., None, :, :]
    _check(meaning, whole, expected & seen[..., None, :, None])
    key_mask = keys if "key" in meaning else None
    return _Recovered(given | {"key_mask": key_mask, "query_offset": offset}, seen)


def _refuse_place(kernel, shape, why):
    raise ValueError(
        f"the layer passed {shape[0]} queries and {shape[1]} keys, and {kernel!r} or causality must know where these "
        f"queries stand: {why}; pass as_attention_fn a `query_offset`, or take the layers of attnzoo.linen or "
        "attnzoo.nnx"
    )


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
