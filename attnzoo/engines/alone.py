"""Whether a program is lowered for one device, so that nothing which it meets is split behind its back.

With Auto axes the compiler splits arrays once a program is written, and no type tells. How many devices it is for is
known where it is lowered, which is where this number becomes a constant, and the branch that it rules out goes away.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

_is_alone = Primitive("is_alone")
_is_alone.def_abstract_eval(lambda: jax.typeof(np.bool_(True)))


def is_alone() -> jax.Array:
    """A bool of the program: whether no axis of a mesh is left to the compiler."""
    return _is_alone.bind()


def devices(context: Any) -> int:
    """How many a lowered program is for, those of axes that a `shard_map` has taken apart; 1 where it does not tell."""
    mesh = getattr(context, "mesh", None)
    if mesh is None:
        return getattr(context, "num_devices", 1)
    return math.prod(size for name, size in mesh.shape.items() if name not in context.manual_axes)


mlir.register_lowering(
    _is_alone, lambda context: [mlir.ir_constant(np.bool_(devices(context.module_context.axis_context) == 1))]
)
