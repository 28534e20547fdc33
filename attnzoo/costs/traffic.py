"""What devices send each other, read off a compiled program: the body of a loop counts as often as it runs."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8}
KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
SENDS = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
COMPUTATION = re.compile(r"^(ENTRY )?%?([^\s(]+) .*\{$")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CALLED = re.compile(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([^\s,})]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
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


def sent(compiled: Any) -> dict[str, Sent]:
    """What one device sends in a program, by kind of message; a branch counts as its most talkative one.

    Of n devices each sends an array of all-gather n - 1 times, in all-reduce twice (n - 1) / n of it, in all-to-all and
    reduce-scatter (n - 1) / n: the least that a ring of them needs.

    Args:
      compiled: from `jax.jit(f).lower(...).compile()`.

    Raises:
      ValueError: a loop with messages runs an unknown number of times, or a message does not tell who takes part.

    Example:
      >>> from attnzoo.costs import traffic
      >>> traffic.sent(jax.jit(jnp.sin).lower(1.0).compile())  # one device talks to nobody
      {}
    """
    lines, entry = _computations(compiled.as_text())
    return {kind: Sent(*count) for kind, count in _of(entry, lines, {}).items()}


def total(messages: dict[str, Sent]) -> float:
    """Bytes that one device sends."""
    return float(sum(x.bytes for x in messages.values()))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the first one that runs."""
    found: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        begins = COMPUTATION.match(line)
        if begins:
            name = begins[2]
            entry = name if begins[1] else entry
            found[name] = []
        elif name:
            found[name].append(line)
    return found, entry


def _of(name: str, lines: dict[str, list[str]], known: dict[str, dict[str, tuple]]) -> dict[str, tuple]:
    """Messages and bytes of a computation, by kind."""
    if name in known:
        return known[name]
    counts: dict[str, tuple] = {}

    def add(more: dict[str, tuple], times: float = 1) -> None:
        for kind, new in more.items():
            old = counts.get(kind, (0, 0))
            counts[kind] = tuple(x + times * y for x, y in zip(old, new, strict=True))

    for line in lines.get(name, ()):
        message = SENDS.search(line)
        if message and not _is_to_nobody(line):
            add({message[2]: (1, _bytes_sent(message[2], message[1], line))})
        branches = BRANCHES.search(line)
        if branches:
            each = [_of(branch.strip(" %"), lines, known) for branch in branches[1].split(",")]
            add(max(each, key=lambda counts: sum(x[1] for x in counts.values())))
        for called in CALLED.findall(line):
            inner, trips = _of(called, lines, known), TRIPS.search(line)
            if inner and " while(" in line and not trips:
                raise ValueError(f"a loop with messages runs an unknown number of times: {line.strip()[:200]}")
            add(inner, float(trips[1]) if trips else 1)
    known[name] = counts
    return counts


def _is_to_nobody(line: str) -> bool:
    """Whether no device hands on anything to another one, as one device alone does around a ring or to a neighbour."""
    found = PAIRS.search(line)
    return found is not None and all(giver == taker for giver, taker in re.findall(r"(\d+),(\d+)", found[1]))


def _bytes_sent(kind: str, types: str, line: str) -> float:
    arrays = [_size(*x) for x in re.findall(r"(\w+)\[([\d,]*)\]", types)]
    is_start = f"{kind}-start(" in line and types.startswith("(")
    size = arrays[-1] if is_start and kind != "all-to-all" else sum(arrays)
    count = 2 if kind == "collective-permute" else _members(line)
    shares = {"all-gather": 1 - 1 / count, "all-reduce": 2 - 2 / count, "all-to-all": 1 - 1 / count}
    return size * (shares | {"collective-permute": 1, "reduce-scatter": count - 1})[kind]


def _members(line: str) -> int:
    """How many devices take part in one message, as each version of XLA writes it."""
    if found := LISTED.search(line):
        return len(found[1].split(","))
    if found := COUNTED.search(line):
        return int(found[1])
    if found := NAMED.search(line):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'([^']+)'", found[2]))
    raise ValueError(f"a message does not tell who takes part in it: {line.strip()[:200]}")


def _size(kind: str, sizes: str) -> int:
    return WIDTHS.get(kind, 4) * math.prod(int(x) for x in sizes.split(",") if x)
