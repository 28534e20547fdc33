"""The text of a flag to values; what is wrong with it is said with the name of the flag. Nothing here imports jax."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

Parser = Callable[[Any, str], Any]  # of what a flag says, and its name

LENGTHS = "a whole number >= 1, or a range such as 256:8192"
_PATH = re.compile(r"""(\w+)=([^\s'",()={}]*/[^\s'",()={}]*)""")  # without quotes


def items(text: str, flag: str, expected: str = "items separated by commas") -> list[str]:
    """The items of a comma-separated flag; an empty one is refused, and none at all."""
    if not text.strip():
        raise ValueError(f"--{flag}= is empty: expected {expected}; without the flag its default holds")
    found = [item.strip() for item in text.split(",")]
    if not all(found):
        raise ValueError(f"--{flag}={text} has an empty item: remove the extra comma")
    return found


def words(text: str, choices: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """Words of a list, each one of `choices`, none twice."""
    expected = f"some of {', '.join(choices)}"
    found = tuple(items(text, flag, expected))
    for word in found:
        if word not in choices:
            raise ValueError(f"--{flag} has {word!r}: expected {expected}")
    return tuple(dict.fromkeys(found))


def some_of(choices: tuple[str, ...] | Callable[[], Iterable[str]], every: bool = False) -> Parser:
    """A parser of words among `choices`, or a function that finds them; where `every`, "all" stands for all."""

    def parse(text: str, flag: str) -> tuple[str, ...]:
        known = tuple(choices() if callable(choices) else choices)
        return known if every and text == "all" else words(text, known, flag)

    return parse


def unless_empty(parse: Parser, otherwise: Any = ()) -> Parser:
    """A parser for which nothing is something, too."""
    return lambda text, flag: parse(text, flag) if text and text.strip() else otherwise


def lengths(text: str, flag: str = "lengths") -> tuple[int, ...]:
    """Lengths such as `64,256:1024`; a range doubles, both ends included. Sorted, none twice."""
    found: set[int] = set()
    for item in items(text, flag, LENGTHS):
        first, colon, last = item.partition(":")
        start = _positive(first, flag)
        found.update(_doubling(start, _positive(last, flag), item, flag) if colon else [start])
    return tuple(sorted(found))


def _doubling(first: int, last: int, item: str, flag: str) -> list[int]:
    found = [first]
    while found[-1] < last:
        found.append(2 * found[-1])
    if found[-1] != last:
        raise ValueError(f"--{flag} has {item!r}: a range doubles from {first}, and does not meet {last}")
    return found


def _positive(text: str, flag: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"--{flag} has {text!r}: expected {LENGTHS}")
    return int(text)


def expanded(text: str, flag: str) -> str:
    """A list of calls in which `{a,b}` stands for each of its items: `x(n={1,2})` is `x(n=1), x(n=2)`."""
    calls, level, start = [], 0, 0
    for place, character in enumerate(f"{text},"):
        level += (character in "({[") - (character in ")}]")
        if character == "," and level == 0:
            calls.append(text[start:place])
            start = place + 1
    if level:
        raise ValueError(f"--{flag}={text}: a bracket is not closed")
    return ",".join(each for call in calls for each in grid(call, flag))


def grid(call: str, flag: str) -> list[str]:
    """What a text stands for where `{a,b}` stands for each of its items: one text for each choice of all braces."""
    before, opened, rest = call.partition("{")
    if not opened:
        if "}" in call:
            raise ValueError(f"--{flag} has {call.strip()!r}: a brace is closed that was not opened")
        return [call]
    choices, closed, after = rest.partition("}")
    if not closed or "{" in choices or not choices.strip():
        raise ValueError(f"--{flag} has {call.strip()!r}: expected braces around items, such as features={{16,64}}")
    return [each for choice in items(choices, flag) for each in grid(f"{before}{choice}{after}", flag)]


def kernels(text: str, flag: str = "kernels") -> tuple:
    """Kernels such as `softmax, performer(features={64,256})`, or `all`; braces stand for a grid; none twice."""
    import attnzoo

    return _by_catalogue(attnzoo.parse, text, flag)


def kernels_or_none(text: str, flag: str = "kernels") -> tuple:
    """The same, or `none`."""
    return () if text.strip() == "none" else kernels(text, flag)


def models(text: str, flag: str = "kernels") -> tuple:
    """Kernels, and presets of models such as `hybrid(ratio={1,3})`, as `kernels` reads them."""
    from attnzoo.models import presets

    return _by_catalogue(presets.parse, text, flag)


def positions(text: str, flag: str = "positions") -> tuple:
    """Position encodings such as `learned, rotary(pairing='half')`, or `all`; none twice."""
    import attnzoo

    try:
        return tuple(dict.fromkeys(attnzoo.parse_positions(text)))
    except ValueError as error:
        raise ValueError(f"--{flag}: {error}") from None


def tasks(text: str, flag: str = "task") -> tuple:
    """Tasks such as `text, mqar(pairs={4,8})`; none twice."""
    from experiments.tasks import parse_tasks

    path = _PATH.search(text)
    hint = "; a path stands in quotes: {}='{}'".format(*path.groups()) if path else ""
    return _by_catalogue(parse_tasks, text, flag, hint)


def _by_catalogue(parse: Callable[[str], Iterable], text: str, flag: str, hint: str = "") -> tuple:
    """What a catalogue reads of calls with grids, none twice; its errors name the flag."""
    spelled = expanded(text, flag)
    try:
        return tuple(dict.fromkeys(parse(spelled)))
    except ValueError as error:
        raise ValueError(f"--{flag}: {error}{hint}") from None


def numbers(text: str, flag: str) -> tuple[float, ...]:
    """Numbers such as `3e-4,1e-3`, none twice."""
    try:
        return tuple(dict.fromkeys(map(float, items(text, flag))))
    except ValueError:
        raise ValueError(f"--{flag}={text}: expected numbers separated by commas, such as 3e-4,1e-3") from None


def shard(text: str, flag: str = "shard") -> tuple[int, int] | None:
    """`i/n`, the i-th of n parts, counted from 0; None for the whole."""
    if not text:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--{flag}={text}: expected i/n with i from 0 to n - 1, such as 0/4")
    return int(index), int(count)


def at_least(smallest: float, **values: float) -> None:
    """Refuse settings below `smallest`."""
    for name, value in values.items():
        if not smallest <= value < math.inf:
            raise ValueError(f"--{name}={value}: expected at least {smallest:g}, and a finite number")
