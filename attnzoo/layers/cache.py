"""The decoding state as variables of a Flax layer, under Flax's own names where they can hold.

A leaf `x` of a kernel's cache is the variable `cached_x`, [*batch, ...]: `cached_key` and `cached_value` are Flax's. So
is `cache_index`, one position for all examples, or [*batch] in a cache that is made ragged; one that is not becomes so
when a call gives `query_seq_lengths`, which no loop can carry. Nothing else is kept; the length of a cache that grows
is read off its shape, and one that does not grow has no end.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attnzoo.contract.sizes import Dims, Tree
from attnzoo.door import batching, caches, decoding, meshes, refusal
from attnzoo.door.arguments import Asked, beyond_defaults
from attnzoo.door.decoding import DecodingState
from attnzoo.kernel import Kernel
from attnzoo.layers import projected
from attnzoo.layers.projected import Attention

INDEX = "cache_index"
OF_SCORES = ("bias", "mask_mod", "score_mod", "scale", "soft_cap", "sinks")
TAKEN = (*OF_SCORES, "is_causal", "query_seq_lengths", "draws", "sequence_axis")


def refuse_kernel(kernel: Kernel) -> None:
    """Refuse a kernel that cannot decode."""
    refusal.refuse(kernel, [("decode=True", "decode")])


def names(kernel: Kernel, dims: Dims) -> list[str]:
    """The variables of a kernel's cache, the index apart."""
    paths, _ = jax.tree_util.tree_flatten_with_path(caches.shapes(kernel, dims, 1))
    return [f"cached_{jax.tree_util.keystr(path, simple=True, separator='_')}" for path, _ in paths]


def start(
    kernel: Kernel, params: Tree, dims: Dims, batch: tuple[int, ...], dtype, is_ragged: bool
) -> dict[str, jax.Array]:
    """Variables before the first token, for sequences up to `dims.key_length`.

    Args:
      dims: with `batch` as one axis.
      is_ragged: whether each example has an index of its own.
    """
    refuse_kernel(kernel)
    state = decoding.start(
        batch=dims.batch,
        num_heads=dims.num_heads,
        head_dim=dims.head_dim,
        max_length=None if decoding.is_endless(kernel, dims) else dims.key_length,
        num_key_value_heads=dims.num_key_value_heads,
        value_dim=dims.value_dim,
        kernel=kernel,
        params=params,
        dtype=dtype,
    )
    return _variables(state, batch) | {INDEX: jnp.zeros(batch if is_ragged else (), jnp.int32)}


def step(
    variables: dict[str, jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    asked: Asked,
    attention: Attention,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """The variables after the next tokens, and outputs [*batch, t, N, Hv] of heads [*batch, t, N, H].

    Raises:
      ValueError: the variables are none that the kernel makes, or tokens would go past the end of them.
      NotImplementedError: an argument is given that a step does not take.
    """
    kernel = attention.kernel
    refuse_kernel(kernel)
    for name in beyond_defaults(asked):
        if name not in TAKEN:
            _refuse(name)
    sequence = asked.get("sequence_axis")
    if meshes.of_caller(sequence, 1, 1) is not None:  # a cache's length is read off its shape, which a part has not
        raise NotImplementedError(
            f"decode=True cannot honour sequence_axis={sequence!r} of a shard_map of your own: call the layer outside "
            "of it, under jax.set_mesh, or `attnzoo.step` in it"
        )
    batch, index = query.shape[:-3], variables[INDEX]
    place = index[..., None] + projected.along(index.ndim, query.shape[-3])
    query, key, asked = projected.placed(query, key, asked, attention, place, place)
    given = batching.flattened(asked, batch)
    lengths = given.get("query_seq_lengths")
    state = _state(variables, kernel, Dims.of(query, key, value), batch)
    one_axis = lambda x: x.reshape(state.dims.batch, *x.shape[len(batch) :])
    state, out = decoding.step(
        state,
        one_axis(query),
        one_axis(key),
        one_axis(value),
        params=attention.params,
        draws=given.get("draws"),
        tokens=jax.tree.map(one_axis, dict(attention.tokens)),
        query_seq_lengths=None if lengths is None else jnp.reshape(lengths, (-1,)),
        **{name: given.get(name) for name in OF_SCORES},
        precision=attention.precision,
        sequence_axis=sequence,
    )
    is_common = index.ndim == 0 and lengths is None
    index = index + query.shape[-3] if is_common else state.positions.reshape(batch)
    return _variables(state, batch) | {INDEX: index}, out.reshape(*batch, *out.shape[1:])


def _variables(state: DecodingState, batch: tuple[int, ...]) -> dict[str, jax.Array]:
    leaves = [x.reshape(*batch, *x.shape[1:]) for x in jax.tree.leaves(state.cache)]
    return dict(zip(names(state.kernel, state.dims), leaves, strict=True))


def _state(variables: dict[str, jax.Array], kernel: Kernel, dims: Dims, batch: tuple[int, ...]) -> DecodingState:
    """The state that the variables stand for; its length is that for which the kernel makes a cache of their shapes."""
    cached = [variables[name] for name in names(kernel, dims) if name in variables]
    leaves = [x.reshape(dims.batch, *x.shape[len(batch) :]) for x in cached if x.shape[: len(batch)] == batch]
    shapes = [x.shape for x in leaves]
    grown = sorted({shape[1] for shape in shapes if len(shape) > 1 and shape[1] > 0})
    for length in (decoding.furthest(kernel), *grown):
        expected, treedef = jax.tree.flatten(caches.shapes(kernel, dims, length))
        if [x.shape for x in expected] == shapes:
            dims = dims._replace(query_length=length, key_length=length)
            positions = jnp.broadcast_to(variables[INDEX], batch).reshape(dims.batch)
            return DecodingState(positions, jax.tree.unflatten(treedef, leaves), kernel, dims)
    held = {name: x.shape for name, x in variables.items() if name != INDEX}
    raise ValueError(
        f"the cache holds {held}: {kernel!r} makes none such for inputs of batch {list(batch)}; start it anew for this "
        "kernel and this batch"
    )


def refuse_extras(rng: jax.Array | None, with_weights: bool) -> None:
    """Refuse dropout and weights to look at, which a step does not have."""
    if with_weights:
        _refuse("sow_weights")
    if rng is not None:
        _refuse("dropout")


def _refuse(name: str) -> None:
    raise NotImplementedError(
        f"decode=True cannot honour `{name}`: a step sees the tokens before it, all of them and undropped; pad at the "
        "end and pass `query_seq_lengths`, or call the layer with decode=False"
    )
