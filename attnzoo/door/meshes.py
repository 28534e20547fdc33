"""Arrays that are split over a mesh: each device attends with its own part of them.

The axes that `jax.make_mesh` makes are Explicit: how an array is split is part of its type, and read from there. What
is computed stands in a `shard_map` over these axes, so that no kernel and no engine meets an array that is split. Batch
and heads are independent, and nothing is sent; a sequence that is split is met as `Shards` (`sequences.py`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec, get_abstract_mesh, reshard

from attnzoo.contract import varying
from attnzoo.contract.call import Call
from attnzoo.contract.shards import Shards

Names = str | tuple[str, ...] | None  # axes of a mesh that one axis of an array is split over


class Split(NamedTuple):
    """How operands are split.

    Attributes:
      mesh: or None where nothing is split.
      batch: the axes of the mesh that the batch is split over.
      heads: likewise.
      sequence: that the sequence of queries is split over, and so that of keys.
      keys: that the sequence of keys is split over beside queries that are not; None where they are brought together.
    """

    mesh: Any = None
    batch: Names = None
    heads: Names = None
    sequence: Names = None
    keys: Names = None

    @staticmethod
    def of(query: jax.Array, *keys: jax.Array, sequence: Names = None) -> Split:
        """As the types of [B, L, heads, ...], or of [B, L], tell, the first one first.

        Args:
          sequence: axes of the mesh that the sequences are to be split over, whatever their types tell.
        """
        split = Split(sequence=sequence or None)
        for x in (query, *keys):
            for mesh, spec in _specs(x):
                split = split._beside(Split(mesh, spec[0], spec[2], spec[1] if x is query else None))
        return split._replace(mesh=split.mesh or (get_abstract_mesh() if sequence else None))

    def with_keys(self, *keys: jax.Array) -> Split:
        """The same, with keys split as their types tell, where queries are not."""
        if self.sequence:
            return self
        return functools.reduce(
            Split._beside, (Split(mesh, keys=spec[1]) for x in keys for mesh, spec in _specs(x)), self
        )

    def _beside(self, other: Split) -> Split:
        """And as another one tells of what is not split yet, over axes that split nothing yet."""
        free = lambda names: names if self.names.isdisjoint(as_tuple(names)) else None
        return Split(self.mesh or other.mesh, *(own or free(x) for own, x in zip(self[1:], other[1:], strict=True)))

    @property
    def names(self) -> set[str]:
        """The axes of the mesh that something is split over."""
        return {name for names in self[1:] for name in as_tuple(names)}

    def parts(self, names: Names) -> int:
        """How many of them what is split over some axes has."""
        return math.prod(self.mesh.shape[name] for name in as_tuple(names))

    def shards(self, query_length: int, key_length: int) -> Shards | None:
        """Those of sequences of these lengths, None where they are not split."""
        if not (names := as_tuple(self.sequence or self.keys)):
            return None
        return Shards(names, self.parts(names), query_length, key_length, of_keys=not self.sequence)

    def of_sequence(self, x: jax.Array) -> PartitionSpec:
        """Of [B, L, heads, ...], whose heads several devices may share, as they do those of keys (`own_heads`)."""
        return PartitionSpec(self.batch, self.sequence, self._sharing(x.shape[2])[0])

    def of_keys(self, x: jax.Array) -> PartitionSpec:
        """The same of keys, of values, and of what their tokens bring."""
        return self._replace(sequence=self.sequence or self.keys).of_sequence(x)

    def own_heads(self, num_heads: int) -> Callable[[jax.Array], jax.Array]:
        """From [B, L, heads, ...] as `of_sequence` splits so many heads to those that a device's queries look at.

        The gradient of heads that devices share is as large as these, and added up.
        """
        over, shared = self._sharing(num_heads)
        here, count = num_heads // self.parts(over), self.parts(shared)
        times = count // math.gcd(count, here)

        def own(x):
            size = here * times // count
            mine = (jax.lax.axis_index(shared) * size + jnp.arange(size)) // times
            return jnp.take(x, mine, axis=2, mode="clip")

        return own if shared else lambda x: x

    def _sharing(self, num_heads: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The axes that so many heads are split over, the first ones that divide them, and those that share them."""
        names = as_tuple(self.heads)
        split = next(n for n in range(len(names), -1, -1) if num_heads % self.parts(names[:n]) == 0)
        return names[:split], names[split:]

    def leading(self, x: jax.Array) -> PartitionSpec:
        """Of [B or 1, heads or 1, ...], or of a scalar."""
        return PartitionSpec(*_where_long(x, (self.batch, self.heads)))

    def of_call(self, call: Call) -> Call:
        """Of all leaves of a call, but of what tokens bring."""
        along = lambda names, x: PartitionSpec(*_where_long(x, (self.batch, self.heads, names)))
        of_queries, of_keys = (functools.partial(along, x) for x in (self.sequence, self.sequence or self.keys))
        return call.by_axis(of_queries, of_keys, self.leading)

    def by_head(self, x: jax.Array) -> PartitionSpec:
        """Of [heads or 1, ...]."""
        return PartitionSpec(self.heads if x.shape[0] > 1 else None)

    def by_example(self, x: jax.Array, heads_axis: int | None = None, length_axis: int | None = None) -> PartitionSpec:
        """Of [B, ...], in which one axis may be that of heads, and one that of a sequence."""
        named = {heads_axis: self.heads, length_axis: self.sequence}
        return PartitionSpec(self.batch, *(named.get(axis) for axis in range(1, x.ndim)))

    def over_devices(self, function: Callable, given: list[tuple[Any, Any]], out_specs: Any) -> Any:
        """`function` of trees, on each device with its part of them.

        Args:
          given: each tree, and a tree of the `PartitionSpec` of its leaves, or what tells that of a leaf.
          out_specs: those of what it returns, as in `jax.shard_map`.
        """
        leaves, treedef = jax.tree.flatten([tree for tree, _ in given])
        here = lambda *leaves: function(*jax.tree.unflatten(treedef, varying.alike(leaves, as_tuple(self.keys))))
        if self.mesh is None:
            return here(*leaves)
        specs = jax.tree.leaves([jax.tree.map(specs, tree) if callable(specs) else specs for tree, specs in given])
        leaves = [self.placed(x, spec) for x, spec in zip(leaves, specs, strict=True)]
        if not self.names:
            return here(*leaves)
        call = jax.shard_map(here, mesh=self.mesh, in_specs=tuple(specs), out_specs=out_specs, axis_names=self.names)
        return call(*leaves)

    def whole(self, x: jax.Array) -> jax.Array:
        """[B, L, heads, ...] with its sequence in one piece, as one must be whose parts would not be equal."""
        return self.placed(x, self._replace(sequence=None).of_sequence(x))

    def placed(self, x: jax.Array, spec: PartitionSpec) -> jax.Array:
        """As `spec` tells of Explicit axes; of others, a `shard_map` sees to it itself."""
        if self.mesh is None:
            return x
        kinds = dict(zip(self.mesh.axis_names, self.mesh.axis_types, strict=True))
        if AxisType.Explicit not in kinds.values():
            return x
        explicit = lambda names: tuple(name for name in as_tuple(names) if kinds[name] == AxisType.Explicit) or None
        return reshard(x, NamedSharding(self.mesh, PartitionSpec(*map(explicit, spec))))


def told(tree: Any) -> Any:
    """The mesh with Explicit axes of the first array whose type tells of one; None where none does."""
    found = (jax.typeof(x).sharding.mesh for x in jax.tree.leaves(tree))
    return next((mesh for mesh in found if AxisType.Explicit in mesh.axis_types), None)


def along(x: jax.Array, axis: int) -> tuple[Any, Names]:
    """The mesh of an array, or that at hand, and the axes of it that one axis is split over, as a type tells."""
    told = jax.typeof(x).sharding
    if AxisType.Explicit not in told.mesh.axis_types:
        return get_abstract_mesh(), None
    return told.mesh, told.spec[axis]


def in_one_piece(x: jax.Array) -> jax.Array:
    """An array that is on all devices, where its type tells that it is split."""
    told = jax.typeof(x).sharding
    return reshard(x, NamedSharding(told.mesh, PartitionSpec())) if any(told.spec) else x


def merged(x: jax.Array, count: int) -> NamedSharding | None:
    """How an array is split once its first axes are one, as its type tells; None where none does."""
    told = jax.typeof(x).sharding
    if count < 2 or AxisType.Explicit not in told.mesh.axis_types:
        return None
    first = tuple(name for names in told.spec[:count] for name in as_tuple(names))
    return NamedSharding(told.mesh, PartitionSpec(first or None, *told.spec[count:]))


def unmerged(x: jax.Array, like: jax.Array) -> NamedSharding | None:
    """How [B, T, N, ...] is split once B is several axes again, which are split as those of `like`; None likewise."""
    told, of_like = jax.typeof(x).sharding, jax.typeof(like).sharding
    if AxisType.Explicit not in of_like.mesh.axis_types:
        return None
    return NamedSharding(of_like.mesh, PartitionSpec(*of_like.spec[: like.ndim - 3], *told.spec[1:]))


def as_tuple(names: Names) -> tuple[str, ...]:
    """None for no axes, a name for one."""
    return (names,) if isinstance(names, str) else tuple(names or ())


def of_caller(sequence: Names, query_length: int, key_length: int) -> Shards | None:
    """The shards of a sequence whose parts are of these lengths, split over axes that a caller's own `shard_map` has
    taken apart; None where the axes are the door's to take apart.
    """
    names, mesh = as_tuple(sequence), get_abstract_mesh()
    if not names or not all(name in mesh.manual_axes for name in names):
        return None
    count = math.prod(mesh.shape[name] for name in names)
    return Shards(names, count, count * query_length, count * key_length)


def indices(sequence: Names, query_length: int, key_length: int) -> tuple[jax.Array, jax.Array]:
    """Where queries and keys stand that a caller has, [T] and [S]: those of a part, where there are `of_caller`."""
    shards = of_caller(sequence, query_length, key_length)
    return shards.indices(query_length, key_length) if shards else (jnp.arange(query_length), jnp.arange(key_length))


def check(sequence: Names, *operands: jax.Array) -> None:
    """Refuse axes that no mesh has here, or that are taken apart in part."""
    if sequence is None:
        return
    names = as_tuple(sequence) if isinstance(sequence, (str, tuple, list)) else (sequence,)
    meshes = [get_abstract_mesh()] + [mesh for x in operands for mesh, _ in _specs(x)]
    manual = set(meshes[0].manual_axes)
    free = {name for mesh in meshes for name in mesh.axis_names} - manual
    if not names or len(set(names)) < len(names) or not (set(names) <= manual or set(names) <= free):
        raise ValueError(
            f"sequence_axis={sequence!r}: of the meshes that are known here the axes are {sorted(free) or 'none'}, and "
            f"{sorted(manual) or 'none'} that a shard_map has taken apart: expected some of the ones or of the others, "
            "each once; call it under jax.set_mesh(mesh), or in a shard_map over the axes"
        )


def _specs(x: jax.Array) -> list[tuple[Any, tuple[Names, ...]]]:
    """The mesh and the axes that an array of at least three axes is split over; nothing where no type tells."""
    sharding = jax.typeof(x).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return []
    return [(sharding.mesh, (*sharding.spec, None, None, None))]


def _where_long(x: jax.Array, names: tuple[Names, ...]) -> list[Names]:
    """The names of axes that are longer than 1."""
    return [name if size > 1 else None for name, size in zip(names, x.shape, strict=False)]
