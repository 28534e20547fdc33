"""Public figures of what joins accelerators, and how fast messages travel there.

How fast is the least that wires allow: nothing is said of what a library reaches. Messages between neighbours are those
of a ring which visits device after device; what a program permutes farther than to a neighbour passes for such a one.
"""

from __future__ import annotations

import dataclasses
import math

from experiments.bench.chips import CHIPS, Chip

PERMUTE, EXCHANGE, REDUCE = "collective-permute", "all-to-all", "all-reduce"


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A device, and what joins it to others.

    Attributes:
      chip: the device.
      start: seconds before a message is on its way.
      share: of `flops` and of `memory` which a good program reaches: an assumption.
    """

    chip: Chip
    start: float
    share: float = 0.5

    @property
    def name(self) -> str:
        """Of the device."""
        return self.chip.name

    @property
    def flops(self) -> float:
        """Operations a second, of dense products in bfloat16."""
        return self.chip.flops["bfloat16"]

    @property
    def memory(self) -> float:
        """Bytes a second of its own memory."""
        return self.chip.memory

    def bandwidth(self, kind: str, devices: int) -> float:
        """Bytes a second that each of so many devices sends in messages of a kind."""
        raise NotImplementedError

    def steps(self, kind: str, devices: int) -> float:
        """Seconds that the steps of a message take which carries nothing."""
        raise NotImplementedError

    def seconds(self, kind: str, messages: float, sent: float, devices: int) -> float:
        """Seconds of some messages of a kind, in which a device sends so many bytes in all."""
        latency = self.start + self.steps(kind, devices)
        return messages * latency + sent / self.bandwidth(kind, devices)


@dataclasses.dataclass(frozen=True)
class Nodes(Hardware):
    """Devices in nodes: a switch joins those of one, and a link of each device leaves it.

    Attributes:
      size: devices of a node.
      inside: bytes a second that a device sends within its node.
      outside: bytes a second of the link of a device to other nodes.
      step_inside: seconds of a step within a node.
      step_outside: seconds of a step between nodes.
    """

    size: int = 8
    inside: float = 450e9
    outside: float = 50e9
    step_inside: float = 3.4e-6
    step_outside: float = 9.6e-6

    def bandwidth(self, kind, devices):
        if devices <= self.size:
            return self.inside
        if kind == PERMUTE:  # one device of a node hands on to the next node, and all others wait for it
            return self.outside
        if kind == EXCHANGE:  # each device has something for every device of other nodes
            return self.outside * (devices - 1) / (devices - self.size)
        return min(self.inside, self.outside * self.size)  # all links of a node carry a part of what it needs

    def steps(self, kind, devices):
        step = self.step_inside if devices <= self.size else self.step_outside
        if kind == PERMUTE:
            return step
        return (2 if kind == REDUCE else 1) * math.ceil(math.log2(devices)) * step


@dataclasses.dataclass(frozen=True)
class Torus(Hardware):
    """Devices in a torus of three axes, each with a link to either neighbour along an axis.

    Attributes:
      link: bytes a second of a link in one direction.
      step: seconds of a hop.
      sides: of the torus, by the number of devices; one of 2 has one link and no way around.
    """

    link: float = 100e9
    step: float = 1e-6
    sides: tuple[tuple[int, int, int], ...] = ((2, 2, 2), (4, 4, 4), (4, 8, 8))

    def bandwidth(self, kind, devices):
        if kind == PERMUTE:
            return self.link
        sides = self._sides(devices)
        if kind == EXCHANGE:  # the axis whose links are busiest: as many hops as it takes on average, over its links
            return self.link / max(self._hops(side) / self._links(side) for side in sides)
        return self.link * sum(map(self._links, sides))

    def steps(self, kind, devices):
        if kind == PERMUTE:
            return self.step
        return (2 if kind == REDUCE else 1) * sum(side / 2 for side in self._sides(devices)) * self.step

    def _sides(self, devices: int) -> tuple[int, int, int]:
        return next(sides for sides in self.sides if math.prod(sides) == devices)

    @staticmethod
    def _links(side: int) -> int:
        return 1 if side == 2 else 2

    @staticmethod
    def _hops(side: int) -> float:
        return 0.5 if side == 2 else side / 4


H100 = Nodes(CHIPS["h100"], start=8.4e-6)
V5P = Torus(CHIPS["v5p"], start=0.0)
EVERY = (H100, V5P)
