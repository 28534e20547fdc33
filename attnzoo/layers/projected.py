"""What both Flax layers do between their projections: positions, any number of batch axes, and weights to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.contract.fields import is_integer
from attnzoo.contract.sizes import Dims, Tree
from attnzoo.contract.support import TokenInput
from attnzoo.door import visibility
from attnzoo.door.arguments import Asked
from attnzoo.door.attention import attend, attention_weights
from attnzoo.kernel import Kernel
from attnzoo.positions import AbsoluteEncoding, NoPositions, PositionBias, RelativeEncoding

BATCHED = ("query_offset", *visibility.AXES)


class Attention(NamedTuple):
    """With what a layer attends.

    Attributes:
      kernel: and `params`, what it learned.
      positions: and `position_params`, what they learned.
      precision: of matrix products.
      tokens: what the tokens of keys bring, [*batch, S, N, ...].
    """

    kernel: Kernel
    params: Tree = ()
    positions: RelativeEncoding = NoPositions()
    position_params: Tree = ()
    precision: Any = None
    tokens: Mapping[str, jax.Array] = MappingProxyType({})


class Attended(NamedTuple):
    """Outputs [*batch, T, N, Hv], and weights [*batch, N, T, S] where they were asked for."""

    out: jax.Array
    weights: jax.Array | None


def attend_heads(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    asked: Asked,
    attention: Attention,
    *,
    dropout_rate: float = 0.0,
    rng: jax.Array | None = None,
    with_weights: bool = False,
) -> Attended:
    """`attend` for heads [*batch, T, N, H] as it is asked for; weights are before dropout."""
    offset = asked.get("query_offset", 0)
    offset = offset if is_integer(offset) else jnp.asarray(offset)[..., None]
    places = offset + jnp.arange(query.shape[-3]), jnp.arange(key.shape[-3])
    query, key, asked = placed(query, key, asked, attention, *places)
    batch = query.shape[:-3]
    one_axis = lambda x: x.reshape(_flat(batch) + x.shape[len(batch) :])
    query, key, value, tokens = jax.tree.map(one_axis, (query, key, value, dict(attention.tokens)))
    chosen = {"kernel": attention.kernel, "params": attention.params, "precision": attention.precision}
    given = flattened(asked, batch) | chosen | {"tokens": tokens}
    out = attend(query, key, value, dropout_rate=dropout_rate, rng=rng, **given)
    weights = None
    if with_weights:
        weights = attention_weights(query, key, **given)
        weights = weights.reshape(batch + weights.shape[-3:])
    return Attended(out.reshape(batch + out.shape[-3:]), weights)


def placed(
    query: jax.Array,
    key: jax.Array,
    asked: Asked,
    attention: Attention,
    query_places: jax.Array,
    key_places: jax.Array,
) -> tuple[jax.Array, jax.Array, Asked]:
    """Query, key and what is asked for once positions have turned them, where they stand, and given their bias.

    Raises:
      ValueError: a bias is asked for beside that of the positions.
    """
    positions = attention.positions
    query, key = positions.rotate(query, query_places), positions.rotate(key, key_places)
    bias = positions.bias(attention.position_params, query.shape[-2])
    if bias is None:
        return query, key, asked
    if asked.get("bias") is not None:
        raise ValueError(
            f"bias came beside positions={positions!r}, which gives a bias of its own: pass one of the two; a "
            "PositionBias may add several"
        )
    return query, key, asked | {"bias": bias}


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


def checked_positions(positions) -> RelativeEncoding:
    """Positions for attention; refuses what is no choice of them."""
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
    return positions


def refuse_broadcast_dropout(broadcast_dropout: bool, dropout_rate: float) -> None:
    """Refuse dropout that is one for all examples and heads."""
    if broadcast_dropout and dropout_rate > 0:
        raise NotImplementedError(
            "broadcast_dropout=True would share dropout between examples and heads: attnzoo drops weights of each head "
            "independently; pass broadcast_dropout=False"
        )


def key_and_value_inputs(inputs_q, inputs_k, inputs_v):
    """Keys default to queries and values to keys; values alone are refused, as Flax does."""
    if inputs_k is None and inputs_v is not None:
        raise ValueError("inputs_v came without inputs_k: to use one array for both, pass it as inputs_k")
    inputs_k = inputs_q if inputs_k is None else inputs_k
    return inputs_k, inputs_k if inputs_v is None else inputs_v


def flattened(asked: Asked, batch: tuple[int, ...]) -> dict[str, Any]:
    """The same with all batch axes as one."""
    given: dict[str, Any] = dict(asked)
    if given.get("mask") is not None:
        given["mask"] = jnp.asarray(given["mask"]).astype(bool)
    if len(batch) > 1:
        for name in BATCHED:
            array = given.get(name)
            if array is not None and not is_integer(array):
                trailing = jnp.shape(array)[len(batch) :]
                given[name] = jnp.broadcast_to(array, batch + trailing).reshape(_flat(batch) + trailing)
        for name in ("mask", "bias"):
            array = given.get(name)
            if array is not None and not isinstance(array, PositionBias) and jnp.ndim(array) > 3:
                given[name] = jnp.broadcast_to(array, batch + array.shape[-3:]).reshape(_flat(batch) + array.shape[-3:])
    return given


def _flat(batch: tuple[int, ...]) -> tuple[int, ...]:
    return (math.prod(batch),) if batch else ()
