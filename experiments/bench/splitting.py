"""Where the operands of a program are: split over a mesh, and what is learned on every device of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from attnzoo import Dims
from experiments.bench import mesh

SPLIT = PartitionSpec("data", "sequence", "model")  # of [B, T, N, ...]


def refusal(named: str, dims: Dims) -> str | None:
    """Why operands of these sizes cannot be split over a mesh, or None."""
    sizes = mesh.sizes(named)
    split = {
        "--batch": ("data", dims.batch),
        "length": ("sequence", dims.query_length),
        "--heads": ("model", dims.num_heads),
        "--num_kv_heads": ("model", dims.num_key_value_heads),
    }
    for name, (axis, size) in split.items():
        if size % sizes[axis]:
            return (
                f"--mesh={named!r} splits {name}={size} into {sizes[axis]} parts, which would not be equal: choose one "
                f"that {axis}={sizes[axis]} divides"
            )
    return None


def over(devices: Mesh, operands: list, place: Callable[[Any, NamedSharding], Any]) -> list:
    """Query, key, value, parameters and what tokens bring, each leaf put by `place(leaf, sharding)`."""
    *arrays, params, tokens = operands
    each = lambda tree, spec: jax.tree.map(lambda x: place(x, NamedSharding(devices, spec)), tree)
    return [*each(arrays, SPLIT), each(params, PartitionSpec()), each(tokens, SPLIT)]


def shape(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    """A shape that tells how an array of it is split."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
