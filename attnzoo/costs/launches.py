"""What a device launches one after another and moves to and from its memory, read off a compiled program.

A launch is what a device is given to do at once: a fusion, a copy, a call of a library, a message. It reads its
operands and writes its results, once each; of an array that it slices it reads the slice, and of one that it updates in
place it writes the update. What stays in another memory than the device's own (a TPU's VMEM) moves nothing. Nothing is
known of caches, which serve again what was just written where it is small, nor of what a library reads more than once;
a kernel of Pallas moves what it says of itself (`cost_estimate`), where it does. Whether a loop goes on is decided
without a launch.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from attnzoo.costs import hlo, loops
from attnzoo.costs.hlo import Computation, Instruction

# Names and places alone: no device is asked for anything.
FREE = frozenset(
    "add-dependency after-all bitcast constant domain get-dimension-size get-tuple-element iota opt-barrier parameter "
    "partition-id replica-id tuple".split()
)
FREE_CALLS = frozenset(("AllocateBuffer", "ConcatBitcast"))
FETCHING = frozenset("copy-start dynamic-slice-start slice-start".split())
# What a fusion does with an array on its way, where it matters only which part of it is needed.
PASSING = frozenset("bitcast convert copy reshape transpose".split())
SLICING = frozenset("dynamic-slice gather slice".split())
UPDATED = {"dynamic-update-slice": 1, "scatter": 2}  # the operand that has what is written
ESTIMATE = re.compile(r'"bytes_accessed":"?(\d+)')  # of a kernel of one's own
WORKSPACE = re.compile(r", [su]8\[\d+\](\{[^}]*\})?\)$")  # of a library, the last of its results


class Made(NamedTuple):
    """What a program makes a device do.

    Attributes:
      launches: how often it is given something to do.
      steps: of loops, each of which waits for the one before; where loops hold loops, those of the inner ones.
      bytes: read from its memory and written to it.
    """

    launches: int = 0
    steps: int = 0
    bytes: float = 0

    def __add__(self, other):
        return Made(*map(operator.add, self, other))


def made(compiled: Any) -> Made:
    """Launches, steps and bytes of a program; a branch counts as the one that moves most.

    Args:
      compiled: from `jax.jit(f).lower(...).compile()`, for any device, which need not be here.

    Raises:
      loops.Unknown: a loop runs as often as data say.

    Example:
      >>> from attnzoo.costs import launches
      >>> twice = jax.jit(lambda x: 2 * x).lower(jnp.ones(1000)).compile()
      >>> launches.made(twice)  # 4,000 bytes are read, and as many written
      Made(launches=1, steps=0, bytes=8000.0)
    """
    return made_by(hlo.parse(compiled.as_text()))


def made_by(program: hlo.Program) -> Made:
    """The same, of a program that was read already."""
    return _Reader(program).of(program.entry)


class _Reader(NamedTuple):
    program: hlo.Program

    def of(self, name: str) -> Made:
        """What a computation makes a device do."""
        within = self.program.computations[name]
        return sum((self._of_one(each, within) for each in within.values()), Made())

    def _of_one(self, each: Instruction, within: Computation) -> Made:
        if each.op == "while":
            return self._of_loop(each, within)
        if each.op == "conditional":
            return max(map(self.of, each.branches()), key=lambda made: made.bytes)
        if each.op in ("call", "async-start"):
            return sum(map(self.of, each.called("to_apply") + each.called("calls")), Made())
        if _is_free(each, within):
            return Made()
        if each.op == "custom-call" and (told := ESTIMATE.search(each.attributes)):
            return Made(launches=1, bytes=float(told[1]))
        if each.op in FETCHING:
            return Made(launches=1, bytes=_fetched(each, within))
        read = sum(self._read(each, place, _type(within, name)) for place, name in enumerate(each.operands))
        return Made(launches=1, bytes=read + self._written(each, within))

    def _of_loop(self, loop: Instruction, within: Computation) -> Made:
        (body,) = loop.called("body")
        trips, once = loops.trips(self.program, loop, within), self.of(body)
        return Made(trips * once.launches, trips * max(1, once.steps), trips * once.bytes)

    def _read(self, user: Instruction, place: int, type: str) -> float:
        """Bytes that a user reads of its operand at a place, which is of this type."""
        whole = _size(type)
        if not whole or (user.op in UPDATED and place == 0):
            return 0.0
        if user.op in SLICING and place == 0:
            (part,), (array,) = hlo.arrays(user.type), hlo.arrays(type)
            return min(whole, part._replace(dtype=array.dtype).bytes)  # a fusion may have converted it on the way
        if user.op.startswith("fusion"):
            inside = self._inside(user)
            return min(whole, self._read_inside(inside, _parameter(inside, place).name, type))
        return whole

    def _read_inside(self, inside: Computation, name: str, type: str) -> float:
        """Bytes that a fusion reads of an array that has a name in it."""
        total = 0.0
        for user in inside.values():
            for place in (place for place, operand in enumerate(user.operands) if operand == name):
                if user.op in PASSING and not user.is_root:
                    total += self._read_inside(inside, user.name, type)
                elif user.op != "tuple":
                    total += self._read(user, place, type)
        return total

    def _written(self, each: Instruction, within: Computation) -> float:
        if each.op in UPDATED:
            return _size(_type(within, each.operands[UPDATED[each.op]]), everywhere=True)
        type = _result(each, within)
        if not each.op.startswith("fusion"):
            return _size(WORKSPACE.sub(")", type) if each.op == "custom-call" else type)
        (called,) = each.called("calls")
        results = zip(hlo.arrays(type), self._results(called), strict=True)
        return sum(array.bytes if update is None else update for array, update in results if array.space == 0)

    def _results(self, called: str) -> Iterator[float | None]:
        """Of each result of a fusion, bytes of the update where it is a parameter that is updated in place."""
        inside, root = self.program.computations[called], self.program.root(called)
        for each in [inside[name] for name in root.operands] if root.op == "tuple" else [root]:
            update = _origin(inside, each, PASSING)
            if update.op.startswith("fusion"):
                yield from self._results(*update.called("calls"))
            elif update.op in UPDATED and _origin(inside, update, PASSING | UPDATED.keys()).op == "parameter":
                yield _size(_type(inside, update.operands[UPDATED[update.op]]), everywhere=True)
            else:
                yield from [None] * len(hlo.arrays(each.type))  # of which a sort has several

    def _inside(self, fusion: Instruction) -> Computation:
        (called,) = fusion.called("calls")
        return self.program.computations[called]


def _is_free(each: Instruction, within: Computation) -> bool:
    """Whether a device is asked for nothing, or its control unit alone, which does sums of single numbers."""
    if each.op in FREE or each.op.endswith(("-done", "-update")):
        return True
    if each.op == "custom-call":
        return each.attribute("custom_call_target") in FREE_CALLS
    types = (each.type, *(_type(within, name) for name in each.operands))
    are_numbers = all(not array.sizes for type in types for array in hlo.arrays(type))
    return are_numbers and not each.op.startswith(("fusion", "copy"))


def _fetched(start: Instruction, within: Computation) -> float:
    """Bytes that a copy from one memory to another, while others work, moves in the device's own."""
    source, result = _type(within, start.operands[0]), _result(start, within)
    ends = sum(all(array.space == 0 for array in hlo.arrays(type)) for type in (source, result))
    return ends * _size(result, everywhere=True)


def _result(each: Instruction, within: Computation) -> str:
    """The type of what an instruction gives, or one that it begins and another ends."""
    if not each.op.endswith("-start"):
        return each.type
    return next(end.type for end in within.values() if each.name in end.operands)


def _origin(inside: Computation, each: Instruction, ops) -> Instruction:
    """What an instruction hands on, or has updated."""
    while each.op in ops:
        each = inside[each.operands[0]]
    return each


def _parameter(inside: Computation, place: int) -> Instruction:
    """A parameter of a fusion."""
    return next(each for each in inside.values() if each.op == "parameter" and int(each.arguments) == place)


def _type(within: Computation, name: str) -> str:
    return within[name].type if name in within else ""


def _size(type: str, everywhere: bool = False) -> float:
    """Bytes of the arrays of a type that lie in the device's own memory, or in any."""
    return sum(array.bytes for array in hlo.arrays(type) if everywhere or array.space == 0)
