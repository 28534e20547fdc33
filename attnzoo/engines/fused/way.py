"""What is asked for where a program is traced: kernels of our own, and tiles that suit their device."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager

from attnzoo.engines.ambient import Ambient


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How a device wants sequences cut.

    Attributes:
      quantum: where a size is free, it is a multiple of this.
      largest: queries or keys in a tile, where that is free.
      grain: where a size is a pattern's, as those of blocks, its tiles are filled up to a multiple of this.
    """

    quantum: int
    largest: int
    grain: int

    def size(self, length: int, most: int) -> int:
        """The multiple of `quantum`, at most about `most`, that splits `length` with the least padding."""
        most = self.filled(min(most, self.largest), self.quantum)
        tiles = max(1, -(-length // most))
        return self.filled(-(-length // tiles), self.quantum)

    @staticmethod
    def filled(size: int, unit: int) -> int:
        """The least multiple of a unit that is no smaller."""
        return max(1, -(-size // unit)) * unit

    def in_use(self) -> AbstractContextManager[None]:
        """Layouts that are made inside have such tiles, and list each pair of them by itself."""
        return _tiles.during(self)


@dataclasses.dataclass(frozen=True)
class Way:
    """How kernels of ours are run; part of what programs are remembered by.

    Attributes:
      interpreted: the tiles with which a CPU interprets kernels; None where it runs none.
      platform: of which device these kernels are.
    """

    interpreted: Tiles | None = None
    platform: str = "tpu"


class Asked:
    """Kernels of ours are asked for.

    Attributes:
      way: how they are run.
      by: who asks, for messages.
      is_met: whether softmax over listed tiles came, or a recurrence, which they compute.
    """

    def __init__(self, way: Way, by: str):
        self.way, self.by, self.is_met = way, by, False

    def declined(self, reasons: list[str], where: str = "") -> NotImplementedError:
        """The error that tells why."""
        told = "; ".join([*reasons, "pass implementation=None or 'xla'"])
        return NotImplementedError(f"implementation='pallas' declines {self.by}{where}: {told}")


_tiles: Ambient[Tiles | None] = Ambient("tiles", None)
_way = Ambient("way", Way())
_asked: Ambient[Asked | None] = Ambient("fused", None)


def tiles() -> Tiles | None:
    """Those in use; None where the program is XLA's."""
    return _tiles()


def way() -> Way:
    """How kernels of ours would be run here."""
    return _way()


def asked() -> Asked | None:
    """Whether they are asked for."""
    return _asked()


@contextlib.contextmanager
def asking(way: Way, by: str) -> Iterator[None]:
    """What is traced inside takes kernels of ours for softmax over listed tiles, and for recurrences over chunks.

    Raises:
      NotImplementedError: there is none.
    """
    found = Asked(way, by)
    with _asked.during(found):
        yield
    if not found.is_met:
        raise found.declined(["it is no softmax over tiles that are known beforehand, and no recurrence"])


def interpreted(
    quantum: int = 8, largest: int = 16, grain: int = 8, *, platform: str = "tpu"
) -> AbstractContextManager[None]:
    """A CPU interprets the kernels of a TPU in programs of `attend(implementation="pallas")` that are traced inside.

    It is slow, and meant for tests; small tiles make several of few tokens. With `platform="cuda"` they are a
    GPU's, whose tiles are multiples of 64.

    Example:
      >>> from attnzoo.engines.fused.way import interpreted
      >>> q = k = v = jax.random.normal(jax.random.key(0), (1, 24, 2, 8))
      >>> with interpreted():
      ...     out = attend(q, k, v, is_causal=True, implementation="pallas")
      >>> bool(jnp.allclose(out, attend(q, k, v, is_causal=True), atol=1e-5))
      True
    """
    return _way.during(Way(Tiles(quantum, largest, grain), platform))
