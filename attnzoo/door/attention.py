"""`attend`: the one door through which every kernel is called.

The door validates, refuses what the kernel does not support, and silences what nobody may see: hidden keys and
values become zero, and so do hidden queries and their outputs, gradients with them. Every kernel gets this for free.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from attnzoo.contract.bias import PositionBias
from attnzoo.contract.call import Call
from attnzoo.contract.dropout import Dropout
from attnzoo.contract.mask import Band, Mask
from attnzoo.contract.mask_mod import MaskMod
from attnzoo.contract.sizes import Dims, Tree
from attnzoo.door import meshes, refusal, routes, sequences, trees, validation, visibility
from attnzoo.door.arguments import Function, spelled_out
from attnzoo.door.batching import over_batch_axes
from attnzoo.door.meshes import Split
from attnzoo.door.visibility import silenced
from attnzoo.engines import dense
from attnzoo.kernel import Kernel
from attnzoo.kernels.softmax import Softmax

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Integer


ADVICE = {
    "mask": "; a mask of the future is is_causal=True, and one of padding is key_mask= or key_value_seq_lengths=; what "
    "the mask of a Flax layer means, as_attention_fn can be told"
}


def _told_of_axes(function: Function) -> Function:
    """A decorator of what users call: warns where heads seem to stand before the length."""

    @functools.wraps(function)
    def called(query, key, *args, **kwargs):
        validation.axes_order(query, key)
        return function(query, key, *args, **kwargs)

    told: Any = called
    return told


def untold(function: Function) -> Function:
    """`attend` or `attention_weights` for callers who made the axes themselves."""
    plain: Any = function
    return plain.__wrapped__


@_told_of_axes
@over_batch_axes
def attend(
    query: Float[jax.Array, "*B T N H"],
    key: Float[jax.Array, "*B S K H"],
    value: Float[jax.Array, "*B S K Hv"],
    bias: Float[jax.Array, "*_"] | PositionBias | None = None,
    mask: jax.Array | None = None,
    *,
    kernel: Kernel = Softmax(),
    params: Tree = (),
    draws: Tree | None = None,
    tokens: Mapping[str, jax.Array] | None = None,
    is_causal: bool = False,
    query_offset: int | Integer[jax.Array, ""] | Integer[jax.Array, "*B"] = 0,
    query_seq_lengths: Integer[jax.Array, "*B"] | None = None,
    key_value_seq_lengths: Integer[jax.Array, "*B"] | None = None,
    key_mask: Bool[jax.Array, "*B S"] | None = None,
    query_segment_ids: Integer[jax.Array, "*B T"] | None = None,
    key_value_segment_ids: Integer[jax.Array, "*B S"] | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    mask_mod: Callable | None = None,
    score_mod: Callable | None = None,
    global_tokens: Integer[jax.Array, "*B G"] | Bool[jax.Array, "*B S"] | None = None,
    scale: float | jax.Array | None = None,
    soft_cap: float | jax.Array | None = None,
    sinks: Float[jax.Array, " N"] | None = None,
    dropout_rate: float = 0.0,
    broadcast_dropout: bool = False,
    rng: jax.Array | None = None,
    precision: str | jax.lax.Precision | None = None,
    implementation: str | None = None,
    sequence_axis: str | tuple[str, ...] | None = None,
    return_residual: bool = False,
) -> Float[jax.Array, "*B T N Hv"] | Any:
    """Attention by any kernel: a superset of `jax.nn.dot_product_attention`, with the same names and meanings.

    It differs from it on purpose. A query that may see nothing gives exactly 0, with zero gradients, and not the mean
    of the values; what stands in hidden positions, NaN included, touches nothing; the residual is float32 and has a
    gradient, where theirs is rounded to the dtype of query and has none; whole numbers, lengths out of range and scales
    that are not finite are refused; and there may be any number of batch axes.

    Args:
      query: [B, T, N, H]. The batch axis may be missing, or be several, here and in all other arguments.
      key: [B, S, K, H], where K divides N: query head n attends with key head n // (N / K).
      value: [B, S, K, Hv].
      bias: added to the scores: an array that broadcasts to [B, N, T, S], or a `PositionBias`.
      mask: bool, broadcasts to [B, N, T, S], True where a query may attend. Kernels without dense masks take one
        that is the same for all queries, or, where it is concrete, a lower triangle less some keys.
      kernel: which attention, a value such as `SlidingWindow(left=255)`.
      params: what the kernel learned, from `kernel.init(rng, dims)`.
      draws: what is random in the kernel, from `kernel.draw(rng, dims)`; None draws from `kernel.seed`.
      tokens: what each key token brings beside key and value, as `kernel.token_inputs` names it, such as a gate:
        [B, S, N, ...], or [B, S, K, ...] where the heads of a group share it. Zero means that nothing happens.
      is_causal: query i sees no key after position i + query_offset.
      query_offset: the key position of query 0; causality, windows, block patterns and position biases count from it.
        A whole number, known beforehand, or an int array that may be traced: a scalar, or [B], one for each example.
      query_seq_lengths: int [B]; queries from there on are padding and give 0.
      key_value_seq_lengths: int [B]; keys from there on are hidden.
      key_mask: bool [B, S], False for hidden keys.
      query_segment_ids: int [B, T]; queries see keys of their own segment alone. Ids come in any order, and one that
        returns is the same segment.
      key_value_segment_ids: int [B, S], likewise.
      local_window_size: w or (left, right): key positions further from the query's are hidden.
      mask_mod: `mask_mod(head, query_index, key_index) -> bool` of three whole numbers: where a query may attend. Any
        function that jax can trace; queries stand at index + query_offset. Where nothing that it closes over is traced,
        tiles that it hides from all heads are not visited, and it is asked of all pairs once, when the program is
        traced; where something is, it hides and saves no work.
      score_mod: `score_mod(score, head, query_index, key_index) -> score`, in place of a bias: scores are scaled, and
        capped, before. What it closes over has gradients. Both are those of FlexAttention (arXiv:2412.05496), without
        its index of an example: where they differ by example, `jax.vmap` the call.
      global_tokens: tokens that the kernel's pattern hides nothing from and nothing of, as Longformer's: int [B, G],
        key positions of each example in any order, -1 for none; or bool [B, S], which must be concrete. Causality,
        masks and segments hide as ever.
      scale: of the scores, 1 / sqrt(H) where None.
      soft_cap: scores are soft_cap tanh(score / soft_cap), before any bias is added (Gemma 2, arXiv:2408.00118); no cap
        where None.
      sinks: [N], a logit of each head that joins the sum of exponentials and weighs no value, so that weights add up to
        less than 1 (gpt-oss; Xiao et al. 2023, arXiv:2309.17453); the residual counts it.
      dropout_rate: fraction of attention weights dropped, in [0, 1).
      broadcast_dropout: whether the same weights, by query and key, are dropped in all examples and heads.
      rng: a key for dropout, and for nothing else.
      precision: of matrix products, forward and backward, as in `jax.default_matmul_precision`.
      implementation: "xla" is the kernel's fast route, "forward" the same for `jax.jvp`, `jacfwd` and `linearize`,
        which its rule for reverse mode keeps out, "cudnn" that of cuDNN, "pallas" kernels of ours on an accelerator, in
        place of its softmax over tiles, "reference" the equation (`head`), slower.
        None takes the fastest that is right: cuDNN for softmax and causal windows in low precision on an NVIDIA GPU,
        else "xla"; the logger "attnzoo" tells (INFO) why cuDNN declined.
      sequence_axis: axes of a mesh that queries and keys are split over along their length. Explicit axes are read from
        the type of query and need no name; Auto axes do, under `jax.set_mesh`. In a `shard_map` over them, query, key,
        value, tokens, `key_mask` and segments are this device's part, as long as all others; offsets, lengths and
        `global_tokens` count in the whole; `mask` and `bias` have the part's rows and the columns of all keys.
      return_residual: also return the log-sum-exp of the scores, float32 [B, T, N], -inf where nothing is visible.

    Returns:
      [B, T, N, Hv] in the dtype of query, or a pair of it and the residual.

    Raises:
      ValueError: an argument has the wrong type, shape or value.
      NotImplementedError: `kernel` cannot honour an argument, and the message names kernels that can; or the
        `implementation` cannot serve this call, and the message lists why.

    Example:
      >>> q = k = v = jnp.ones((2, 16, 4, 8))
      >>> attend(q, k, v, kernel=SlidingWindow(left=3, right=0), is_causal=True).shape
      (2, 16, 4, 8)
    """
    validation.kernel(kernel)
    validation.switches(is_causal=is_causal, return_residual=return_residual, broadcast_dropout=broadcast_dropout)
    validation.dropout(dropout_rate, rng)
    validation.implementation(implementation, routes.IMPLEMENTATIONS)
    query, key, value = (jnp.asarray(x) for x in (query, key, value))
    validation.operands(query, key, value)
    unbatched = query.ndim == 3
    if unbatched:
        query, key, value = query[None], key[None], value[None]
    meshes.check(sequence_axis, query, key)
    shards = meshes.of_caller(sequence_axis, query.shape[1], key.shape[1])
    dims = Dims.of(query, key, value)
    bands = () if local_window_size is None else (Band(*validation.window(local_window_size)),)
    offset = validation.query_offset(query_offset, None if unbatched else dims.batch)
    mods = () if mask_mod is None else (MaskMod.of(mask_mod, dims.num_heads),)
    structure = Mask(dims.query_length, dims.key_length, bool(is_causal), offset, bands, mods)
    masking = visibility.apply(
        structure,
        {
            "mask": mask,
            "key_mask": key_mask,
            "query_seq_lengths": query_seq_lengths,
            "key_value_seq_lengths": key_value_seq_lengths,
            "query_segment_ids": query_segment_ids,
            "key_value_segment_ids": key_value_segment_ids,
            "global_tokens": global_tokens,
        },
        dims,
        unbatched,
        kernel.supports,
        shards,
    )
    asked = {
        "is_causal": ("causal", is_causal),
        "is_causal=False": ("bidirectional", not masking.is_causal),
        "key_mask": ("key_mask", key_mask is not None),
        "key_value_seq_lengths": ("key_mask", key_value_seq_lengths is not None),
        "mask": ("mask" if masking.dense is not None else "key_mask", mask is not None),
        "local_window_size": ("mask", bool(bands)),
        "query_segment_ids": ("segments", query_segment_ids is not None),
        "global_tokens": ("global_tokens", global_tokens is not None),
        "mask_mod": ("mask", mask_mod is not None),
        "bias": ("bias", bias is not None),
        "score_mod": ("score_mod", score_mod is not None),
        "scale": ("scale", scale is not None),
        "soft_cap": ("soft_cap", soft_cap is not None),
        "sinks": ("residual", sinks is not None),
        "dropout_rate": ("dropout", dropout_rate > 0),
        "return_residual": ("residual", return_residual),
        "key of another length than query": ("cross", dims.query_length != dims.key_length),
    }
    for argument, (field, used) in asked.items():
        if used:
            refusal.refuse(kernel, [(argument, field)], ADVICE.get(argument, ""))
    of_bias = dims if shards is None else dims._replace(key_length=shards.key_length)
    call = Call(
        mask=masking,
        bias=trees.bias_of(bias, score_mod, query.dtype, of_bias),
        scale=None if scale is None else validation.scale(scale, query.dtype),
        soft_cap=None if soft_cap is None else validation.soft_cap(soft_cap, query.dtype),
        tokens=validation.token_inputs(tokens, kernel, dims, unbatched),
    )
    out, residual = _attend(
        query,
        key,
        value,
        call,
        trees.tree_of("params", params, kernel, dims),
        trees.tree_of("draws", trees.drawn(kernel, dims) if draws is None else draws, kernel, dims),
        None if sinks is None else validation.sinks(sinks, dims.num_heads),
        rng if dropout_rate > 0 else None,
        kernel=kernel,
        dropout_rate=float(dropout_rate),
        broadcast_dropout=bool(broadcast_dropout),
        precision=validation.precision_name(precision),
        implementation=routes.named(implementation),
        with_residual=return_residual,
        shards=shards,
        sequence_axis=None if shards else meshes.as_tuple(sequence_axis),
    )
    if unbatched:
        out, residual = jax.tree.map(lambda x: x[0], (out, residual))
    return (out, residual) if return_residual else out


@_told_of_axes
@spelled_out(attend, lambda name: name not in ("value", "return_residual"))
def attention_weights(
    query: Float[jax.Array, "*B T N H"],
    key: Float[jax.Array, "*B S K H"],
    bias: Float[jax.Array, "*_"] | PositionBias | None = None,
    mask: jax.Array | None = None,
    **asked,
) -> Float[jax.Array, "*B N T S"]:
    """The matrix that `attend` with the same arguments multiplies the values by: [B, N, T, S].

    Every kernel here is linear in the values, so the identity as value yields its effective weights, and so does a
    pull back of the identity, which takes its place where there are fewer queries than keys: memory is that of the
    weights. For Nystrom they may be negative; for the others they are weights in the usual sense.

    Example:
      >>> q = k = jnp.ones((2, 16, 4, 8))
      >>> attention_weights(q, k, is_causal=True).shape
      (2, 4, 16, 16)
    """
    query, key = jnp.asarray(query), jnp.asarray(key)
    validation.operands(query, key, key)
    attended = functools.partial(untold(attend), query, key, bias=bias, mask=mask, **asked)
    shards = meshes.of_caller(asked.get("sequence_axis"), query.shape[-3], key.shape[-3])
    if shards:
        identity = jax.nn.one_hot(shards.indices(0, key.shape[-3])[1], shards.key_length, dtype=key.dtype)
        return jnp.swapaxes(attended(value=_beside(key, identity[:, None, :])), -3, -2)
    if 0 < query.shape[-3] * query.shape[-2] < key.shape[-3] * key.shape[-2]:
        return _pulled_weights(attended, query, key)
    identity = jnp.eye(key.shape[-3], dtype=key.dtype)[:, None, :]
    weights = attended(value=_beside(key, identity))
    return jnp.swapaxes(weights, -3, -2)


def _beside(keys: jax.Array, values: jax.Array) -> jax.Array:
    """[S or 1, heads or 1, W] as values of all `keys` [*batch, S, heads, H], over a mesh as these are."""
    return jnp.zeros_like(keys[..., :1]) + jnp.broadcast_to(values, (*keys.shape[:-1], values.shape[-1]))


def _pulled_weights(attended, query, key) -> jax.Array:
    """[B, N, T, S] as the gradient by values that have a coordinate for each query of a group of heads."""
    length, num_heads = query.shape[-3:-1]
    group = num_heads // key.shape[-2]
    width = group * length
    out, pull = jax.vjp(lambda value: attended(value=value), _beside(key, jnp.zeros((1, 1, width), key.dtype)))
    one_group = jnp.swapaxes(jnp.eye(width, dtype=out.dtype).reshape(group, length, width), 0, 1)
    (weights,) = pull(_beside(out, jnp.tile(one_group, (1, key.shape[-2], 1))))
    by_group = jnp.moveaxis(weights.reshape(*key.shape[:-1], group, length), -4, -1)
    return by_group.reshape(*by_group.shape[:-4], num_heads, *by_group.shape[-2:])


STATIC = (
    "kernel",
    "dropout_rate",
    "broadcast_dropout",
    "precision",
    "implementation",
    "with_residual",
    "shards",
    "sequence_axis",
)


@functools.partial(jax.jit, static_argnames=STATIC)
def _attend(
    query,
    key,
    value,
    call,
    params,
    draws,
    sinks,
    rng,
    *,
    kernel,
    dropout_rate,
    broadcast_dropout,
    precision,
    implementation,
    with_residual,
    shards,
    sequence_axis,
):
    """Silence what is hidden, run the route, and zero what it wrote for hidden queries: (out, residual or None)."""
    (batch, length, num_heads, _), width = query.shape, value.shape[-1]
    if 0 in (batch, length, key.shape[1]):
        return _nothing(query, value, sinks)
    if width == 0:
        value = jnp.zeros((*value.shape[:-1], 1), value.dtype)  # sizes of other axes are lost where one is 0
    if dropout_rate:
        dropped = (1, 1) if broadcast_dropout else (batch, num_heads)
        call = dataclasses.replace(call, dropout=Dropout.make(rng, dropout_rate, *dropped))
    split = Split.of(query, key, value, sequence=sequence_axis)
    if shards is None and sequences.meets_keys(kernel, implementation, call.mask):
        split = split.with_keys(key, value)
    if shards is None and (shards := split.shards(length, key.shape[1])) is not None:
        if key.shape[1] % shards.count:
            key, value, tokens = jax.tree.map(split.whole, (key, value, call.tokens))
            call = dataclasses.replace(call, tokens=tokens)
        query, key, value, call = sequences.filled(shards, query, key, value, call)
    tokens, call = call.tokens, dataclasses.replace(call, tokens={})
    asked = {"kernel": kernel, "implementation": implementation, "with_residual": with_residual, "shards": shards}
    operands = query, key, value, tokens
    own = jax.tree.map(lambda x: split.own_heads(x.shape[2]), operands)
    of_keys = jax.tree.map(split.of_keys, operands[1:])

    def here(operands, *rest):
        return _attend_here(jax.tree.map(lambda x, own: own(x), operands, own), *rest, **asked)

    with contextlib.nullcontext() if precision is None else jax.default_matmul_precision(precision):
        out, residual = split.over_devices(
            here,
            [
                (operands, (split.of_sequence(query), *of_keys)),
                (call, split.of_call(call)),
                ((params, draws), split.by_head),
                (sinks, split.by_head),
            ],
            split.of_sequence(query),
        )
    if out.shape[1] != length:
        out, residual = jax.tree.map(lambda x: split.whole(x)[:, :length], (out, residual))
    return out[..., :width].astype(query.dtype), residual


def _attend_here(sequences_here, call, constants, sinks, *, kernel, implementation, with_residual, shards):
    """The same of what one device has."""
    query, key, value, tokens = sequences_here
    shown_keys, shown_queries = visibility.shown(call.mask, key.shape[2], shards)
    query, key, value = silenced(shown_queries, query), silenced(shown_keys, key), silenced(shown_keys, value)
    call = dataclasses.replace(
        call,
        bias=None if call.bias is None else call.bias.of(query, call.scale),
        tokens={name: silenced(shown_keys, x) for name, x in tokens.items()},
    )
    with_residual |= sinks is not None
    run = functools.partial(routes.run, implementation, kernel, with_residual=with_residual)
    operands = *constants, query, key, value, call
    if shards is None:
        out, residual = run(*operands)
    else:
        out, residual = sequences.run(shards, run, kernel, implementation, *operands)
    validation.output(out, kernel, (*query.shape[:3], value.shape[-1]))
    if sinks is not None and residual is not None:
        out, residual = dense.beside_sinks(out, residual, sinks)
    if residual is not None and shown_queries is not None:
        residual = jnp.where(shown_queries, residual, -jnp.inf)
    return silenced(shown_queries, out), residual


def _nothing(query, value, sinks):
    """The answer where there are no queries, no keys or no examples."""
    residual = jnp.full(query.shape[:3], -jnp.inf, jnp.promote_types(query.dtype, jnp.float32))
    out = jnp.zeros((*query.shape[:3], value.shape[-1]), query.dtype)
    return (out, residual) if sinks is None else dense.beside_sinks(out, residual, sinks)
