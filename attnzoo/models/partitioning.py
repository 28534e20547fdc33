"""Parameters of a model split over a mesh: in one place, for every model here.

Tensor parallelism splits heads, the inner width of feed-forward networks and the vocabulary (Shoeybi et al. 2019,
arXiv:1909.08053); fully sharded data parallelism splits what is left over the axes of the batch (Rajbhandari et al.
2020, arXiv:1910.02054), and weights are brought together where they are used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen, nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from attnzoo.door.meshes import Names, as_tuple
from attnzoo.layers import projected

# The logical names of a parameter's axes, by the end of its path. What is not here is small, and on all devices;
# so is the bias of the head, which would split logits.
PROJECTED = ("embed", "heads", "kv")
CONVOLVED = ("heads", "conv", "kv")
LOGICAL: dict[tuple[str, str], tuple[str, ...]] = {
    ("query", "kernel"): PROJECTED, ("key", "kernel"): PROJECTED, ("value", "kernel"): PROJECTED,
    ("query", "bias"): PROJECTED[1:], ("key", "bias"): PROJECTED[1:], ("value", "bias"): PROJECTED[1:],
    ("gate", "kernel"): PROJECTED, ("gate", "bias"): PROJECTED[1:], ("out", "kernel"): ("heads", "kv", "embed"),
    ("token", "kernel"): PROJECTED, ("token", "bias"): PROJECTED[1:],
    ("attention", "query_conv"): CONVOLVED, ("attention", "key_conv"): CONVOLVED,
    ("attention", "value_conv"): CONVOLVED,
    ("widen", "kernel"): ("embed", "mlp"), ("widen", "bias"): ("mlp",),
    ("widen_gate", "kernel"): ("embed", "mlp"), ("widen_gate", "bias"): ("mlp",),
    ("narrow", "kernel"): ("mlp", "embed"),
    ("embed", "embedding"): ("vocab", "embed"), ("head", "kernel"): ("embed", "vocab"),
    ("read", "embedding"): ("vocab", "embed"), ("write", "embedding"): ("vocab", "embed"),
    ("dense_i", "kernel"): ("embed", "gates"), ("dense_h", "kernel"): ("embed", "gates"),  # of recurrent cells
}  # fmt: skip
OVER_MODEL = {"heads", "mlp", "vocab"}  # what tensor parallelism splits

Rules = Sequence[tuple[str, Names]]  # logical axes, and the axes of a mesh that each is split over

SMALLEST = 2**10  # numbers; what has fewer is on all devices


class Axes(NamedTuple):
    """The axes of a mesh by what they are for.

    Attributes:
      model: over which heads, inner widths and vocabularies are split; None for none.
      fsdp: over which all parameters are split beside that, most often those of the batch; None for none.
    """

    model: str | None = None
    fsdp: Names = None


def partition(
    model: nnx.Module,
    mesh: Mesh,
    *,
    model_axis: str | None = None,
    fsdp_axis: Names = None,
    rules: Rules | None = None,
) -> None:
    """Split the parameters of a model over a mesh, in place.

    An optimiser that is made afterwards splits its state alike. Explicit axes need `jax.set_mesh(mesh)` where the model
    is called; with them, and with Auto ones, its inputs say how batch and sequence are split.

    Args:
      model: of `attnzoo.models`; of others, what is named as there. Recurrent ones hold parameters in parts, and bring
        them together where they are used.
      mesh: from `jax.make_mesh`.
      model_axis: over which heads, the inner width of feed-forward networks and the vocabulary are split.
      fsdp_axis: over which all parameters are split beside that, such as "data".
      rules: in place of both, Flax's pairs of a logical axis and one of the mesh, the first ones first. Axes are
        "embed", "heads", "kv", "mlp", "vocab" and "gates". Those of a context are
        `flax.linen.get_logical_axis_rules()`.

    Raises:
      ValueError: the mesh has no such axis; rules beside other axes; a rule splits what the mesh does not divide; no
        parameter of the model has a name that is known here.

    Example:
      >>> from flax import nnx
      >>> from attnzoo.models import BlockConfig, LanguageModel, partition
      >>> model = LanguageModel(64, BlockConfig(width=32, num_heads=2), max_length=16, num_layers=1, rngs=nnx.Rngs(0))
      >>> mesh = jax.make_mesh((1, 1), ("data", "model"))
      >>> partition(model, mesh, model_axis="model", fsdp_axis="data")
      >>> jax.typeof(model.stack.blocks[0].attention.query.kernel[...]).sharding.spec
      P('data', 'model', None)
      >>> with jax.set_mesh(mesh):
      ...     model(jnp.zeros((2, 16), int)).shape
      (2, 16, 64)
      >>> partition(model, mesh, rules=[("mlp", "model"), ("heads", "model"), ("embed", "data")])
      >>> jax.typeof(model.stack.blocks[0].feed_forward.widen.kernel[...]).sharding.spec
      P('data', 'model')
    """
    axes = Axes(model_axis, fsdp_axis)
    if rules is not None and axes != Axes():
        raise ValueError(f"rules came beside {axes}: expected the ones or the others")
    of_rules = [(f"rules: {name!r}", names) for name, names in rules or ()]
    for name, given in (("model_axis", model_axis), ("fsdp_axis", fsdp_axis), *of_rules):
        for axis in as_tuple(given):
            if axis not in mesh.axis_names:
                raise ValueError(f"{name}={given!r}: the mesh has the axes {', '.join(mesh.axis_names)}")
    state = nnx.state(model, nnx.Param)
    if not any(_logical(path, x.shape) for path, x in jax.tree.leaves_with_path(state)):
        names = ", ".join(sorted({module for module, _ in LOGICAL}))
        raise ValueError(
            f"model is a {type(model).__name__}: expected one that has parameters of some modules named {names}; those "
            "of others are split by flax.nnx.with_partitioning, where they are made"
        )
    spec = functools.partial(_spec, axes=axes) if rules is None else functools.partial(_ruled, rules=tuple(rules))
    specs = jax.tree.map_with_path(lambda path, x: spec(path, x.shape, mesh), state)
    nnx.update(model, jax.tree.map(lambda x, spec: _put(x, NamedSharding(mesh, spec)), state, specs))


def _put(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    """An array as devices share it, which several processes may have: each has all of it, or already its part."""
    if sharding.is_fully_addressable or not x.is_fully_addressable:
        return jax.device_put(x, sharding)
    # What `device_put` makes of it cannot be saved by orbax, where it is on all devices.
    return jax.make_array_from_callback(x.shape, sharding, np.asarray(x).__getitem__)


def _logical(path: tuple, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The names of a parameter's axes, none where it is not to be split."""
    module, name = (str(getattr(x, "key", x)) for x in path[-3:-1]) if len(path) > 2 else ("", "")
    module = "token" if module.startswith(projected.token_name("")) else module
    return LOGICAL.get((module, name), ())[: len(shape)]  # what a token brings may be one number for each head


def _parts(mesh: Mesh, axes: Names) -> int:
    return math.prod(mesh.shape[name] for name in as_tuple(axes))


def _ruled(path: tuple, shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> PartitionSpec:
    """How a parameter is split by rules of its logical axes."""
    names = _logical(path, shape)
    spec = linen.logical_to_mesh_axes(names, rules) or PartitionSpec()
    for name, size, over in zip(names, shape, spec, strict=False):
        if size % _parts(mesh, over):
            raise ValueError(
                f"rules: {name!r} came over {over!r}, and {jax.tree_util.keystr(path)} has {size} there, which "
                f"{_parts(mesh, over)} devices do not divide: expected sizes that they do, or no such rule"
            )
    return spec


def _spec(path: tuple, shape: tuple[int, ...], mesh: Mesh, axes: Axes) -> PartitionSpec:
    """How a parameter is split: by its own axis over the model, and by the largest that is left over the rest."""
    names = _logical(path, shape)
    spec: list[Any] = [None] * len(shape)
    if not names or math.prod(shape) < SMALLEST:
        return PartitionSpec(*spec)
    if names[0] == "vocab" and shape[0] % _parts(mesh, (*as_tuple(axes.model), *as_tuple(axes.fsdp))) == 0:
        # Rows are looked up where they are; of parts of rows, all would be brought together for it.
        return PartitionSpec((*as_tuple(axes.model), *as_tuple(axes.fsdp)) or None, None)
    own = next((i for i, name in enumerate(names) if name in OVER_MODEL), None)
    if axes.model is not None and own is not None and shape[own] % _parts(mesh, axes.model) == 0:
        spec[own] = axes.model
    free = [i for i, size in enumerate(shape) if spec[i] is None and size % _parts(mesh, axes.fsdp) == 0]
    if axes.fsdp is not None and len(shape) > 1 and free:
        spec[max(free, key=lambda i: shape[i])] = axes.fsdp
    return PartitionSpec(*spec)
