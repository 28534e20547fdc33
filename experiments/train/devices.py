"""Devices that a model is trained on: its examples are split over them, and on a mesh its sequence and parameters."""

from __future__ import annotations

import contextlib
import sys

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from attnzoo.models import partition
from experiments.tasks.task import Examples


class Devices:
    """Where a model and its examples are.

    Args:
      mesh: with Explicit axes, as `bench.mesh` makes it; or with the Auto axis "data" alone, over which examples are
        split without a word to the model.
      is_fsdp: whether parameters are split over the axis of examples, too.
    """

    def __init__(self, mesh: Mesh, is_fsdp: bool = False):
        self._mesh, self._is_fsdp = mesh, is_fsdp
        self._is_explicit = AxisType.Explicit in mesh.axis_types
        self._told: set[int] = set()

    def split(self, model: nnx.Module) -> None:
        """Put a model where it is trained, in place; an optimiser that is made afterwards follows its parameters."""
        if self._is_explicit:
            model_axis = "model" if self._mesh.shape["model"] > 1 else None
            partition(model, self._mesh, model_axis=model_axis, fsdp_axis="data" if self._is_fsdp else None)

    def spread(self, module: nnx.Module) -> None:
        """Put what a module has on one device on all of the mesh, in place."""
        if self._is_explicit:
            everywhere = NamedSharding(self._mesh, PartitionSpec())
            is_split = lambda x: isinstance(x.sharding, NamedSharding)
            state = nnx.state(module)
            nnx.update(module, jax.tree.map(lambda x: x if is_split(x) else put(x, everywhere), state))

    def context(self) -> contextlib.AbstractContextManager:
        """What the model is called in."""
        return jax.set_mesh(self._mesh) if self._is_explicit else contextlib.nullcontext()

    def placed(self, examples: Examples) -> tuple[Examples, int]:
        """Examples as the model takes them, and on how many devices each of them is computed once."""
        size, parts = _size(examples), self._mesh.shape["data"]
        is_split = size % parts == 0
        if not is_split:
            self.tell(size, f"each of {parts} devices computes all of it")
        if self._mesh.size == 1 or not (is_split or self._is_explicit):
            return examples, 1
        over = "data" if is_split else None
        spec = lambda x: PartitionSpec(over, *self._along(x, examples))
        placed = jax.tree.map(lambda x: put(x, NamedSharding(self._mesh, spec(x))), examples)
        return placed, self._mesh.size // (1 if is_split else parts)

    def _along(self, x: np.ndarray, examples: Examples) -> tuple[str | None, ...]:
        """Over what the axes of an array after that of examples are split: what has an entry for each token is."""
        if "sequence" not in self._mesh.shape or x.shape != examples.inputs.shape:
            return ()
        return (*[None] * (x.ndim - 2), "sequence")

    def tell(self, size: int, what: str) -> None:
        """Warn of batches of a size, once."""
        if size not in self._told:
            self._told.add(size)
            print(f"warning: a batch of {size:,} examples: {what}; make it a multiple of them", file=sys.stderr)


def local(examples: Examples) -> Devices:
    """As many of this process's devices as divide a batch."""
    found, size = jax.local_devices(), _size(examples)
    count = max(count for count in range(1, len(found) + 1) if size % count == 0)
    devices = Devices(Mesh(np.array(found[:count]), ("data",)))
    if count < len(found):
        devices.tell(size, f"of {len(found)} devices, {count} are used")
    return devices


def put(x: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array that all processes have as their devices share it."""
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    return jax.make_array_from_callback(x.shape, sharding, np.asarray(x).__getitem__)


def whole(x: jax.Array) -> np.ndarray:
    """All of an array, of which this process may have a part."""
    return np.asarray(x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True))


def _size(examples: Examples) -> int:
    return len(jax.tree.leaves(examples)[0])
