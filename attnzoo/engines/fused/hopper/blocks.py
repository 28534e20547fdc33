"""Programs of rows of more channels than a warpgroup's registers hold, such as all pairs of 16, by blocks of them.

Rows of many channels are never there at once. What adds them up, or takes the largest of them, goes over their blocks,
together with all else that waits for no more than it does, and makes each block anew. A product of rows with a matrix,
which stands in shared memory by blocks of its rows, is one of tensor cores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract import programs
from attnzoo.engines.fused.hopper import rows as hopper_rows
from attnzoo.engines.fused.hopper.rows import REDUCED, Rows
from attnzoo.engines.fused.hopper.warpgroups import ROWS, added, filled, loaded, products

LEAST = -3e38  # of float32


class Later:
    """What is made once what it waits for was summed: rows of `ROWS` channels, or a number for each token.

    Attributes:
      level: how many passes over blocks come before.
    """

    def __init__(self, level: int, make: Callable[[], Any]):
        self.level, self._make, self._made = level, make, None

    def made(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made


class Loaded(Later):
    """Rows that shared memory has in a block, too, as they are multiplied."""

    def __init__(self, block: Any):
        super().__init__(0, lambda: loaded(block))
        self.block = block


class Tiles:
    """Rows of which `tile(number, made)` is a block of `ROWS` channels; `made` has what was made of it before."""

    def __init__(self, level: int, tile: Callable[[Any, dict], jax.Array]):
        self.level, self._tile = level, tile

    def tile(self, number: Any, made: dict) -> jax.Array:
        """That block."""
        if self not in made:
            made[self] = self._tile(number, made)
        return made[self]

    def __mul__(self, factor: float) -> Tiles:
        return Tiles(self.level, lambda number, made: self.tile(number, made) * factor)


class Fixed:
    """A matrix in shared memory [blocks, `ROWS`, W], by blocks of its rows, or its transpose."""

    def __init__(self, blocks: Any, is_turned: bool = False):
        self.blocks, self.is_turned = blocks, is_turned

    def part(self, number: Any, is_row: bool) -> Any:
        """One of the blocks, as rows of the matrix or of what it is turned to, or as columns."""
        part = self.blocks.at[number]
        return part if is_row else part.T


class Run:
    """A run of programs of blocks of channels.

    Attributes:
      dtype: of operands of products.
      interpret: what a CPU interprets kernels with, or None.
      over: `step(number, carry)` of each block, one after another, from where it stands.
    """

    def __init__(self, dtype: Any, interpret: Any, over: Callable[[Callable, Any], Any]):
        self.dtype, self.interpret, self.over = dtype, interpret, over
        self._sums: list[_Sum] = []
        self._later: list[Later] = []

    def made(self, program: Rows, operands: list[Any]) -> list[Any]:
        """What a program makes of rows of up to `ROWS` channels, numbers, matrices, and vectors of channels, which are
        `Tiles`: such, and `Later` to be `run`.
        """
        return programs.run(program.made, operands, self._rule)

    def gradients(self, program: Rows, operands: list[Any], pulled: list[Any]) -> list[Any]:
        """Those of operands but matrices."""
        return programs.run(program.pulled, [*operands, *pulled], self._rule)

    def summed(self, *rows: Tiles) -> Later:
        """The sum over channels of products of rows."""
        product = lambda number, made: functools.reduce(jnp.multiply, [x.tile(number, made) for x in rows])
        step = lambda number, made, total: total + product(number, made).sum(axis=1)
        return self._sum(max(x.level for x in rows), (ROWS,), 0.0, step)

    def product(self, rows: Tiles, blocks: Any) -> Later:
        """Rows times a matrix, of which blocks of rows stand in shared memory."""
        step = lambda number, made, total: added(total, rows.tile(number, made), blocks.at[number], self.interpret)
        return self._sum(rows.level, (ROWS, blocks.shape[2]), 0.0, step)

    def later(self, level: int, make: Callable[[], Any]) -> Later:
        """What is made outside of passes, which wait for it."""
        self._later.append(Later(level, make))
        return self._later[-1]

    def run(self) -> None:
        """All passes over blocks."""
        for level in range(1 + max((x.level for x in self._later), default=0)):
            for x in self._later:
                if x.level == level:
                    x.made()
            each = [x for x in self._sums if x.level == level]
            if not each:
                continue

            def step(number, totals, each=each):
                made: dict = {}
                return tuple(x.step(number, made, total) for x, total in zip(each, totals, strict=True))

            start = tuple(filled(x.least, *x.shape) for x in each)
            for made, total in zip(each, self.over(step, start), strict=True):
                made.total = total

    def _sum(self, level: int, shape: tuple[int, ...], least: float, step: Callable) -> Later:
        made = _Sum(level, shape, least, step)
        self._sums.append(made)
        return self.later(level + 1, lambda: made.total)

    def _rule(self, equation: Any, operands: list[Any]) -> list[Any]:
        name, shape = equation.primitive.name, equation.outvars[0].aval.shape
        if isinstance(operands[0], Fixed):
            return [Fixed(operands[0].blocks, operands[0].is_turned != (name == "transpose"))]
        level = max((x.level for x in operands if isinstance(x, Later | Tiles)), default=0)
        if len(shape) == 2 and shape[1] > ROWS:
            return [Tiles(level, functools.partial(self._tile, equation, operands))]
        if not any(isinstance(x, Tiles) for x in operands):
            return [self.later(level, lambda: self._tile(equation, operands, numbers(1)[0], {}))]
        if name == "dot_general":
            return [self._sum(level, (ROWS, shape[1]), 0.0, functools.partial(self._added, equation, operands))]
        join, least = REDUCED[name], 0.0 if name == "reduce_sum" else LEAST
        step = lambda number, made, total: join(total, self._tile(equation, operands, number, made))
        return [self._sum(level, (ROWS,), least, step)]

    def _tile(self, equation: Any, operands: list[Any], number: Any, made: dict) -> jax.Array:
        """One block of what an operation gives, or what it gives of one."""
        if equation.primitive.name == "dot_general":
            rows, matrix = operands
            part = matrix.part(number, _axis(equation) == (1 if matrix.is_turned else 0))
            if isinstance(rows, Loaded):
                return products((rows.block, part))[0]
            first, rest = self._digits(_there(rows, number, made))
            total = added(filled(0, ROWS, part.shape[1]), first, part, self.interpret)
            return added(total, rest, part, self.interpret)
        operands = [_there(x, number, made) for x in operands]
        width = tuple(min(ROWS, x) for x in equation.outvars[0].aval.shape[1:])
        return hopper_rows.rule(equation, operands, width)[0]

    def _added(self, equation: Any, operands: list[Any], number: Any, made: dict, total: jax.Array) -> jax.Array:
        """A total, and a block of rows times that of a matrix."""
        rows, matrix = operands
        part = matrix.part(number, _axis(equation) == (1 if matrix.is_turned else 0))
        return added(total, rows.tile(number, made).astype(self.dtype), part, self.interpret)

    def _digits(self, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Rows as two numbers each, whose sum has twice the digits of one: what comes of them may be an exponent."""
        first = rows.astype(self.dtype)
        return first, (rows - first.astype(rows.dtype)).astype(self.dtype)


def numbers(count: int) -> list[jax.Array]:
    """Of blocks, none of which a compiler knows: what products are added to takes no numbers that it does."""
    return [jax.lax.optimization_barrier(jnp.int32(i)) for i in range(count)]


class _Sum:
    """What goes over blocks: `step(number, made, total)` from one to the next."""

    def __init__(self, level: int, shape: tuple[int, ...], least: float, step: Callable):
        self.level, self.shape, self.least, self.step = level, shape, least, step
        self.total: Any = None


def _there(x: Any, number: Any, made: dict) -> Any:
    """An operand, or its block."""
    return x.tile(number, made) if isinstance(x, Tiles) else x.made() if isinstance(x, Later) else x


def _axis(equation: Any) -> int:
    """Of a matrix, along which it is summed."""
    (_, (axis,)), _ = equation.params["dimension_numbers"]
    return axis
