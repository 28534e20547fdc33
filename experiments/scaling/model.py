"""A model of what a call takes on more devices than there are here: time of operations, and time of messages.

    python -m experiments.scaling.model

prints the tables of docs/scaling.md, which says what is assumed. Operations are counted on programs, bytes follow from
the formulas of `sends`, and the figures of hardware are public ones.
"""

from __future__ import annotations

import functools
import math
import pathlib
from typing import NamedTuple

import numpy as np

import attnzoo
from attnzoo import Dims, Kernel, catalogue
from experiments.bench import records
from experiments.bench.program import Program
from experiments.scaling.hardware import EVERY, Hardware, Nodes, Torus
from experiments.scaling.sends import Call, sends, works_together
from experiments.show import naming, tables, units

LENGTH, HEADS, DIM, DTYPE, WIDTH = 2**20, 64, 128, "bfloat16", 2
DEVICES = (8, 64, 256)
CAUSAL = (
    "softmax, sliding_window(left=4095, right=0), linear, performer, local(block_size=512), sparse_transformer, bigbird"
)
FULL = (
    "softmax, sliding_window(left=2048, right=2048, global_tokens=64), linformer(rank=256), nystrom, reformer, sinkhorn"
)
ROWS = pathlib.Path(__file__).parents[2] / "results/devices/million"  # of programs that were compiled for as much
COUNTED = (2**14, 2**15, 2**16)  # lengths at which operations are counted; a polynomial of degree 2 tells others
SHORTEST, LONGEST = 2**6, 2**24  # tokens on a device between which a crossing is sought


class Case(NamedTuple):
    """A kernel, and whether the future is hidden."""

    kernel: Kernel
    is_causal: bool

    @property
    def name(self) -> str:
        return f"{naming.short(repr(self.kernel))}{', causal' if self.is_causal else ''}"


class Cost(NamedTuple):
    """Seconds of a call on one of its devices.

    Attributes:
      compute: of operations or of moving operands, whichever takes longer.
      messages: of what it sends.
      overlapping: of these, of what it sends while it computes.
    """

    compute: float
    messages: float
    overlapping: float

    @property
    def total(self) -> float:
        return max(self.compute, self.overlapping) + (self.messages - self.overlapping)


CASES = tuple(
    Case(kernel, is_causal) for text, is_causal in ((CAUSAL, True), (FULL, False)) for kernel in attnzoo.parse(text)
)


def dims(length: int) -> Dims:
    """One sequence of this length."""
    return Dims(1, length, length, HEADS, HEADS, DIM, DIM)


def cost(case: Case, length: int, devices: int, hardware: Hardware, is_train: bool = False) -> Cost:
    """What a call of this length costs on so many devices."""
    call = Call(dims(length), devices, case.is_causal, is_train, WIDTH)
    sharing = devices if works_together(case.kernel, call) else 1
    amounts = operations(case, is_train)(length) / hardware.flops, moved(case, is_train)(length) / hardware.memory
    seconds = [
        (hardware.seconds(each.kind, each.count, each.bytes, devices), each.overlaps)
        for each in sends(case.kernel, call)
    ]
    return Cost(
        max(amounts) / hardware.share / sharing,
        sum(each for each, _ in seconds),
        sum(each for each, overlaps in seconds if overlaps),
    )


def sent(case: Case, length: int, devices: int, is_train: bool = False, width: int = WIDTH) -> float:
    """Bytes that one device sends in a call whose operands have numbers of `width` bytes."""
    return sum(each.bytes for each in sends(case.kernel, Call(dims(length), devices, case.is_causal, is_train, width)))


@functools.cache
def operations(case: Case, is_train: bool) -> np.polynomial.Polynomial:
    """Operations of a call on one device, as a polynomial of its length."""
    return _through([_counts(case, length, is_train)["flops"] for length in COUNTED])


@functools.cache
def moved(case: Case, is_train: bool) -> np.polynomial.Polynomial:
    """Bytes that must be moved: operands, what is learned and the result, once each, and thrice with gradients."""
    return _through([_counts(case, length, False)["cost_bytes"] * (3 if is_train else 1) for length in COUNTED])


@functools.cache
def _counts(case: Case, length: int, is_train: bool) -> dict:
    return Program(case.kernel, dims(length), DTYPE, case.is_causal, is_train).counts()


def _through(amounts: list[float]) -> np.polynomial.Polynomial:
    return np.polynomial.Polynomial.fit(COUNTED, amounts, deg=2)


def crossing(case: Case, devices: int, hardware: Hardware, is_train: bool = False) -> float:
    """Tokens on a device from which operations take longer than messages, and stay so: 0 for any, infinity for none."""

    def ahead(tokens: float) -> float:
        found = cost(case, tokens * devices, devices, hardware, is_train)
        return math.log(found.compute / found.messages) if found.messages else math.inf

    lengths = [2**power for power in range(int(math.log2(SHORTEST)), int(math.log2(LONGEST)) + 1)]
    behind = [length for length in lengths if ahead(length) <= 0]
    if not behind or behind[-1] == LONGEST:
        return math.inf if behind else 0.0
    low, high = math.log2(behind[-1]), math.log2(behind[-1]) + 1
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if ahead(2**middle) > 0 else (middle, high)
    return 2**high


def figures() -> list[list[str]]:
    """What is known of the hardware."""
    nodes, torus = (next(x for x in EVERY if isinstance(x, kind)) for kind in (Nodes, Torus))
    per_second = lambda amount: f"{amount / 1e9:,.0f} GB/s"
    both = lambda text: [text(x) for x in (nodes, torus)]
    return [
        ["figure", nodes.name, torus.name],
        ["operations, dense bfloat16", *both(lambda x: f"{x.flops / 1e12:,.0f} TFLOP/s")],
        ["memory of a device", *both(lambda x: per_second(x.memory))],
        ["a link, in one direction", f"{per_second(nodes.inside)} in a node of {nodes.size}", per_second(torus.link)],
        ["beyond", f"{per_second(nodes.outside)} a device", "the same links"],
        ["a message takes at least", f"{1e6 * nodes.start:.1f} µs", "0"],
        [
            "and a step or hop",
            f"{1e6 * nodes.step_inside:.1f} µs in a node, {1e6 * nodes.step_outside:.1f} µs between",
            f"{1e6 * torus.step:.1f} µs",
        ],
        ["share of operations and memory that is reached", *both(lambda x: f"{x.share:.0%}")],
    ]


def bytes_sent() -> list[list[str]]:
    """What a device sends, forward and with gradients."""
    head = ["a device sends", *(f"forward, {n}" for n in DEVICES), *(f"train, {n}" for n in DEVICES)]
    size = lambda case, n, is_train: units.size_text(sent(case, LENGTH, n, is_train))
    return [head, *([case.name, *(size(case, n, t) for t in (False, True) for n in DEVICES)] for case in CASES)]


def times(hardware: Hardware, is_train: bool) -> list[list[str]]:
    """Seconds of operations and of messages, and of both, on each number of devices."""
    head = [f"{hardware.name}, {'train' if is_train else 'forward'}"]
    head += [f"{n} devices: operations | messages | call".replace("|", "/") for n in DEVICES]
    return [head, *([case.name, *(_times(case, n, hardware, is_train) for n in DEVICES)] for case in CASES)]


def _times(case: Case, devices: int, hardware: Hardware, is_train: bool) -> str:
    found = cost(case, LENGTH, devices, hardware, is_train)
    texts = [units.seconds_text(x) if x else "0" for x in (found.compute, found.messages, found.total)]
    larger = int(found.messages > found.compute)
    texts[larger] = f"**{texts[larger]}**"
    return " / ".join(texts)


def crossings() -> list[list[str]]:
    """From how many tokens on a device operations take longer than messages, forward."""
    head = ["tokens on a device from", *(f"{x.name}, {n}" for x in EVERY for n in DEVICES)]
    return [head, *([case.name, *(_crossing(case, n, x) for x in EVERY for n in DEVICES)] for case in CASES)]


def _crossing(case: Case, devices: int, hardware: Hardware) -> str:
    found = crossing(case, devices, hardware)
    if found == 0:
        return "any"
    return "none" if math.isinf(found) else f"{float(f'{found:.2g}'):,.0f}"


def compiled_rows() -> list[dict]:
    """The rows of programs of `LENGTH` tokens that were compiled for several devices, in float32, and not run."""
    return [row for path in sorted(ROWS.rglob(records.ROWS)) for row in records.read(path.parent)]


def compiled(rows: list[dict]) -> list[list[str]]:
    """What a device sends in programs that were compiled."""
    return _of_rows("sent in float32 as compiled", rows, "sent_bytes")


def memory(rows: list[dict]) -> list[list[str]]:
    """Temporary memory of a device in these programs."""
    return _of_rows("temporary memory as compiled", rows, "temporary_bytes")


def _of_rows(title: str, rows: list[dict], column: str) -> list[list[str]]:
    counts = sorted({row["devices"] for row in rows})
    places = [(passed, n) for passed in ("forward", "train") for n in counts]
    lines = []
    for case in CASES:
        found = {(row["pass"], row["devices"]): units.size_text(row[column]) for row in of_case(rows, case)}
        lines.append([case.name, *(found.get(place, "") for place in places)])
    return [[title, *(f"{passed}, {n}" for passed, n in places)], *lines]


def of_case(rows: list[dict], case: Case) -> list[dict]:
    """Those of a kernel, causal or not."""
    return [
        row for row in rows if (row["kernel"], row["is_causal"]) == (catalogue.identity(case.kernel), case.is_causal)
    ]


def everything() -> list[list[list[str]]]:
    """All tables of the document."""
    found = compiled_rows()
    costs = [times(hardware, is_train) for hardware in EVERY for is_train in (False, True)]
    return [figures(), bytes_sent(), compiled(found), memory(found), *costs, crossings()]


if __name__ == "__main__":
    print("\n".join(tables.markdown(header, lines) for header, *lines in everything()))
