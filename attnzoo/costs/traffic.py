"""What devices send each other, read off a compiled program: the body of a loop counts as often as it runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from attnzoo.costs import hlo, loops
from attnzoo.costs.hlo import Instruction, Program

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
PAIRS = re.compile(r"source_target_pairs=\{([\d,{}]*)\}")
NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")


class Sent(NamedTuple):
    """One kind of message, as often as a program sends it.

    Attributes:
      messages: how many.
      bytes: that one device sends in all of them.
    """

    messages: float = 0
    bytes: float = 0


def sent(compiled: Any, branch: Callable = max) -> dict[str, Sent]:
    """What one device sends in a program, by kind of message.

    Of n devices each sends an array of all-gather n - 1 times, in all-reduce twice (n - 1) / n of it, in all-to-all and
    reduce-scatter (n - 1) / n: the least that a ring of them needs.

    Args:
      compiled: from `jax.jit(f).lower(...).compile()`.
      branch: which of several counts where data decide: the most talkative one, or the least with `min`.

    Raises:
      ValueError: a loop with messages runs an unknown number of times, or a message does not tell who takes part.

    Example:
      >>> from attnzoo.costs import traffic
      >>> traffic.sent(jax.jit(jnp.sin).lower(1.0).compile())  # one device talks to nobody
      {}
    """
    program = hlo.parse(compiled.as_text())
    return {kind: Sent(*count) for kind, count in _of(program, program.entry, branch, {}).items()}


def total(messages: dict[str, Sent]) -> float:
    """Bytes that one device sends."""
    return float(sum(x.bytes for x in messages.values()))


def _of(program: Program, name: str, choice: Callable, known: dict[str, dict[str, tuple]]) -> dict[str, tuple]:
    """Messages and bytes of a computation, by kind."""
    if name in known:
        return known[name]
    counts: dict[str, tuple] = {}

    def add(more: dict[str, tuple], times: float = 1) -> None:
        for kind, new in more.items():
            old = counts.get(kind, (0, 0))
            counts[kind] = tuple(x + times * y for x, y in zip(old, new, strict=True))

    within = program.computations[name]
    for each in within.values():
        kind = each.op.removesuffix("-start")
        if kind in KINDS and not _is_to_nobody(each):
            add({kind: (1, _bytes_sent(kind, each))})
        if branches := [_of(program, branch, choice, known) for branch in each.branches()]:
            add(choice(branches, key=lambda counts: sum(x[1] for x in counts.values())))
        for called in (name for key in ("body", "calls", "to_apply") for name in each.called(key)):
            inner = _of(program, called, choice, known)
            add(inner, loops.trips(program, each, within) if inner and each.op == "while" else 1)
    known[name] = counts
    return counts


def _is_to_nobody(message: Instruction) -> bool:
    """Whether no device hands on anything to another one, as one device alone does around a ring or to a neighbour."""
    found = PAIRS.search(message.attributes)
    return found is not None and all(giver == taker for giver, taker in re.findall(r"(\d+),(\d+)", found[1]))


def _bytes_sent(kind: str, message: Instruction) -> float:
    arrays = [array.numbers * hlo.width(array.dtype) for array in hlo.arrays(message.type)]
    is_start = message.op.endswith("-start") and message.type.startswith("(")
    size = arrays[-1] if is_start and kind != "all-to-all" else sum(arrays)
    count = 2 if kind == "collective-permute" else _members(message)
    shares = {"all-gather": 1 - 1 / count, "all-reduce": 2 - 2 / count, "all-to-all": 1 - 1 / count}
    return size * (shares | {"collective-permute": 1, "reduce-scatter": count - 1})[kind]


def _members(message: Instruction) -> int:
    """How many devices take part in one message, as each version of XLA writes it."""
    if found := LISTED.search(message.attributes):
        return len(found[1].split(","))
    if found := COUNTED.search(message.attributes):
        return int(found[1])
    if found := NAMED.search(message.attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'([^']+)'", found[2]))
    raise ValueError(f"a message does not tell who takes part in it: {message.attributes[:200]}")
