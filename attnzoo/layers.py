"""What both Flax layers do between their projections: positions, any number of batch axes, and weights to look at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.door import attend, attention_weights
from attnzoo.fields import is_integer
from attnzoo.interface import Dims, Kernel, TokenInput, Tree
from attnzoo.positions import AbsoluteEncoding, PositionBias, RelativeEncoding


class Structure(NamedTuple):
    """The arguments of `attend` that say who may see whom, and where; batch axes lead in all of them."""

    mask: jax.Array | None = None
    bias: jax.Array | PositionBias | None = None
    is_causal: bool = False
    query_offset: int | jax.Array = 0
    query_seq_lengths: jax.Array | None = None
    key_value_seq_lengths: jax.Array | None = None
    key_mask: jax.Array | None = None
    query_segment_ids: jax.Array | None = None
    key_value_segment_ids: jax.Array | None = None
    local_window_size: int | tuple[int, int] | None = None
    scale: float | jax.Array | None = None


BATCHED = (
    "query_offset",
    "query_seq_lengths",
    "key_value_seq_lengths",
    "key_mask",
    "query_segment_ids",
    "key_value_segment_ids",
)


class Attended(NamedTuple):
    """Outputs [*batch, T, N, Hv], and weights [*batch, N, T, S] where they were asked for."""

    out: jax.Array
    weights: jax.Array | None


def attend_heads(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    structure: Structure,
    *,
    kernel: Kernel,
    params: Tree,
    positions: RelativeEncoding,
    position_params: Tree,
    dropout_rate: float,
    rng: jax.Array | None,
    precision,
    with_weights: bool,
    tokens: dict[str, jax.Array] | None = None,
) -> Attended:
    """`attend` for heads [*batch, T, N, H], and tokens that bring [*batch, S, N, ...]; weights are before dropout."""
    offset = structure.query_offset
    offset = offset if is_integer(offset) else jnp.asarray(offset)[..., None]
    places = offset + jnp.arange(query.shape[-3]), jnp.arange(key.shape[-3])
    query, key, structure = placed(query, key, structure, positions, position_params, *places)
    batch = query.shape[:-3]
    one_axis = lambda x: x.reshape(_flat(batch) + x.shape[len(batch) :])
    query, key, value, tokens = jax.tree.map(one_axis, (query, key, value, tokens))
    given = flattened(structure, batch)._asdict()
    given |= {"kernel": kernel, "params": params, "precision": precision, "tokens": tokens}
    out = attend(query, key, value, dropout_rate=dropout_rate, rng=rng, **given)
    weights = None
    if with_weights:
        weights = attention_weights(query, key, **given)
        weights = weights.reshape(batch + weights.shape[-3:])
    return Attended(out.reshape(batch + out.shape[-3:]), weights)


def placed(
    query: jax.Array,
    key: jax.Array,
    structure: Structure,
    positions: RelativeEncoding,
    params: Tree,
    query_places: jax.Array,
    key_places: jax.Array,
) -> tuple[jax.Array, jax.Array, Structure]:
    """Query, key and structure once `positions` has turned them, where they stand, and given its bias.

    Raises:
      ValueError: the structure has a bias already, beside that of the positions.
    """
    query, key = positions.rotate(query, query_places), positions.rotate(key, key_places)
    bias = positions.bias(params, query.shape[-2])
    if bias is None:
        return query, key, structure
    if structure.bias is not None:
        raise ValueError(
            f"bias came beside positions={positions!r}, which gives a bias of its own: pass one of the two; a "
            "PositionBias may add several"
        )
    return query, key, structure._replace(bias=bias)


def brought(kernel: Kernel, dims: Dims, project: Callable[[str, TokenInput], jax.Array]) -> dict[str, jax.Array]:
    """What tokens bring to `kernel`: projections [*batch, S, N, *shape], activated in float32 at least."""
    made = {}
    for name, one in kernel.token_inputs(dims).items():
        projected = project(token_name(name), one)
        made[name] = one.activation(projected.astype(jnp.promote_types(projected.dtype, jnp.float32)))
    return made


def token_name(name: str) -> str:
    """The name of the projection that makes an input of tokens."""
    return f"token_{name}"


def check_positions(positions) -> None:
    """Refuse what is no choice of positions for attention."""
    if isinstance(positions, AbsoluteEncoding):
        raise ValueError(
            f"positions={positions!r} is added to the embeddings of tokens, before any layer: expected one that "
            "belongs to attention, such as Rotary(); the models of attnzoo.models take both kinds"
        )
    if not isinstance(positions, RelativeEncoding):
        raise ValueError(
            f"positions={positions!r}: expected an instance such as Rotary(), ALiBi(), T5Buckets(), Shaw(), or "
            "NoPositions(); from text, attnzoo.parse_positions makes them"
        )


def refuse_broadcast_dropout(broadcast_dropout: bool, dropout_rate: float) -> None:
    """Refuse dropout that is one for all examples and heads."""
    if broadcast_dropout and dropout_rate > 0:
        raise NotImplementedError(
            "broadcast_dropout=True would share dropout between examples and heads: attnzoo drops weights of each head "
            "independently; pass broadcast_dropout=False"
        )


def dims_of_heads(query: jax.Array, key: jax.Array, value: jax.Array) -> Dims:
    """The sizes of query [*batch, T, N, H], key [*batch, S, K, H] and value [*batch, S, K, Hv]."""
    lengths = (query.shape[-3], key.shape[-3])
    return Dims(math.prod(query.shape[:-3]), *lengths, query.shape[-2], *key.shape[-2:], value.shape[-1])


def key_and_value_inputs(inputs_q, inputs_k, inputs_v):
    """Keys default to queries and values to keys; values alone are refused, as Flax does."""
    if inputs_k is None and inputs_v is not None:
        raise ValueError("inputs_v came without inputs_k: to use one array for both, pass it as inputs_k")
    inputs_k = inputs_q if inputs_k is None else inputs_k
    return inputs_k, inputs_k if inputs_v is None else inputs_v


def flattened(structure: Structure, batch: tuple[int, ...]) -> Structure:
    """The same with all batch axes as one."""
    given = structure._asdict()
    if structure.mask is not None:
        given["mask"] = jnp.asarray(structure.mask).astype(bool)
    if len(batch) > 1:
        for name in BATCHED:
            if given[name] is not None and not is_integer(given[name]):
                array = jnp.asarray(given[name])
                given[name] = jnp.broadcast_to(array, batch + array.shape[len(batch) :]).reshape(
                    _flat(batch) + array.shape[len(batch) :]
                )
        for name in ("mask", "bias"):
            array = given[name]
            if array is not None and not isinstance(array, PositionBias) and jnp.ndim(array) > 3:
                given[name] = jnp.broadcast_to(array, batch + array.shape[-3:]).reshape(_flat(batch) + array.shape[-3:])
    return Structure(**given)


def _flat(batch: tuple[int, ...]) -> tuple[int, ...]:
    return (math.prod(batch),) if batch else ()
