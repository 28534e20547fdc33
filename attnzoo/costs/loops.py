"""How often a loop of a compiled program runs: as the program tells, or as a counter does that depends on no data."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from attnzoo.costs.hlo import Computation, Instruction, Program

TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"(\d+)"')
COPIES = frozenset("bitcast convert copy reshape".split())
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "and": operator.and_,
    "maximum": max,
    "minimum": min,
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}


class Unknown(ValueError):
    """Data decide how often a loop runs."""


Value = Any  # a number; of a tuple, a function of the place in it; None where it is not known
Given = Callable[[int], Any]  # the values of parameters, by their numbers


def trips(program: Program, loop: Instruction, within: Computation) -> int:
    """How often the body of `loop`, which stands in a computation, runs.

    Compilers of GPUs tell, and those of TPUs do not: there the numbers that decide are followed from step to step.

    Raises:
      Unknown: data decide.
    """
    if told := TRIPS.search(loop.attributes):
        return int(told[1])
    (condition,), (body,) = loop.called("condition"), loop.called("body")
    first = _value(program, within, within[loop.operands[0]], lambda _: None)
    count, state, asked = 0, {}, set()  # type: ignore[var-annotated]

    def known(place: int) -> Value:
        asked.add(place)
        return state.get(place)

    while True:
        before = set(asked)
        goes_on = _result(program, condition, lambda _: known)
        following = _result(program, body, lambda _: known)
        after = {place: following(place) for place in before} if callable(following) else {}
        if asked != before:  # which numbers decide is found on the way
            count, state = 0, {place: first(place) for place in asked} if callable(first) else {}
        elif goes_on is None:
            where = re.search(r'op_name="([^"]*)"', loop.attributes)
            raise Unknown(f"a loop runs as often as data say: {where[1] if where else loop.name}")
        elif not goes_on:
            return count
        else:
            count, state = count + 1, after


def _result(program: Program, name: str, given: Given) -> Value:
    """What a computation gives."""
    return _value(program, program.computations[name], program.root(name), given)


def _value(program: Program, within: Computation, each: Instruction, given: Given) -> Value:
    """What an instruction gives, if that is a matter of single numbers."""

    def operand(place: int) -> Value:
        return _value(program, within, within[each.operands[place]], given)

    if each.op == "constant":
        return _number(each.arguments)
    if each.op == "parameter":
        return given(int(each.arguments))
    if each.op == "tuple":
        return operand
    if each.op == "get-tuple-element":
        whole = operand(0)
        return whole(int(each.attribute("index"))) if callable(whole) else None
    if each.op in COPIES:
        return operand(0)
    if each.op in ("fusion", "call"):
        (called,) = each.called("calls") or each.called("to_apply")
        return _result(program, called, operand)
    done = COMPARISONS.get(each.attribute("direction")) if each.op == "compare" else ARITHMETIC.get(each.op)
    if done is None:
        return None
    left, right = operand(0), operand(1)
    return None if left is None or right is None else done(left, right)


def _number(text: str) -> int | None:
    """What a constant is, if it is a whole number or a truth."""
    if text in ("true", "false"):
        return int(text == "true")
    return int(text) if re.fullmatch(r"-?\d+", text) else None
