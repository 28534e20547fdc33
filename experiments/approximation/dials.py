"""What a user turns to trade error for time, and the kernel that each value gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from attnzoo import BigBird, Kernel, Linear, Linformer, Nystrom, Performer, SlidingWindow, Softmax, catalogue


class Dial(NamedTuple):
    """A kernel as a function of one number.

    Attributes:
      name: what rows and figures call it.
      flag: where its values come from.
      kernel: from a value, and whether the future is hidden, to a kernel.
      terms: how many features, landmarks, projected keys or keys a query meets, to which work is proportional; from
        the kernel's value, and whether the future is hidden.
    """

    name: str
    flag: str
    kernel: Callable[[int, bool], Kernel]
    terms: Callable[[int, bool], int] = lambda value, is_causal: value


def _window(keys: int, is_causal: bool) -> Kernel:
    """As many keys beside the query's own; the odd one of two sides is before it."""
    return SlidingWindow(keys, 0) if is_causal else SlidingWindow(keys - keys // 2, keys // 2)


def _keys_of_blocks(random: int, is_causal: bool) -> int:
    """Keys that a query in the middle sees: global blocks at both ends but for causal attention, a window, and more."""
    kernel = BigBird(num_random=random)
    ends = kernel.num_global * (1 if is_causal else 2)
    return (ends + kernel.num_window + kernel.num_random) * kernel.block_size


DIALS = (
    Dial("performer", "features", lambda m, _: Performer(features=m)),
    Dial("performer, independent", "features", lambda m, _: Performer(features=m, orthogonal=False)),
    Dial("nystrom", "landmarks", lambda m, _: Nystrom(landmarks=m)),
    Dial("linformer at init", "ranks", lambda rank, _: Linformer(rank=rank)),
    Dial("sliding_window", "windows", _window, lambda keys, _: keys + 1),
    Dial("bigbird", "random_blocks", lambda r, _: BigBird(num_random=r), _keys_of_blocks),
)
EXACT = Softmax()
POINTS = {"softmax": EXACT, "linear": Linear()}  # without a dial


class Setting(NamedTuple):
    """One point of a line; `value` and `terms` are None where there is no dial."""

    dial: str
    value: int | None
    terms: int | None
    kernel: Kernel

    def told(self) -> dict:
        """As rows have it."""
        return self._asdict() | {"kernel": catalogue.identity(self.kernel), "name": catalogue.name_of(self.kernel)}


def settings(values: dict[str, tuple[int, ...]], is_causal: bool) -> list[Setting]:
    """The kernels without a dial, softmax first, and each dial at the values of its flag."""
    points = [Setting(name, None, None, kernel) for name, kernel in POINTS.items()]
    turned = [
        Setting(dial.name, value, dial.terms(value, is_causal), dial.kernel(value, is_causal))
        for dial in DIALS
        for value in values[dial.flag]
    ]
    return points + turned
