"""What both Flax layers do between their projections: positions, any number of batch axes, and weights to look at."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract import randomness
from attnzoo.contract.fields import is_integer
from attnzoo.contract.sizes import Dims, Tree
from attnzoo.contract.support import TokenInput
from attnzoo.door import meshes, refusal, validation
from attnzoo.door.arguments import Asked
from attnzoo.door.attention import attend, attention_weights, untold
from attnzoo.kernel import Kernel
from attnzoo.kernels.delta import unit
from attnzoo.positions import AbsoluteEncoding, NoPositions, RelativeEncoding


class Attention(NamedTuple):
    """With what a layer attends.

    Attributes:
      kernel: and `params`, what it learned.
      positions: and `position_params`, what they learned.
      precision: of matrix products.
      tokens: what the tokens of keys bring, [*batch, S, N, ...].
      sinks: that the layer has learned, [N], or None.
    """

    kernel: Kernel
    params: Tree = ()
    positions: RelativeEncoding = NoPositions()
    position_params: Tree = ()
    precision: Any = None
    tokens: Mapping[str, jax.Array] = MappingProxyType({})
    sinks: jax.Array | None = None


class Dropping(NamedTuple):
    """What a layer drops, and with which key; nothing where that is None.

    Attributes:
      rate: the fraction.
      rng: the key.
      is_shared: whether all heads and examples drop the same, as with Flax's `broadcast_dropout`.
      of: "weights", or "outputs" of heads.
    """

    rate: float = 0.0
    rng: jax.Array | None = None
    is_shared: bool = True
    of: str = "weights"

    def of_weights(self) -> dict[str, Any]:
        """As arguments of `attend`."""
        if self.rng is None or self.of != "weights":
            return {}
        return {"dropout_rate": self.rate, "rng": self.rng, "broadcast_dropout": self.is_shared}

    def outputs(self, out: jax.Array) -> jax.Array:
        """Outputs [*batch, T, N, Hv], of which entries are dropped where that was asked for."""
        if self.rng is None or self.of != "outputs":
            return out
        validation.dropout(self.rate, self.rng)
        length, _, width = out.shape[-3:]
        shape = (length, 1, width) if self.is_shared else out.shape
        kept = jax.random.bernoulli(randomness.threefry(self.rng), 1 - self.rate, shape)
        return jnp.where(kept, out / (1 - self.rate), 0).astype(out.dtype)


class Attended(NamedTuple):
    """Outputs [*batch, T, N, Hv], and weights [*batch, N, T, S] where they were asked for."""

    out: jax.Array
    weights: jax.Array | None


def along(axes: int, count: int) -> jax.Array:
    """0 .. count - 1, along the axis after so many others."""
    return jnp.expand_dims(jnp.arange(count), range(axes))


def attend_heads(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    asked: Asked,
    attention: Attention,
    dropping: Dropping = Dropping(),
    *,
    weights_dtype: Any = None,
) -> Attended:
    """`attend` for heads [*batch, T, N, H] as it is asked for.

    Args:
      weights_dtype: that of weights to look at, before dropout; None for no weights.
    """
    offset = asked.get("query_offset", 0)
    offset = offset if is_integer(offset) else jnp.asarray(offset)[..., None]
    rows, columns = meshes.indices(asked.get("sequence_axis"), query.shape[-3], key.shape[-3])
    places = offset + jnp.expand_dims(rows, range(jnp.ndim(offset) - 1)), columns
    query, key, asked = placed(query, key, asked, attention, *places)
    chosen = {"kernel": attention.kernel, "params": attention.params, "precision": attention.precision}
    given: dict[str, Any] = {**asked, **chosen, "tokens": attention.tokens}
    if given.get("mask") is not None:
        given["mask"] = as_bool(given["mask"])
    out = untold(attend)(query, key, value, **given, **dropping.of_weights())
    weights = None
    if weights_dtype is not None:
        weights = untold(attention_weights)(query.astype(weights_dtype), key.astype(weights_dtype), **given)
    return Attended(dropping.outputs(out), weights)


def as_bool(mask: Any) -> Any:
    """A mask of numbers, as Flax makes them, as one of bools, which is known where they are, under jit too."""
    mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
    if mask.dtype == bool:
        return mask
    with contextlib.nullcontext() if validation.is_traced(mask) else jax.ensure_compile_time_eval():
        return jnp.asarray(mask).astype(bool)


def placed(
    query: jax.Array,
    key: jax.Array,
    asked: Asked,
    attention: Attention,
    query_places: jax.Array,
    key_places: jax.Array,
) -> tuple[jax.Array, jax.Array, Asked]:
    """Query, key and what is asked for once positions have turned them, where they stand, and given their bias, and
    the sinks of the layer.

    Raises:
      ValueError: a bias is asked for beside that of the positions, or sinks beside those of the layer.
    """
    positions = attention.positions
    if attention.sinks is not None:
        if asked.get("sinks") is not None:
            raise ValueError("sinks came beside those that the layer learns, sinks=True: pass one of the two")
        asked = asked | {"sinks": attention.sinks}
    query, key = positions.rotate(query, query_places), positions.rotate(key, key_places)
    bias = positions.bias(attention.position_params, query.shape[-2])
    if bias is None:
        return query, key, asked
    for name in ("bias", "score_mod"):
        if asked.get(name) is not None:
            raise ValueError(
                f"{name} came beside positions={positions!r}, which gives a bias of its own: pass one of the two; a "
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


DROPPED = ("weights", "outputs")


def check_dropout(kernel: Kernel, dropout_rate: float, dropout_on: str) -> None:
    """Refuse dropout of what is no choice, or of weights that a kernel does not have."""
    if dropout_on not in DROPPED:
        raise ValueError(f"dropout_on={dropout_on!r}: expected what is dropped, one of {', '.join(DROPPED)}")
    if dropout_rate > 0 and dropout_on == "weights":
        advice = '; or pass dropout_on="outputs", which drops entries of what each head gives, for any kernel'
        refusal.refuse(kernel, [("dropout_rate", "dropout")], advice)


def check_sinks(kernel: Kernel, sinks: bool) -> None:
    """Refuse sinks where a kernel has no sum that they could join."""
    validation.switches(sinks=sinks)
    if sinks:
        refusal.refuse(kernel, [("sinks", "residual")])


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
}
NORMS_OF_QK = (False, True, "rms", "l2")


class Heads(NamedTuple):
    """What a layer does to heads beside attention; what it learns for that is the layer's.

    Attributes:
      activation: of queries, keys and values, behind their convolution where there is one; None for none.
      normalize_qk: of queries and keys, behind that: True for Flax's LayerNorm, "rms", or "l2", rows of norm 1.
      gate: the activation of a projection of the inputs that multiplies what heads give; None for no gate.
      normalize_out: whether what each head gives is divided by its root mean square, before the gate.
    """

    activation: str | None = None
    normalize_qk: bool | str = False
    gate: str | None = None
    normalize_out: bool = False

    def check(self) -> None:
        """Refuse what is no choice."""
        for name, given in (("qkv_activation", self.activation), ("gate", self.gate)):
            if given is not None and given not in ACTIVATIONS:
                raise ValueError(f"{name}={given!r}: expected one of {', '.join(ACTIVATIONS)}, or None")
        if not (isinstance(self.normalize_qk, bool | str) and self.normalize_qk in NORMS_OF_QK):
            raise ValueError(f"normalize_qk={self.normalize_qk!r}: expected one of {', '.join(map(repr, NORMS_OF_QK))}")
        validation.switches(normalize_out=self.normalize_out)

    @property
    def norm_of_qk(self) -> str | None:
        """The norm of queries and keys that learns a scale: "layer", "rms", or None."""
        return "layer" if self.normalize_qk is True else "rms" if self.normalize_qk == "rms" else None

    def activated(self, *heads: jax.Array) -> tuple[jax.Array, ...]:
        """Queries, keys and values as they are projected, once activated."""
        return heads if self.activation is None else tuple(map(ACTIVATIONS[self.activation], heads))

    def of_unit_norm(self, *heads: jax.Array) -> tuple[jax.Array, ...]:
        """Queries and keys, with rows of norm 1 where that is asked for."""
        return tuple(unit(x).astype(x.dtype) for x in heads) if self.normalize_qk == "l2" else heads

    def gated(self, out: jax.Array, gate: jax.Array) -> jax.Array:
        """What heads give, [*batch, T, N, Hv], times a gate of that shape before its activation."""
        return out if self.gate is None else out * ACTIVATIONS[self.gate](gate).astype(out.dtype)


def refuse_einsums(kernel: Kernel, **einsums: Any) -> None:
    """Refuse products of a caller's own, which Flax's attention takes."""
    for name, einsum in einsums.items():
        if einsum is not None:
            raise NotImplementedError(f"{name} cannot be honoured: {type(kernel).__name__} has its own products")


def key_and_value_inputs(inputs_q, inputs_k, inputs_v, inputs_kv=None):
    """Keys default to queries and values to keys; values alone are refused, as Flax does."""
    if inputs_kv is not None:
        if inputs_k is not None or inputs_v is not None:
            raise ValueError(
                "If either `inputs_k` or `inputs_v` is not None, `inputs_kv` must be None. One array for both "
                "is inputs_k"
            )
        warnings.warn("The inputs_kv arg will be deprecated soon. Pass the array as inputs_k", DeprecationWarning, 3)
        return inputs_kv, inputs_kv
    if inputs_k is None and inputs_v is not None:
        raise ValueError("`inputs_k` cannot be None if `inputs_v` is not None. One array for both is inputs_k")
    if inputs_v is not None and inputs_v.shape[-1] == inputs_v.shape[-2]:
        warnings.warn(
            f"inputs_v has shape {inputs_v.shape}: if it is a mask, pass it by name, mask=, since the function "
            "signature of MultiHeadDotProductAttention's `__call__` method has changed in Flax 0.7.4",
            DeprecationWarning,
            3,
        )
    inputs_k = inputs_q if inputs_k is None else inputs_k
    return inputs_k, inputs_k if inputs_v is None else inputs_v


def check_width(name: str, x: Any, width: int, told: str, otherwise: str) -> None:
    """Refuse inputs that are not [*batch, length, width].

    Args:
      told: what says the width.
      otherwise: what to do about another one, which stands in place of braces.
    """
    shape = jnp.shape(x)
    if len(shape) < 2 or shape[-1] != width:
        hint = f"; pass inputs of that width, or {otherwise.format(shape[-1])}" if len(shape) > 1 else ""
        raise ValueError(f"{name} has shape {shape}: expected [*batch, length, {width}], as {told}{hint}")


def partitioned(x: jax.Array, heads_axis: str, num_heads: int) -> tuple[str | None, ...]:
    """The names of the axes of what is learned: that of heads where the first axis is one for each."""
    return (heads_axis if x.shape[0] == num_heads else None, *(None,) * (x.ndim - 1))
