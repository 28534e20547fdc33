"""A sequence that is split over devices, as one of them meets it in a `shard_map`, and what they send each other."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract.mask import Mask


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Shards:
    """Parts of equal length, of which each device has one; the last ones are filled up where lengths are uneven.

    Attributes:
      axes: of the mesh, over which the sequence is split.
      count: how many devices there are along them.
      query_length: T of the whole.
      key_length: S of the whole.
      of_keys: whether keys alone are split, beside queries that all devices have.

    Example:
      >>> from attnzoo.contract.shards import Shards
      >>> mesh = jax.make_mesh((1,), ("sequence",), (jax.sharding.AxisType.Auto,))
      >>> shards = Shards(("sequence",), count=1, query_length=4, key_length=4)
      >>> P = jax.sharding.PartitionSpec
      >>> everything = jax.shard_map(
      ...     lambda x: shards.gathered(x, 0), mesh=mesh, in_specs=P("sequence"), out_specs=P("sequence")
      ... )
      >>> everything(jnp.arange(4)).tolist()
      [0, 1, 2, 3]
    """

    axes: tuple[str, ...]
    count: int
    query_length: int
    key_length: int
    of_keys: bool = False

    @property
    def index(self) -> jax.Array:
        """Which part this device has, int32 []."""
        return jax.lax.axis_index(self.axes)

    def are_beside(self, mask: Mask) -> bool:
        """Whether each device has the keys that stand where its queries stand."""
        return mask.is_placed and mask.place == 0 and self.query_length == self.key_length

    def indices(self, query_length: int, key_length: int) -> tuple[jax.Array, jax.Array]:
        """Where the queries and the keys of this device's part stand in the whole, [T] and [S] of a part."""
        rows, columns = (self.index * length + jnp.arange(length) for length in (query_length, key_length))
        return jnp.arange(query_length) if self.of_keys else rows, columns

    def gathered(self, tree: Any, axis: int) -> Any:
        """The parts of all devices, one after another along `axis`."""
        to = "invarying" if self.of_keys else "varying"
        return jax.tree.map(lambda x: jax.lax.all_gather(x, self.axes, axis=axis, tiled=True, to=to), tree)

    def filled(self, x: jax.Array, axis: int) -> jax.Array:
        """A whole sequence along `axis`, filled up with 0 so that all parts are of one length."""
        return jnp.pad(x, [(0, -x.shape[i] % self.count if i == axis else 0) for i in range(x.ndim)])

    def part(self, tree: Any, axis: int) -> Any:
        """This device's part of arrays that all devices have."""

        def cut(x):
            size = x.shape[axis] // self.count
            return jax.lax.dynamic_slice_in_dim(x, self.index * size, size, axis)

        return jax.tree.map(cut, tree)

    def summed(self, tree: Any) -> Any:
        """The sum over all devices."""
        return self.apart(jax.lax.psum(tree, self.axes), tree)

    def largest(self, x: jax.Array) -> jax.Array:
        """The maximum over all devices; it has no gradient."""
        return self.apart(jax.lax.pmax(jax.lax.stop_gradient(x), self.axes), x)

    def agreed(self, condition: jax.Array) -> jax.Array:
        """Whether it holds on all devices, with those of other examples and heads, so that all of them go one way."""
        axes = {*self.axes, *jax.typeof(condition).manual_axis_type.varying}
        return jax.lax.pmin(condition.astype(jnp.int32), tuple(sorted(axes))) > 0

    def of_neighbour(self, tree: Any, distance: int) -> Any:
        """What the device has that is `distance` parts further on, or before where negative; 0 beyond the ends."""
        pairs = [(i, i - distance) for i in range(self.count) if 0 <= i - distance < self.count]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, self.axes, pairs), tree)

    def handed_on(self, tree: Any) -> Any:
        """What the device before had, around a ring: each gives what it has to the next one."""
        return self.exchanged(tree, lambda i: (i + 1) % self.count)

    def exchanged(self, tree: Any, to: Any) -> Any:
        """What comes where device i sends what it has to device `to(i)`, each to another."""
        pairs = [(i, to(i)) for i in range(self.count)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, self.axes, pairs), tree)

    def swapped(self, tree: Any, cut: int, joined: int) -> Any:
        """Axis `cut`, which devices have whole, in parts, and axis `joined`, of which they have parts, whole."""
        send = lambda x: jax.lax.all_to_all(x, self.axes, split_axis=cut, concat_axis=joined, tiled=True)
        return jax.tree.map(send, tree)

    def apart(self, tree: Any, like: Any) -> Any:
        """What all devices have alike, as arrays that may differ between them as those of `like` do; as it is where
        their queries are alike as well.
        """

        def one(shared, like):
            checked, known = (jax.typeof(x).manual_axis_type.varying for x in (like, shared))
            missing = tuple(x for x in self.axes if x in checked and x not in known)
            return jax.lax.pcast(shared, missing, to="varying") if missing else shared

        return tree if self.of_keys else jax.tree.map(one, tree, like)

    def alike(self, tree: Any) -> Any:
        """What all devices have, and may differ between them for all that jax knows, as the same arrays."""

        def one(x):
            if not set(self.axes) & set(jax.typeof(x).manual_axis_type.varying):
                return x
            first = jnp.where(self.index == 0, x, jnp.zeros_like(x))
            return jax.lax.psum(first.astype(jnp.int32) if x.dtype == bool else first, self.axes).astype(x.dtype)

        return jax.tree.map(one, tree)
