"""Products with weights that are split over a mesh, as the types of both tell.

With Explicit axes jax asks how a product is split whose sum runs over parts, or of which both operands are split over
the same axes. It is split as the input is, and as the weights' own features are where axes are left: sums of parts are
added up, and weights that are split over the axes of the batch are brought together for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from attnzoo.door.meshes import as_tuple
from attnzoo.engines.ambient import Ambient

_merging = Ambient("merging_tokens", False)


def merging() -> AbstractContextManager[None]:
    """Products that are traced inside have one axis for the tokens of all examples, where no axis is Explicit.

    The gradient of weights sums over it. Where it sums over two, XLA's CPU backend copies what it multiplies, and then
    takes three times as long. It is for programs that split no sequence: parts of one would be brought together.
    """
    return _merging.during(True)


def out_sharding(x: jax.Array, weights: Any, contracted: int = 1) -> NamedSharding | None:
    """How the product of x [..., *in] and weights [*in, *out], summed over as many axes, is split.

    None where types do not tell; without weights, as the input alone.
    """
    split = [jax.typeof(each).sharding for each in (x, weights) if each is not None]
    mesh = next((each.mesh for each in split if AxisType.Explicit in each.mesh.axis_types), None)
    if mesh is None:
        return None
    own = (*split[0].spec[: x.ndim - contracted], *(names for each in split[1:] for names in each.spec[contracted:]))
    used: set[str] = set()
    spec: list[Any] = []
    for names in own:
        spec.append(tuple(name for name in as_tuple(names) if name not in used) or None)
        used.update(as_tuple(names))
    return NamedSharding(mesh, PartitionSpec(*spec))


def rows_sharding(index: jax.Array, table: jax.Array) -> NamedSharding | None:
    """How rows of a table [L, ...] are split that whole numbers [...] name: as these are; None if nothing is split."""
    split = [jax.typeof(x).sharding for x in (index, table)]
    mesh = next((x.mesh for x in split if AxisType.Explicit in x.mesh.axis_types and any(x.spec)), None)
    return None if mesh is None else NamedSharding(mesh, PartitionSpec(*split[0].spec))


def entries(x: jax.Array, places: jax.Array) -> jax.Array:
    """What x [B, T, ...] has at places [B, n], [B, n, ...]: split as x is, but over its second axis.

    NaN, or the lowest number, where there is no such place.
    """

    def of_one(x, places):
        split = jax.typeof(x).sharding
        is_told = AxisType.Explicit in split.mesh.axis_types
        whole = NamedSharding(split.mesh, PartitionSpec(None, *split.spec[1:])) if is_told else None
        return x.at[places].get(mode="fill", out_sharding=whole)

    return jax.vmap(of_one)(x, places)


def in_front(first: jax.Array, x: jax.Array) -> jax.Array:
    """first [D] before each x [B, T, D], [B, 1 + T, D], whose second axis is brought together where it is split."""
    return joined(jnp.broadcast_to(first, (len(x), 1, x.shape[-1])), x)


def joined(first: jax.Array, x: jax.Array) -> jax.Array:
    """first [B, t, ...] before x [B, T, ...], split as x is, whose second axis is brought together."""
    x = in_one_piece(x)
    first += jnp.zeros_like(x[:, :1])  # split as x is, also outside of jit and of the context of a mesh
    return jnp.concatenate([first, x], axis=1)


def in_one_piece(x: jax.Array) -> jax.Array:
    """x [B, T, ...], whose second axis is brought together where it is split."""
    split = jax.typeof(x).sharding
    return split_as(x, NamedSharding(split.mesh, PartitionSpec(*split.spec[:1], None, *split.spec[2:])))


def split_as(x: jax.Array, split: NamedSharding) -> jax.Array:
    """x, split so, where its type tells how it is."""
    is_told = AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types
    return jax.sharding.reshard(x, split) if is_told else x


def applied(layer: nnx.Linear | nnx.LinearGeneral, x: jax.Array, contracted: int = 1, *, is_whole: bool = False) -> Any:
    """`layer(x)`, as `product` of its weights."""
    return product(layer, x, layer.kernel[...], contracted, is_whole=is_whole)


def product(
    function: Callable[..., jax.Array], x: jax.Array, weights: jax.Array, contracted: int = 1, *, is_whole: bool = False
) -> jax.Array:
    """`function(x)`, x [..., *in] times weights [*in, *out], split as `out_sharding` says.

    Where they are split over the same axes, what is less goes to the other: weights to the tokens of a batch, and the
    few of a step of decoding to the weights.

    Args:
      function: takes x, and `out_sharding`.
      is_whole: the weights' own features stay in one piece, for callers who pick among them.
    """
    wanted = out_sharding(x, None if is_whole else weights, contracted)
    if wanted is None and _merging():
        tokens = x.shape[: x.ndim - contracted]
        out = function(x.reshape(-1, *x.shape[len(tokens) :]), out_sharding=None)
        return out.reshape(*tokens, *out.shape[1:])
    numbers = x.size * (1 + math.prod(weights.shape[contracted:]) / math.prod(weights.shape[:contracted]))
    if wanted is None or numbers >= weights.size:
        return function(x, out_sharding=wanted)
    of_x, of_weights = (jax.typeof(x).sharding.spec for x in (x, weights))
    taken = {name for names in of_weights for name in as_tuple(names)}
    left = [
        tuple(name for name in as_tuple(names) if name not in taken) or None for names in of_x[: x.ndim - contracted]
    ]
    over = lambda *names: NamedSharding(wanted.mesh, PartitionSpec(*left, *names))
    out = function(split_as(x, over(*of_weights[:contracted])), out_sharding=over(*of_weights[contracted:]))
    # One after another, since XLA exchanges no axis that is split over several of the mesh.
    return split_as(split_as(out, over()) if is_whole else out, wanted)


def dot_general(lhs, rhs, dimension_numbers, precision=None, preferred_element_type=None) -> jax.Array:
    """`jax.lax.dot_general` of inputs [..., *in] and weights [*in, *out], as `product`."""
    (_, of_weights), batched = dimension_numbers
    count = len(of_weights)

    def function(x, out_sharding):
        numbers = (tuple(range(x.ndim - count, x.ndim)), of_weights), batched
        how = precision, preferred_element_type
        return jax.lax.dot_general(x, rhs, numbers, *how, out_sharding=out_sharding)

    return product(function, lhs, rhs, count)
