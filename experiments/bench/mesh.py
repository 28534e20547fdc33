"""Devices as a flag has them, such as 'data=4, sequence=2'. Nothing here imports jax before devices are asked for."""

from __future__ import annotations

import contextlib
import math
import os
from typing import TYPE_CHECKING

from experiments.bench import parsing

if TYPE_CHECKING:
    from jax.sharding import Mesh

AXES = ("data", "model", "sequence")  # over which batches, heads and inner widths, and sequences are split
VIRTUAL = "--xla_force_host_platform_device_count"


def parse(text: str, flag: str = "mesh") -> str:
    """Text such as `data=4, sequence=2` as rows have it, its axes in one order; empty for no mesh.

    Raises:
      ValueError: it has another axis, or no whole number of devices.
    """
    found: dict[str, int] = {}
    for item in parsing.unless_empty(parsing.items)(text, flag):
        name, _, count = (part.strip() for part in item.partition("="))
        if name not in AXES or name in found or not count.isdecimal() or int(count) < 1:
            raise ValueError(f"--{flag} has {item!r}: expected each of {', '.join(AXES)} once at most, such as data=4")
        found[name] = int(count)
    return ", ".join(f"{name}={found[name]}" for name in AXES if name in found)


def several(text: str, flag: str = "mesh") -> tuple[str, ...]:
    """Meshes such as `sequence={1,2,4,8}`, where braces stand for a grid; none twice, empty for no mesh."""
    if not text or not text.strip():
        return ()
    return tuple(dict.fromkeys(parse(each, flag) for each in parsing.grid(text, flag)))


def sizes(mesh: str) -> dict[str, int]:
    """Devices along each of `AXES`, 1 where a mesh does not name it."""
    named = (item.split("=") for item in mesh.split(", ") if item)
    return dict.fromkeys(AXES, 1) | {name: int(count) for name, count in named}


def count(mesh: str) -> int:
    """How many devices a mesh has."""
    return math.prod(sizes(mesh).values())


def provide(devices: int) -> None:
    """Let a CPU be so many devices, unless `XLA_FLAGS` say how many; before jax is asked for any."""
    import jax

    if devices > 1 and VIRTUAL not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # it was asked, and `made` says what is missing
            jax.config.update("jax_num_cpu_devices", devices)


def made(mesh: str) -> Mesh:
    """The mesh, of the first devices, with all of `AXES`; they are Explicit, as `jax.make_mesh` makes them.

    Raises:
      ValueError: there are fewer devices, or those of some process would have no place in it.
    """
    import jax

    found, wanted = jax.devices(), count(mesh)
    if wanted > len(found):
        hint = f"; XLA_FLAGS={VIRTUAL}={wanted} makes so many of a CPU" * (found[0].platform == "cpu")
        raise ValueError(f"--mesh={mesh!r} is of {wanted} devices, and there are {len(found)}{hint}")
    if jax.process_count() > 1 and wanted != len(found):
        raise ValueError(
            f"--mesh={mesh!r} is of {wanted} devices, and {jax.process_count()} processes have {len(found)}: use all"
        )
    return jax.make_mesh(tuple(sizes(mesh).values()), AXES, devices=found[:wanted])
