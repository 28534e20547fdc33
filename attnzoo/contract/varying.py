"""Inside a `shard_map`, which checks it: arrays that may differ from device to device, and those that may not.

What a loop carries must not become such within it, and a constant is none.
"""

from __future__ import annotations

from typing import Any

import jax


def alike(tree: Any, but: tuple[str, ...] = ()) -> Any:
    """The same arrays, all of which may differ over the same devices; the gradient of one that did not is summed.

    Args:
      but: axes of the mesh over which some may, and others do not.
    """
    return as_of(tree, tree, but)


def as_of(tree: Any, example: Any, but: tuple[str, ...] = ()) -> Any:
    """Arrays, such as those that a loop starts from, that may differ where those of `example` may."""
    axes = _axes(example).difference(but)
    return jax.tree.map(lambda x: _over(x, axes), tree) if axes else tree


def _axes(tree: Any) -> frozenset[str]:
    return frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(tree)))


def _over(x: jax.Array, axes: frozenset[str]) -> jax.Array:
    missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, missing, to="varying") if missing else x
