"""The text of a compiled program as computations of instructions, for those who read costs off it.

XLA has no other form of a program that it has scheduled and that Python may see. What is parsed is what all its
backends write alike: names, types with their layouts, operations, operands and attributes.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COMPUTATION = re.compile(r"^(ENTRY )?%?([^\s(]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?(\S+) = ")
ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::([^{}]*))?\})?")
OPERAND = re.compile(r"%([^\s,(){}]+)")
TILE = re.compile(r"T\(([\d,]+)\)")
SPACE = re.compile(r"S\((\d+)\)")


class Array(NamedTuple):
    """One array of a type.

    Attributes:
      dtype: as XLA writes it.
      sizes: of its axes.
      order: its axes from the one whose neighbours lie next to each other; empty where no layout is told.
      tile: sizes of the blocks that the first of these axes are stored in, and filled up to; empty for none.
      space: the memory that it lies in; 0 is the device's own.
    """

    dtype: str
    sizes: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = 0

    @property
    def numbers(self) -> int:
        """How many it has."""
        return math.prod(self.sizes)

    @property
    def bytes(self) -> float:
        """Of its numbers, with what fills up tiles."""
        sizes = list(self.sizes)
        for axis, block in zip(self.order, reversed(self.tile), strict=False):
            sizes[axis] = math.ceil(sizes[axis] / block) * block
        return math.prod(sizes) * width(self.dtype)


class Instruction(NamedTuple):
    """One operation of a computation.

    Attributes:
      name: which operands say.
      type: of its result, as text.
      op: what is done.
      arguments: as text: names of operands, or the number of a parameter, or what a constant is.
      attributes: the rest of the line.
      is_root: whether it is the result of its computation.
    """

    name: str
    type: str
    op: str
    arguments: str
    attributes: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """Names of instructions whose results it takes."""
        return OPERAND.findall(self.arguments)

    def attribute(self, key: str) -> str:
        """An attribute as text, without quotes; empty where it has none of this name."""
        found = re.search(rf'\b{key}=(?:"([^"]*)"|(\{{[^}}]*\}}|[^\s,]+))', self.attributes)
        return (found[1] or found[2]) if found else ""

    def called(self, key: str) -> list[str]:
        """Names of the computations of an attribute, such as `body`."""
        return [name for name in re.split(r"[\s,%{}]+", self.attribute(key)) if name]

    def branches(self) -> list[str]:
        """Names of the computations of which a conditional runs one."""
        keys = ("branch_computations", "true_computation", "false_computation")
        return [name for key in keys for name in self.called(key)]


Computation = dict[str, Instruction]


class Program(NamedTuple):
    """Computations by name, and the name of the one that is run."""

    computations: dict[str, Computation]
    entry: str

    def root(self, name: str) -> Instruction:
        """The result of a computation."""
        return next(each for each in self.computations[name].values() if each.is_root)


def parse(text: str) -> Program:
    """A program from `compiled.as_text()`.

    Example:
      >>> from attnzoo.costs import hlo
      >>> program = hlo.parse(jax.jit(jnp.sin).lower(jnp.ones((2, 3))).compile().as_text())
      >>> hlo.arrays(program.root(program.entry).type)[0].sizes
      (2, 3)
    """
    found: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if begins := COMPUTATION.match(line):
            current = found[begins[2]] = {}
            entry = begins[2] if begins[1] else entry
        elif current is not None and (named := INSTRUCTION.match(line)):
            current[named[2]] = _instruction(named[2], line[named.end() :], bool(named[1]))
    return Program(found, entry)


@functools.lru_cache(maxsize=4096)
def arrays(type: str) -> tuple[Array, ...]:
    """The arrays of a type, which are several where it is a tuple."""
    return tuple(_arrays(type))


def width(dtype: str) -> float:
    """Bytes of a number: its bits stand in its name."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8 if bits else float(dtype == "pred")


def _arrays(type: str) -> Iterator[Array]:
    for dtype, sizes, order, rest in ARRAY.findall(type):
        numbers = lambda text: tuple(int(x) for x in re.findall(r"\d+", text))
        tile, space = TILE.search(rest), SPACE.search(rest)
        yield Array(
            dtype, numbers(sizes), numbers(order), numbers(tile[1]) if tile else (), int(space[1]) if space else 0
        )


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    end = _closed(text) if text.startswith("(") else text.index(" ")
    op, _, rest = text[end:].strip().partition("(")
    close = _closed(f"({rest}") - 1
    return Instruction(name, text[:end], op, rest[: close - 1], rest[close:], is_root)


def _closed(text: str) -> int:
    """The place behind the bracket that closes the first one."""
    depth = 0
    for bracket in re.finditer(r"[(){}]", text):
        depth += 1 if bracket[0] in "({" else -1
        if depth == 0:
            return bracket.end()
    return len(text)
