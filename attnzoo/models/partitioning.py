"""Parameters of a model split over a mesh: in one place, for every model here.

Tensor parallelism splits heads, the inner width of feed-forward networks and the vocabulary (Shoeybi et al. 2019,
arXiv:1909.08053); fully sharded data parallelism splits what is left over the axes of the batch (Rajbhandari et al.
2020, arXiv:1910.02054), and weights are brought together where they are used.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from attnzoo.door.meshes import Names, as_tuple

# Where the axis stands that a tensor-parallel mesh axis splits, by the end of a parameter's path.
HEADS = {("query", "kernel"): 1, ("key", "kernel"): 1, ("value", "kernel"): 1, ("out", "kernel"): 0}
HEADS |= {("query", "bias"): 0, ("key", "bias"): 0, ("value", "bias"): 0}
INNER = {("widen", "kernel"): 1, ("widen", "bias"): 0, ("narrow", "kernel"): 0}
VOCABULARY = {("embed", "embedding"): 0, ("head", "kernel"): 1}  # not its bias, which would split logits
SPLIT = HEADS | INNER | VOCABULARY

SMALLEST = 2**10  # numbers; what has fewer is on all devices


class Axes(NamedTuple):
    """The axes of a mesh by what they are for.

    Attributes:
      model: over which heads, inner widths and vocabularies are split; None for none.
      fsdp: over which all parameters are split beside that, most often those of the batch; None for none.
    """

    model: str | None = None
    fsdp: Names = None


def partition(model: nnx.Module, mesh: Mesh, *, model_axis: str | None = None, fsdp_axis: Names = None) -> None:
    """Split the parameters of a model over a mesh, in place.

    An optimiser that is made afterwards splits its state alike. Explicit axes need `jax.set_mesh(mesh)` where the model
    is called; with them, and with Auto ones, its inputs say how batch and sequence are split.

    Args:
      model: of `attnzoo.models`; of others, what is named as there.
      mesh: from `jax.make_mesh`.
      model_axis: over which heads, the inner width of feed-forward networks and the vocabulary are split.
      fsdp_axis: over which all parameters are split beside that, such as "data".

    Raises:
      ValueError: the mesh has no such axis.

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
    """
    axes = Axes(model_axis, fsdp_axis)
    for name, given in (("model_axis", model_axis), ("fsdp_axis", fsdp_axis)):
        for axis in as_tuple(given):
            if axis not in mesh.axis_names:
                raise ValueError(f"{name}={given!r}: the mesh has the axes {', '.join(mesh.axis_names)}")
    state = nnx.state(model, nnx.Param)
    specs = jax.tree.map_with_path(lambda path, x: _spec(path, x.shape, mesh, axes), state)
    nnx.update(model, jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), state, specs))


def _spec(path: tuple, shape: tuple[int, ...], mesh: Mesh, axes: Axes) -> PartitionSpec:
    """How a parameter is split: by its own axis over the model, and by the largest that is left over the rest."""
    module, name = (str(getattr(x, "key", x)) for x in path[-3:-1]) if len(path) > 2 else ("", "")
    own = SPLIT.get((module, name))
    spec: list[Any] = [None] * len(shape)
    if own is None or math.prod(shape) < SMALLEST:
        return PartitionSpec(*spec)
    parts = lambda axes: math.prod(mesh.shape[name] for name in as_tuple(axes))
    if name == "embedding" and shape[0] % parts((*as_tuple(axes.model), *as_tuple(axes.fsdp))) == 0:
        # Rows are looked up where they are; of parts of rows, all would be brought together for it.
        return PartitionSpec((*as_tuple(axes.model), *as_tuple(axes.fsdp)) or None, None)
    if axes.model is not None and shape[own] % parts(axes.model) == 0:
        spec[own] = axes.model
    free = [i for i, size in enumerate(shape) if spec[i] is None and size % parts(axes.fsdp) == 0]
    if axes.fsdp is not None and len(shape) > 1 and free:
        spec[max(free, key=lambda i: shape[i])] = axes.fsdp
    return PartitionSpec(*spec)
