"""The catalogue: the names of kernels and of positions everywhere, and both from text."""

from __future__ import annotations

from attnzoo.catalogue.parsing import Catalogue
from attnzoo.kernel import Kernel
from attnzoo.kernels import KERNELS
from attnzoo.positions import (
    ALiBi,
    LearnedPositions,
    NoPositions,
    PositionEncoding,
    Rotary,
    Shaw,
    SinusoidalPositions,
    T5Buckets,
)

POSITIONS: dict[str, type[PositionEncoding]] = {
    "none": NoPositions,
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
    "rotary": Rotary,
    "alibi": ALiBi,
    "t5": T5Buckets,
    "shaw": Shaw,
}

_KERNELS = Catalogue("kernel", KERNELS, Kernel, "softmax, performer(features=64)")
_POSITIONS = Catalogue("position encoding", POSITIONS, PositionEncoding, "learned, rotary(pairing='half')")


def parse(text: str, imports: bool = True) -> list[Kernel]:
    """Kernels from text such as `"softmax, sliding_window(left=255, right=0)"`; `"all"` is the whole catalogue.

    A name with dots is a class outside the catalogue, imported: `"my_package.my_module.MyKernel(width=3)"`. Values
    are Python literals; nothing is evaluated.

    Args:
      text: calls, with commas between them.
      imports: whether names with dots are taken; text from a file must not import anything.

    Raises:
      ValueError: an unknown kernel or field (the message has the nearest name), or text that is no list of calls.

    Example:
      >>> parse("sliding_window(left=255, right=0)")
      [SlidingWindow(left=255, right=0, dilation=1, global_tokens=0)]
    """
    return _KERNELS.parse(text, imports)


def parse_positions(text: str, imports: bool = True) -> list[PositionEncoding]:
    """Position encodings from text such as `"learned, rotary(pairing='half')"`, as `parse` does for kernels.

    Example:
      >>> parse_positions("t5(num_buckets=16), none")
      [T5Buckets(num_buckets=16, max_distance=128, bidirectional=True), NoPositions()]
    """
    return _POSITIONS.parse(text, imports)


def name_of(kernel: Kernel) -> str:
    """The catalogue's name of a kernel's class, or the class's own where it is not in the catalogue."""
    return _KERNELS.name_of(kernel)


def identity(value: Kernel | PositionEncoding) -> str:
    """The repr, after its module where the class is not in the catalogue: others may have a class of that name."""
    return _of(value).identity(value)


def spelled(value: Kernel | PositionEncoding) -> str:
    """Text that `parse` or `parse_positions` reads as this value, in any process that can import its class."""
    return _of(value).spelled(value)


def _of(value: Kernel | PositionEncoding) -> Catalogue:
    return _KERNELS if isinstance(value, Kernel) else _POSITIONS
