"""What a device brings: kernels, the tiles that they want, and what they decline."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from attnzoo.engines.fused.carried import Recurrence
from attnzoo.engines.fused.listed import Gathered
from attnzoo.engines.fused.operands import Found, Gradients, Operands
from attnzoo.engines.fused.pairs import Lists
from attnzoo.engines.fused.way import Tiles
from attnzoo.engines.runs import Runs


class Device(NamedTuple):
    """The kernels of one platform.

    Attributes:
      platform: as jax names it where programs are lowered.
      name: for people.
      tiles: of the forward kernel, and of the backward one.
      declined: `declined(q, k, v)`: why it cannot take operands of these shapes and types; empty where it can.
      forward: `forward(operands, lists)`.
      backward: `backward(operands, lists, pulled)`.
      unit: `unit(q, k, v)`: what lengths of theirs are multiples of where tokens are in order: kernels read zeros
        behind the end of a sequence, and write nothing there.
      recurrence: those of recurrences, if it has any. sums: those of recurrences whose queries see all keys.
      crowded: `crowded(lists)`: why it cannot go through lists of such shapes; None where it can through any.
      projected: `projected(projection, x)`: sums over positions [B, r, N, H] of rows [B, S, K, H] times what projects
        them for each head, [N, r, S]; None where XLA does that, whatever their shapes, and its result where for these.
      averages: `averages(operands, lists, runs)`: whether kernels give averages of such runs of these keys beside
        what queries find, and take their gradients; None where they give none.
      gathered: those of chunks of tokens that are found at run time, if it has any.
      gathers: whether XLA gathers rows there as they lie; else it turns them round, and a product picks them in less.
    """

    platform: str
    name: str
    tiles: tuple[Tiles, Tiles]
    declined: Callable[..., list[str]]
    forward: Callable[..., Found]
    backward: Callable[..., Gradients]
    unit: Callable[..., int]
    recurrence: Recurrence | None = None
    sums: Recurrence | None = None
    crowded: Callable[[Lists], list[str]] | None = None
    projected: Callable[..., jax.Array | None] | None = None
    averages: Callable[[Operands, Lists, Runs], bool] | None = None
    gathered: Gathered | None = None
    gathers: bool = True
