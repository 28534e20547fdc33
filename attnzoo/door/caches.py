"""The cache of decoding, of which a part as long as the sequence may be split over devices.

A kernel whose `step` takes part of the slots (`Kernel.meets_cache`) meets its own on each device, and what devices find
is joined. Others are brought the slots of all for each step. What does not grow with the sequence is on all devices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec, get_abstract_mesh

from attnzoo.contract.shards import Shards
from attnzoo.contract.sizes import Dims, Tree
from attnzoo.door import meshes
from attnzoo.door.meshes import Names, Split
from attnzoo.engines import apart
from attnzoo.kernel import Kernel


class Axes(NamedTuple):
    """Where a leaf of a cache has the axes that devices may share, None where it has none."""

    heads: int | None
    length: int | None


@apart.remembered
def shapes(kernel: Kernel, dims: Dims, max_length: int) -> Tree:
    """The cache of a state as shapes and dtypes, in float32."""
    dims = dims._replace(query_length=max_length, key_length=max_length)

    def cache(rng):
        return kernel.start(kernel.init(rng, dims), kernel.draw(rng, dims), dims, max_length, jnp.float32)

    return jax.eval_shape(lambda: cache(jax.random.key(0)))


@apart.remembered
def axes(kernel: Kernel, dims: Dims) -> list[Axes]:
    """Of each leaf: twice as many heads make one axis twice as long, and twice as long a sequence another."""
    length = dims.key_length
    more = dims._replace(num_heads=2 * dims.num_heads, num_key_value_heads=2 * dims.num_key_value_heads)
    made = (shapes(kernel, dims, length), shapes(kernel, more, length), shapes(kernel, dims, 2 * length))
    found = zip(*([x.shape for x in jax.tree.leaves(tree)] for tree in made), strict=True)
    differs = lambda one, two: (axis for axis, size in enumerate(one) if size != two[axis])
    grows = lambda one, two: (axis for axis in differs(one, two) if (one[axis], two[axis]) == (length, 2 * length))
    return [Axes(next(differs(one, heads), None), next(grows(one, twice), None)) for one, heads, twice in found]


def started(kernel: Kernel, params: Tree, draws: Tree, dims: Dims, dtype, sequence: Names) -> Tree:
    """An empty cache, whose length is split over axes of the mesh at hand, or of which a caller's device has a part."""
    make = lambda params, draws, slots: kernel.start(params, draws, dims, slots, dtype)
    params, draws = jax.tree.map(meshes.in_one_piece, (params, draws))
    names, length = meshes.as_tuple(sequence), dims.key_length
    at = axes(kernel, dims) if names else []
    if all(one.length is None for one in at):
        return make(params, draws, length)
    mesh = get_abstract_mesh()
    count = math.prod(mesh.shape[name] for name in names)
    check_length(sequence, length, count)
    is_part = set(names) <= set(mesh.manual_axes)
    kind = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))[names[0]]

    def split(x, axis):
        if is_part:
            return jax.lax.pcast(x, names, to="varying")
        over = jax.sharding.reshard if kind == AxisType.Explicit else jax.lax.with_sharding_constraint
        return over(x, PartitionSpec(*[None] * axis, names))

    def made(params, draws):
        leaves, treedef = jax.tree.flatten(make(params, draws, length // count if is_part else length))
        return jax.tree.unflatten(treedef, _along(split, leaves, at))

    return jax.jit(made)(params, draws)  # so that no device has the whole


def _along(function: Callable, leaves: list[jax.Array], at: list[Axes]) -> list[jax.Array]:
    """`function` of those leaves that are as long as the sequence, and of the axis that is."""
    return [x if one.length is None else function(x, one.length) for x, one in zip(leaves, at, strict=True)]


def split_over(split: Split, leaves: list[jax.Array], at: list[Axes], dims: Dims, sequence: Names):
    """The shards of a cache, None where its length is not split, and `split` with the axes that it is split over.

    Args:
      sequence: axes that it is split over, whatever types tell.
    """
    growing = [(x, one.length) for x, one in zip(leaves, at, strict=True) if one.length is not None]
    if not growing:
        return None, split
    x, axis = growing[0]
    if shards := meshes.of_caller(sequence, dims.query_length, x.shape[axis]):
        return shards, split
    mesh, told = meshes.along(x, axis)
    names = sequence or told
    if not names:
        return None, split
    split = split._replace(mesh=split.mesh or mesh, sequence=names)
    check_length(sequence, dims.key_length, split.parts(names))
    return split.shards(dims.query_length, dims.key_length), split


def check_length(sequence: Names, length: int, count: int) -> None:
    """Refuse a cache of which devices would not have equal parts."""
    if length % count:
        raise ValueError(
            f"sequence_axis={sequence!r} splits a cache of max_length={length} over {count} devices: pass a multiple "
            f"of them, such as {length + -length % count}"
        )


def in_parts(shards: Shards | None, kernel: Kernel, at: list[Axes], advance: Callable) -> Callable:
    """`advance` of the leaves of a cache and more, (leaves, out), for a device that has its part of their length.

    It is given the shards of a kernel that meets them, or None, and then the slots of all devices.
    """
    if shards is None:
        return functools.partial(advance, None)

    def whole(leaves, *rest):
        if kernel.meets_cache():
            leaves, out = advance(shards, leaves, *rest)
        else:
            leaves, out = advance(None, _along(shards.gathered, leaves, at), *rest)
            leaves = _along(shards.part, leaves, at)
        leaves = [shards.alike(x) if one.length is None else x for x, one in zip(leaves, at, strict=True)]
        return leaves, shards.alike(out)

    return whole
