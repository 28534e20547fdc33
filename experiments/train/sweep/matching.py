"""Heads by which kernels keep as much state to decode as another does, at the same width.

Of a width D, a recurrence keeps D^2 / heads numbers a block, so that fewer heads keep more, and a cache keeps keys and
values of its heads of keys, which heads of queries may share; then it has fewer parameters, too, as rows tell. Divisors
of a width lie by twos apart, as a rule, so that the nearest state is within the root of two, or nearly.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, NamedTuple

from attnzoo import Kernel
from attnzoo.models import BlockConfig
from experiments.bench import mesh
from experiments.show import naming, units

if TYPE_CHECKING:
    from experiments.train.sweep.cells import Cell
    from experiments.train.sweep.settings import Settings

FACTOR = 1.5  # between states that pass for equal
NEAR = 0.1  # a share of the state for which no heads are changed


class Match(NamedTuple):
    """Heads that are chosen for a kernel.

    Attributes:
      heads: of queries.
      kv_heads: of keys and values.
      wanted: bytes of state, which those of the cell are to be near to.
    """

    heads: int
    kv_heads: int
    wanted: float

    def __str__(self):
        return f"heads={self.heads}, kv_heads={self.kv_heads}"

    def row(self) -> dict:
        """What a row says of it; `match`, by which models are compared, has what is wanted of all of them."""
        told = {"matched": str(self), "wanted_state_bytes": self.wanted}
        return {"match": f"state of {self.wanted:,.0f} bytes"} | told


@functools.lru_cache(maxsize=256)
def found(settings: Settings, program: Cell) -> Match | None:
    """The heads at which the state of a program is nearest to that of the first kernel, which has those of settings.

    Of several that come within `NEAR`, those that change heads least. None where one of both keeps no state, or cannot
    be made.
    """
    first = dataclasses.replace(program, kernel=settings.kernels[0])
    try:
        wanted, kept = first.state_bytes(settings), program.state_bytes(settings)
    except ValueError:  # flags that a preset does not take, as is said where its model is built
        return None
    if not wanted or not kept:
        return None
    every = [dataclasses.replace(program, match=Match(*heads, wanted)) for heads in _choices(settings, program)]
    return min(every, key=lambda one: _order(settings, one)).match


def refusal(settings: Settings, cell: Cell) -> str | None:
    """Why the state of a cell is not near to what is wanted; or None."""
    own, first = (naming.short(repr(kernel)) for kernel in (cell.kernel, settings.kernels[0]))
    if cell.match is None:
        return (
            f"--match=state: {own} or {first}, the first of --kernels, keeps no state, or cannot be made: leave it out"
        )
    if abs(_missed(settings, cell)) <= math.log(FACTOR):
        return None
    kept, wanted = _sizes(settings, cell)
    return (
        f"--match=state: {own} keeps {kept} at best, with {cell.match}, and {first}, the first of --kernels, {wanted}: "
        f"expected a factor of at most {FACTOR:g} between them; choose other --heads or --widths, or another first one"
    )


def text(settings: Settings, cell: Cell) -> str:
    """What is chosen for a cell, such as `heads=1, kv_heads=1: 8.25 KiB of 8 KiB`; empty where nothing can be."""
    return "{}: {} of {}".format(cell.match, *_sizes(settings, cell)) if cell.match else ""


def _sizes(settings: Settings, cell: Cell) -> tuple[str, str]:
    """Its state, and what is wanted."""
    return units.size_text(cell.state_bytes(settings)), units.size_text(cell.match.wanted)


def _choices(settings: Settings, program: Cell) -> list[tuple[int, int]]:
    """Heads of queries, whose width is even, as rotations need, and of keys, which are fewer where some kernel keeps
    keys."""
    parts = mesh.sizes(settings.mesh)["model"]
    is_whole = lambda heads: program.width % (2 * heads) == 0 and heads % parts == 0
    every = [heads for heads in range(1, program.width + 1) if heads == settings.heads or is_whole(heads)]
    shares = any(_keeps_keys(kernel, program.length) for kernel in set(program.kernels(settings)))
    is_shared = lambda heads, keys: shares and heads % keys == 0 and keys % parts == 0
    return [(heads, keys) for heads in every for keys in range(1, heads + 1) if keys == heads or is_shared(heads, keys)]


def _keeps_keys(kernel: Kernel, length: int) -> bool:
    """Whether its state is as large for any heads, and less where they share keys."""
    kept = lambda heads, keys: BlockConfig(8, heads, num_kv_heads=keys).state_bytes(kernel, length)
    return kept(2, 1) < kept(2, 2) == kept(1, 1)


def _order(settings: Settings, program: Cell) -> tuple[float, ...]:
    """By the state, then by how far heads are from those of settings, and not shared."""
    heads, keys, _ = program.match
    missed = abs(_missed(settings, program))
    return max(missed, NEAR), abs(math.log2(heads / settings.heads)) + math.log2(heads / keys), missed


def _missed(settings: Settings, program: Cell) -> float:
    """The logarithm of its state, as a share of what is wanted."""
    return math.log(program.state_bytes(settings) / program.match.wanted)
