"""What a device sends in a call whose sequence is split over devices, by formulas.

They say what compiled programs send (`attnzoo.costs.traffic`), which `tests/test_model.py` holds them to, and so what
programs would send that nobody has compiled. Operands travel as they are; sums and states as float32.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from attnzoo import (
    BigBird,
    Dims,
    Kernel,
    Linear,
    Linformer,
    Local,
    Nystrom,
    Performer,
    Reformer,
    Sinkhorn,
    SlidingWindow,
    Softmax,
    SparseTransformer,
)

FULL = 4  # bytes of a float32


class Message(NamedTuple):
    """Messages of a kind, and the bytes that one device sends in all of them.

    `overlaps` where the program computes what does not depend on them.
    """

    kind: str
    count: float
    bytes: float
    overlaps: bool = False


class Call(NamedTuple):
    """What is asked of a kernel: as many heads of keys as of queries, and values as wide as they.

    Attributes:
      dims: of the whole.
      devices: that the sequence is split over.
      is_causal: whether the future is hidden.
      is_train: whether gradients are taken of all operands and parameters.
      width: bytes of a number of the operands.
    """

    dims: Dims
    devices: int
    is_causal: bool = False
    is_train: bool = False
    width: int = 2

    @property
    def part(self) -> float:
        """Bytes of the queries of a device."""
        return self.row * self.dims.query_length / self.devices

    @property
    def row(self) -> float:
        """Bytes of one token's queries."""
        return self.dims.batch * self.dims.num_heads * self.dims.head_dim * self.width

    @property
    def times(self) -> int:
        """How often what is sent as it is, or as its gradient, is sent."""
        return 2 if self.is_train else 1


def sends(kernel: Kernel, call: Call) -> list[Message]:
    """What one device sends in a call; nothing where there is one device.

    Raises:
      NotImplementedError: there is no formula for the kernel.
    """
    return _sends(kernel, call) if call.devices > 1 else []


def works_together(kernel: Kernel, call: Call) -> bool:
    """Whether devices share the work; they all do all of it where queries and keys must be whole beside each other."""
    return not isinstance(kernel, BigBird | Reformer | Sinkhorn) or call.dims.num_heads % call.devices == 0


@functools.singledispatch
def _sends(kernel: Kernel, call: Call) -> list[Message]:
    raise NotImplementedError(f"there is no formula of what {kernel!r} sends: see experiments/scaling/sends.py")


@_sends.register
def _(kernel: Softmax, call: Call) -> list[Message]:
    """Keys and values around a ring, and their gradients, which come home; causally the four arrays of a zigzag."""
    around = call.devices - 1
    ring = Message("collective-permute", 2 * around * call.times, 2 * around * call.times * call.part, overlaps=True)
    found = [ring]
    if call.is_train:
        gradients = 2 * (around + 1)
        found.append(ring._replace(count=gradients, bytes=gradients * call.part * FULL / call.width))
    if call.is_causal:
        found.append(Message("collective-permute", 8 * call.times, 4 * call.times * call.part))
    return found


@_sends.register
def _(kernel: SlidingWindow, call: Call) -> list[Message]:
    """Keys and values within reach on either side, and which are there; what global tokens are, see and give."""
    length = call.dims.key_length / call.devices
    sides = [kernel.left, 0 if call.is_causal else kernel.right]
    found = []
    for side in filter(None, sides):
        hops = math.ceil(side / length)
        sent = side * (2 * call.times * call.row + call.dims.batch)
        found.append(Message("collective-permute", hops * (2 * call.times + 1), sent))
    if kernel.global_tokens:
        numbers = kernel.global_tokens * call.dims.batch * call.dims.num_heads
        operands = 3 * call.times * call.dims.head_dim * call.width
        totals = (call.times * call.dims.head_dim + call.times + 1) * FULL
        found.append(_summed(call, 3 * call.times + call.times + call.times + 1, numbers * (operands + totals)))
    return found


@_sends.register
def _(kernel: Local, call: Call) -> list[Message]:
    """Nothing: devices hold whole blocks."""
    return []


@_sends.register
def _(kernel: SparseTransformer, call: Call) -> list[Message]:
    """The keys and values that summarise a block, to all."""
    sent = 2 * (call.devices - 1) * call.part * kernel.summary / kernel.block_size
    return _to_all(call, 2, sent)


@_sends.register
def _(kernel: Linear, call: Call) -> list[Message]:
    """A state: sums over keys of all pairs of a feature and a value, and of features."""
    numbers = call.dims.head_dim * (call.dims.value_dim + 1)
    return _of_states(call, call.times * numbers, 2 * call.times)


@_sends.register
def _(kernel: Performer, call: Call) -> list[Message]:
    """A state with a constant feature beside the random ones, and the largest exponent."""
    numbers = (kernel.features + 1) * (call.dims.value_dim + 1)
    if call.is_causal:
        return _of_states(call, call.times * (numbers + 1) - (call.times - 1), 5 * call.times - (call.times - 1))
    largest = (call.devices - 1) * call.dims.batch * call.dims.num_heads * FULL
    # How many keys there are is known, and not summed.
    return [*_to_all(call, 1, largest), *_of_states(call, call.times * (numbers - 1), 3 * call.times)]


@_sends.register
def _(kernel: Linformer, call: Call) -> list[Message]:
    """The projected keys and values, summed; the gradient of what projects them, which every device has whole."""
    dims = call.dims
    numbers = 2 * call.times * dims.batch * kernel.rank * dims.num_heads * dims.head_dim
    if call.is_train:
        arrays = 1 if kernel.share == "kv" else 2
        numbers += arrays * (dims.num_heads if kernel.share == "none" else 1) * kernel.rank * dims.key_length
    return [_summed(call, 2 * call.times + 2 * (call.times - 1), numbers * FULL)]


@_sends.register
def _(kernel: Nystrom, call: Call) -> list[Message]:
    """Landmarks of queries and keys, how many tokens they are of, and what landmarks find, with their weights."""
    dims = call.dims
    each = dims.num_heads * dims.head_dim
    numbers = dims.batch * kernel.landmarks * (3 * call.times * each + 2 * dims.num_heads + 2)
    return [_summed(call, 3 * call.times + 4, numbers * FULL)]


@_sends.register(BigBird)
@_sends.register(Reformer)
@_sends.register(Sinkhorn)
def _(kernel: Kernel, call: Call) -> list[Message]:
    """Queries, keys, values and outputs, all to all; queries, keys and values to all where heads are too few."""
    around = call.devices - 1
    found = []
    if works_together(kernel, call):
        share = around / call.devices
        found.append(Message("all-to-all", 4 * call.times, 4 * call.times * share * call.part))
    else:
        found += _to_all(call, 3, 3 * around * call.part)
    if isinstance(kernel, Sinkhorn) and call.is_train:
        blocks = call.dims.key_length // kernel.block_size
        found.append(_summed(call, 1, call.dims.num_heads * call.dims.head_dim * blocks * FULL))
    return found


def _of_states(call: Call, numbers: float, messages: float) -> list[Message]:
    """A state of so many numbers a head: to those behind, ever twice as far, or summed where all see all."""
    size = call.dims.batch * call.dims.num_heads * numbers * FULL
    if not call.is_causal:
        return [_summed(call, messages, size)]
    steps = math.ceil(math.log2(call.devices)) + 1
    return [Message("collective-permute", steps * messages, steps * size)]


def _summed(call: Call, messages: float, size: float) -> Message:
    return Message("all-reduce", messages, 2 * (call.devices - 1) / call.devices * size)


def _to_all(call: Call, messages: float, sent: float) -> list[Message]:
    """What all devices are given, and its gradient, of which each device has its part summed."""
    back = [Message("reduce-scatter", messages, sent)] if call.is_train else []
    return [Message("all-gather", messages, sent), *back]
