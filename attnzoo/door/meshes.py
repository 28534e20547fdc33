"""Batch and heads that are split over a mesh: each device attends with its own part of them, and sends nothing.

The axes that `jax.make_mesh` makes are Explicit: how an array is split is part of its type, and read from there. What
is computed stands in a `shard_map` over these axes, so that no kernel and no engine meets an array that is split. A
sequence that is split is gathered first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, reshard

from attnzoo.engines import varying

Names = str | tuple[str, ...] | None  # axes of a mesh that one axis of an array is split over


class Split(NamedTuple):
    """How batch and heads are split.

    Attributes:
      mesh: with Explicit axes, or None where nothing can be split.
      batch: the axes of the mesh that the batch is split over.
      heads: likewise.
    """

    mesh: Any = None
    batch: Names = None
    heads: Names = None

    @staticmethod
    def of(*sequences: jax.Array) -> Split:
        """As the types of [B, L, heads, ...], or of [B, L], tell, the first one first."""
        shardings = [jax.typeof(x).sharding for x in sequences]
        found = [x for x in shardings if AxisType.Explicit in x.mesh.axis_types]
        if not found:
            return Split()
        specs = [(*x.spec, None, None, None) for x in found]
        batch, heads = (next((spec[axis] for spec in specs if spec[axis]), None) for axis in (0, 2))
        return Split(found[0].mesh, batch, heads)

    @property
    def names(self) -> set[str]:
        """The axes of the mesh that something is split over."""
        return {*_as_tuple(self.batch), *_as_tuple(self.heads)}

    @property
    def parts(self) -> int:
        """How many of them heads are split into."""
        return math.prod(self.mesh.shape[name] for name in _as_tuple(self.heads))

    @property
    def of_tokens(self) -> NamedSharding:
        """Of [B, L, ...] without heads."""
        return NamedSharding(self.mesh, PartitionSpec(self.batch))

    def sequence(self, x: jax.Array) -> PartitionSpec:
        """Of [B, L, heads, ...]."""
        return PartitionSpec(self.batch, None, self.heads)

    def leading(self, x: jax.Array) -> PartitionSpec:
        """Of [B or 1, heads or 1, ...], or of a scalar."""
        return PartitionSpec(*(names if size > 1 else None for names, size in zip(self[1:], x.shape, strict=False)))

    def by_head(self, x: jax.Array) -> PartitionSpec:
        """Of [heads or 1, ...]."""
        return PartitionSpec(self.heads if x.shape[0] > 1 else None)

    def by_example(self, x: jax.Array, heads_axis: int | None = None) -> PartitionSpec:
        """Of [B, ...], in which one axis may be that of heads."""
        inner = (self.heads if axis == heads_axis else None for axis in range(1, x.ndim))
        return PartitionSpec(self.batch, *inner)

    def over_devices(self, function: Callable, given: list[tuple[Any, Callable]], out_specs: Any) -> Any:
        """`function` of trees, on each device with its part of them.

        Args:
          given: each tree, and what tells the `PartitionSpec` of one of its leaves.
          out_specs: those of what it returns, as in `jax.shard_map`.
        """
        leaves, treedef = jax.tree.flatten([tree for tree, _ in given])
        here = lambda *leaves: function(*jax.tree.unflatten(treedef, varying.alike(leaves)))
        if self.mesh is None:
            return here(*leaves)
        specs = [spec_of(x) for tree, spec_of in given for x in jax.tree.leaves(tree)]
        leaves = [reshard(x, NamedSharding(self.mesh, spec)) for x, spec in zip(leaves, specs, strict=True)]
        if not self.names:
            return here(*leaves)
        call = jax.shard_map(here, mesh=self.mesh, in_specs=tuple(specs), out_specs=out_specs, axis_names=self.names)
        return call(*leaves)


def _as_tuple(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names or ()
