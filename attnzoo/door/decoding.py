"""Decoding: `start` makes a state, `step` takes the tokens that come next. Stepping equals the whole, causal call.

A prompt goes in at once, then tokens one or several at a time; each example of a batch stands at a position of its own.
The state has a static shape, and so is the carry of a `jax.lax.scan`, an argument to donate, a leaf of a checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from attnzoo.contract.bias import Bias
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Mask
from attnzoo.contract.mask_mod import MaskMod
from attnzoo.contract.sizes import Dims, Tree
from attnzoo.door import caches, meshes, refusal, trees, validation, visibility
from attnzoo.door.meshes import Names, Split
from attnzoo.engines import dense
from attnzoo.kernel import Kernel
from attnzoo.kernels.softmax import Softmax
from attnzoo.positions import PositionBias

if TYPE_CHECKING:
    from jaxtyping import Float, Integer

CHUNK = 128  # tokens of a prompt that meet the cache at once: scores are CHUNK x cache, whatever the prompt's length
ENDLESS = validation.FURTHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodingState:
    """What has come so far.

    Attributes:
      positions: int32 [B], the number of tokens so far, which is where the next one stands. Whoever rotates queries and
        keys (RoPE) does so by `positions[:, None] + jnp.arange(tokens)` before the step.
      cache: the kernel's own; leaves lead with the batch.
      kernel: static.
      dims: static; both lengths are `max_length`.

    Example:
      >>> state = start(batch=1, num_heads=2, head_dim=8, max_length=100, kernel=SlidingWindow(left=3, right=0))
      >>> state.cache["key"].shape  # a ring of what the next window reaches back to
      (1, 3, 2, 8)
      >>> state.positions.tolist(), state.max_length
      ([0], 100)
      >>> start(batch=1, num_heads=2, head_dim=8, max_length=None, kernel=Linear()).max_length is None
      True
    """

    positions: jax.Array
    cache: Tree
    kernel: Kernel = dataclasses.field(metadata={"static": True})
    dims: Dims = dataclasses.field(metadata={"static": True})

    @property
    def max_length(self) -> int | None:
        """The number of tokens that fit, None where there is no end."""
        return None if self.dims.key_length == ENDLESS else self.dims.key_length


def start(
    *,
    batch: int,
    num_heads: int,
    head_dim: int,
    max_length: int | None,
    num_key_value_heads: int | None = None,
    value_dim: int | None = None,
    kernel: Kernel = Softmax(),
    params: Tree = (),
    draws: Tree | None = None,
    dtype=jnp.float32,
    sequence_axis: Names = None,
) -> DecodingState:
    """The state before the first token.

    Args:
      batch: examples, each at a position of its own.
      num_heads: N, of queries.
      head_dim: H.
      max_length: tokens that an example may have, prompt and answer together. None for no end, with kernels whose state
        does not grow (a window, a recurrence).
      num_key_value_heads: K, which divides N; N where None.
      value_dim: Hv; H where None.
      kernel: which attention, as in `attend`.
      params: what the kernel learned, as in `attend`.
      draws: what is random in the kernel, as in `attend`.
      dtype: of cached keys and values. Sums over keys (`Linear`, `Performer`) are kept in float32 at least.
      sequence_axis: axis of the mesh at hand (`jax.set_mesh`, or the caller's `shard_map`), or several, over whose
        devices the cache is split along the sequence; a state that does not grow is on all of them.

    Raises:
      ValueError: an argument has the wrong type or value.
      NotImplementedError: the kernel has no form that decodes; the message names kernels that do.

    Example:
      >>> state = start(batch=2, num_heads=4, head_dim=8, max_length=64, kernel=SlidingWindow(left=15, right=0))
      >>> q = k = v = jnp.ones((2, 5, 4, 8))
      >>> state, out = step(state, q, k, v)
      >>> out.shape, state.positions.tolist()
      ((2, 5, 4, 8), [5, 5])
    """
    validation.kernel(kernel)
    refusal.refuse(kernel, [("start", "decode")])
    kv_heads = num_heads if num_key_value_heads is None else num_key_value_heads
    value_dim = head_dim if value_dim is None else value_dim
    validation.decoding_sizes(
        batch=batch, num_heads=num_heads, head_dim=head_dim, num_key_value_heads=kv_heads, value_dim=value_dim
    )
    dtype = validation.cache_dtype(dtype)
    if max_length is None:
        if not is_endless(kernel, Dims(batch, 1, 1, num_heads, kv_heads, head_dim, value_dim)):
            raise ValueError(
                f"max_length=None: the state of {kernel!r} grows with the sequence; pass the longest that may come"
            )
        max_length = furthest(kernel)
    validation.max_length(max_length, kernel)
    dims = Dims(batch, max_length, max_length, num_heads, kv_heads, head_dim, value_dim)
    _tell_flax()
    meshes.check(sequence_axis)
    cache = caches.started(kernel, *_constants(kernel, params, draws, dims), dims, dtype, sequence_axis)
    return DecodingState(jnp.zeros(batch, jnp.int32), cache, kernel, dims)


def step(
    state: DecodingState,
    query: Float[jax.Array, "B t N H"],
    key: Float[jax.Array, "B t K H"],
    value: Float[jax.Array, "B t K Hv"],
    bias: Float[jax.Array, "*_"] | PositionBias | None = None,
    *,
    params: Tree = (),
    draws: Tree | None = None,
    query_seq_lengths: Integer[jax.Array, " B"] | None = None,
    scale: float | jax.Array | None = None,
    soft_cap: float | jax.Array | None = None,
    sinks: Float[jax.Array, " N"] | None = None,
    mask_mod: Callable | None = None,
    score_mod: Callable | None = None,
    precision: str | jax.lax.Precision | None = None,
    tokens: Mapping[str, jax.Array] | None = None,
    sequence_axis: Names = None,
) -> tuple[DecodingState, Float[jax.Array, "B t N Hv"]]:
    """The next t tokens of each example: t = 1 for one, more for a prompt.

    Tokens past the end are refused where positions are concrete. Under `jit` and `scan` nothing can be raised: there
    their outputs are NaN and the cache keeps what it has, so that a loop should compare its length with `max_length`
    beforehand. Outside of `jit` each step copies the cache; jit the loop, and donate the state.

    Args:
      state: from `start`, or from the step before. The kernel is that of the state.
      query: [B, t, N, H].
      key: [B, t, K, H].
      value: [B, t, K, Hv].
      bias: added to the scores: an array that broadcasts to [B, N, t, max_length], whose columns are key positions, or
        a `PositionBias`, evaluated at the positions of each example.
      params: what the kernel learned, the same as in `start`.
      draws: what is random in the kernel, the same as in `start`.
      query_seq_lengths: int [B], how many of the t tokens each example has. Those after them are padding: they are not
        written, and their outputs are 0. All t where None.
      scale: of the scores, 1 / sqrt(H) where None.
      soft_cap: of the scores, as in `attend`.
      sinks: [N], logits that join the sums, as in `attend`.
      mask_mod: of positions, as in `attend`, and so is `score_mod`.
      score_mod: in place of a bias.
      precision: of matrix products, as in `attend`.
      tokens: what each of the t tokens brings beside key and value, as in `attend`.
      sequence_axis: axis of the mesh, or several, that the cache is split over along the sequence, as in `start`. With
        Explicit axes its type tells, and nothing is to be passed.

    Returns:
      The state after these tokens, and [B, t, N, Hv] in the dtype of query.

    Raises:
      ValueError: an argument has the wrong type, shape or value; an example would go past the end.
      NotImplementedError: the kernel cannot honour an argument.

    Example:
      >>> state = start(batch=1, num_heads=2, head_dim=8, max_length=16)
      >>> token = jnp.ones((1, 1, 2, 8))
      >>> state, out = jax.jit(step, donate_argnums=0)(state, token, token, token)
      >>> out.shape
      (1, 1, 2, 8)
    """
    validation.state(state, DecodingState)
    query, key, value = (jnp.asarray(x) for x in (query, key, value))
    validation.operands(query, key, value)
    validation.tokens(query, key, value, state.kernel, state.dims)
    kernel, dims = state.kernel, state.dims._replace(query_length=query.shape[1])
    asked: list[tuple[str, str, Any]] = [
        ("bias", "bias", bias),
        ("score_mod", "score_mod", score_mod),
        ("mask_mod", "mask", mask_mod),
    ]
    asked += [("scale", "scale", scale), ("soft_cap", "soft_cap", soft_cap), ("sinks", "residual", sinks)]
    refusal.refuse(kernel, [(name, field) for name, field, x in asked if x is not None])
    meshes.check(sequence_axis, *jax.tree.leaves(state.cache))
    lengths = None if query_seq_lengths is None else jnp.asarray(query_seq_lengths)
    if lengths is not None:
        validation.lengths("query_seq_lengths", lengths, dims.batch, dims.query_length)
    validation.room(state.positions, dims.query_length, lengths, dims.key_length)
    return _step(
        state,
        query,
        key,
        value,
        validation.token_inputs(tokens, kernel, dims._replace(key_length=dims.query_length)),
        trees.bias_of(bias, score_mod, query.dtype, dims),
        () if mask_mod is None else (MaskMod.of(mask_mod, dims.num_heads),),
        *_constants(kernel, params, draws, state.dims),
        lengths,
        None if scale is None else validation.scale(scale, query.dtype),
        None if soft_cap is None else validation.soft_cap(soft_cap, query.dtype),
        None if sinks is None else validation.sinks(sinks, dims.num_heads),
        precision=validation.precision_name(precision),
        sequence_axis=meshes.as_tuple(sequence_axis) or None,
    )


@functools.cache
def _tell_flax() -> None:
    """Let `flax.serialization` save and restore states, all of which come from `start`."""
    from flax import serialization

    def saved(state):
        return {name: serialization.to_state_dict(getattr(state, name)) for name in ("positions", "cache")}

    def restored(state, given):
        made = {name: serialization.from_state_dict(getattr(state, name), given[name], name) for name in saved(state)}
        after = dataclasses.replace(state, **made)
        shapes, expected = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (after, state))
        if shapes != expected:
            raise ValueError(
                f"the saved state of {state.kernel!r} holds {shapes.cache}: expected {expected.cache}; start the one "
                "to restore into with the sizes of the one that was saved"
            )
        return after

    serialization.register_serialization_state(DecodingState, saved, restored)


def furthest(kernel: Kernel) -> int:
    """The room of a state that does not grow: as far as positions go, or as the kernel does."""
    return kernel.longest or ENDLESS


def is_endless(kernel: Kernel, dims: Dims) -> bool:
    """Whether the state of a kernel does not grow, so that it needs no room for more tokens."""
    return caches.shapes(kernel, dims, ENDLESS) == caches.shapes(kernel, dims, ENDLESS // 2)


def _constants(kernel: Kernel, params: Tree, draws: Tree | None, dims: Dims) -> tuple[Tree, Tree]:
    """`params` and `draws`, checked."""
    draws = trees.drawn(kernel, dims) if draws is None else draws
    return trees.tree_of("params", params, kernel, dims), trees.tree_of("draws", draws, kernel, dims)


@functools.partial(jax.jit, static_argnames=("precision", "sequence_axis"))
def _step(
    state: DecodingState,
    query,
    key,
    value,
    brought,
    bias,
    mods,
    params,
    draws,
    lengths,
    scale,
    soft_cap,
    sinks,
    *,
    precision,
    sequence_axis,
):
    positions, real = _places(state, query.shape[1], lengths)
    # What is not written must not reach the sums of a kernel either, NaN included.
    silenced = functools.partial(visibility.silenced, (positions >= 0)[..., None])
    query, key, value, brought = jax.tree.map(silenced, (query, key, value, brought))
    with contextlib.nullcontext() if precision is None else jax.default_matmul_precision(precision):
        cache, out = _over_devices(
            state,
            (query, key, value, brought),
            positions,
            (bias, mods, scale, soft_cap),
            (params, draws, sinks),
            sequence_axis,
        )
    out = jnp.where((positions >= 0)[..., None, None], out, 0)
    out = jnp.where((real & (positions < 0))[..., None, None], jnp.nan, out)
    come = real.sum(axis=1, dtype=jnp.int32)
    return dataclasses.replace(state, positions=state.positions + come, cache=cache), out


def _places(state: DecodingState, tokens: int, lengths) -> tuple[jax.Array, jax.Array]:
    """Where the next tokens [B, t] stand, -1 for padding and where there is no room, and which are no padding."""
    place = jnp.arange(tokens)[None]
    real = place < (jnp.full(len(state.positions), tokens) if lengths is None else lengths)[:, None]
    positions = state.positions[:, None] + place
    return jnp.where(real & (positions < state.dims.key_length), positions, -1), real


def _over_devices(state, sequences, positions, of_scores, constants, sequence_axis) -> tuple[Tree, jax.Array]:
    """The cache after tokens, and what they see in it; each device has its part of examples, heads and cache."""
    query, key, value, _ = sequences
    leaves, treedef = jax.tree.flatten(state.cache)
    at = caches.axes(state.kernel, state.dims)
    beside = Split.of(query, key, value)._replace(sequence=None)
    if key.shape[2] % beside.parts(beside.heads):
        beside = beside._replace(heads=None)  # a cache holds key heads as they are, whole ones on each device
    dims = state.dims._replace(query_length=query.shape[1])
    shards, split = caches.split_over(beside, leaves, at, dims, sequence_axis)

    def here(sequences, positions, of_scores, constants, *cached):
        bias, *asked = of_scores

        def chunks(shards, leaves):
            one_chunk = functools.partial(_advance, state.kernel, state.dims, shards, constants, asked)
            after, out = _in_chunks(one_chunk, jax.tree.unflatten(treedef, leaves), (*sequences, positions, bias))
            return jax.tree.leaves(after), out

        return caches.in_parts(shards, state.kernel, at, chunks)(list(cached))

    by_example = [functools.partial(split.by_example, heads_axis=x.heads, length_axis=x.length) for x in at]
    of_cache = [spec_of(x) for spec_of, x in zip(by_example, leaves, strict=True)]
    leaves, out = split.over_devices(
        here,
        [
            (sequences, beside.of_sequence),
            (positions, split.by_example),
            (of_scores, split.leading),
            (constants, split.by_head),
            *zip(leaves, by_example, strict=True),
        ],
        (of_cache, beside.of_sequence(query)),
    )
    return jax.tree.unflatten(treedef, leaves), out


def _advance(kernel: Kernel, dims: Dims, shards, constants, asked, cache: Tree, chunk) -> tuple[Tree, jax.Array]:
    """One chunk of tokens: the cache with them, and what they see in it."""
    (params, draws, sinks), (mods, scale, soft_cap) = constants, asked
    query, key, value, brought, positions, bias = chunk
    mask = Mask(query.shape[1], dims.key_length, is_causal=True, query_offset=positions[:, :1], mods=mods)
    call = Call(mask, None if bias is None else bias.of(query, scale), scale, soft_cap, tokens=brought, shards=shards)
    after, out = kernel.step(params, draws, cache, query, key, value, positions, call)
    out, residual = out if kernel.supports.residual else (out, None)
    if sinks is not None and residual is not None:
        out, _ = dense.beside_sinks(out, residual, sinks)
    validation.output(out, kernel, (*query.shape[:3], value.shape[-1]))
    validation.same_cache(after, cache, kernel)
    return after, out.astype(query.dtype)


def _in_chunks(advance, cache: Tree, tokens) -> tuple[Tree, jax.Array]:
    """`advance` over chunks of a prompt, a scan where there is more than one."""
    *arrays, positions, bias = tokens
    length = positions.shape[1]
    if length <= CHUNK:
        return advance(cache, tokens)
    count = -(-length // CHUNK)
    size = -(-length // count)

    def cut(x, axis=1, fill=0):
        """[.., T, ..] -> [chunks, .., t, ..]."""
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, count * size - length)
        x = jnp.pad(x, padding, constant_values=fill)
        return jnp.moveaxis(x.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :]), axis, 0)

    has_rows = bias is not None and not isinstance(bias.given, PositionBias) and bias.given.shape[2] > 1

    def one(cache, chunk):
        *arrays, positions, rows = chunk
        near = Bias(rows) if has_rows else bias
        return advance(cache, (*arrays, positions, near))

    chunks = (*jax.tree.map(cut, arrays), cut(positions, fill=-1), cut(bias.given, axis=2) if has_rows else None)
    cache, out = jax.lax.scan(one, cache, chunks)
    out = jnp.moveaxis(out, 0, 1)
    return cache, out.reshape(out.shape[0], count * size, *out.shape[3:])[:, :length]
