"""Accelerators by name: public figures of each, and what a compiler must be told of one that is not here.

Operations are those of dense products of numbers of a type, as jax does them by default: of float32 by TensorFloat-32
on an H100, by bfloat16 on a TPU. A launch is an assumption: what small kernels take that wait for each other. A TPU is
given a whole program, and nobody tells how long it takes from one operation to the next.

Sources: nvidia.com/en-us/data-center/h100 (half of what is told there with sparsity), cloud.google.com/tpu/docs/v4,
v5e, v5p and v6e.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      name: of the device.
      flops: operations a second, by type.
      memory: bytes a second of its own memory.
      capacity: bytes of it.
      platform: whose compiler is for it, as jax calls it.
      topology: how that compiler names it, where one of them will do.
      launch: seconds from one launch to the next.
    """

    name: str
    flops: Mapping[str, float]
    memory: float
    capacity: float
    platform: str
    topology: str
    launch: float = 0.0

    def description(self) -> str:
        """What the compiler of a GPU is told; empty for a TPU, which its compiler knows by name."""
        path = HERE / f"{self.topology}.txtpb"
        return path.read_text() if self.platform == "cuda" else ""


def _tpu(version: str, flops: float, memory: float, capacity: float, topology: str) -> Chip:
    return Chip(f"TPU {version}", {"bfloat16": flops, "float32": flops}, memory, capacity, "tpu", topology)


CHIPS = {
    "h100": Chip(
        "H100 SXM",
        {"bfloat16": 989e12, "float16": 989e12, "float32": 494e12},
        memory=3350e9,
        capacity=80e9,
        platform="cuda",
        topology="h100",
        launch=3e-6,
    ),
    "v4": _tpu("v4", 275e12, 1200e9, 32e9, "v4:2x2x1"),
    "v5e": _tpu("v5e", 197e12, 819e9, 16e9, "v5e:2x2"),
    "v5p": _tpu("v5p", 459e12, 2765e9, 95e9, "v5p:2x2x1"),
    "v6e": _tpu("v6e", 918e12, 1640e9, 32e9, "v6e:2x2"),
}
