"""Programs as jax wrote them down, for tests that look inside."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.extend import core

JAXPRS = core.Jaxpr, core.ClosedJaxpr


def equations(program: Any) -> Iterator[Any]:
    """Those of a program, and of all programs inside."""
    for each in getattr(program, "jaxpr", program).eqns:
        yield each
        for inner in jax.tree.leaves(list(each.params.values()), is_leaf=lambda x: isinstance(x, JAXPRS)):
            if isinstance(inner, JAXPRS):
                yield from equations(inner)


def of_kernels(function: Any, *operands: Any) -> list[str]:
    """Kernels of Pallas as text, with the programs that tell which blocks they see."""
    found = [
        each.params for each in equations(jax.make_jaxpr(function)(*operands)) if each.primitive.name == "pallas_call"
    ]
    blocks = lambda given: [x.index_map_jaxpr for x in given["grid_mapping"].block_mappings]
    return [str((given["jaxpr"], blocks(given))) for given in found]


def of_tpu(kind: str, cores: int = 1) -> AbstractContextManager[None]:
    """Programs that are traced inside are for a TPU that is not here."""
    device = jax.sharding.AbstractDevice(kind, cores, platform="tpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))
