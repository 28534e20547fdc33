"""Counts, times and sizes in few words, which know the number that they tell."""

from __future__ import annotations

from collections.abc import Callable


class Shown(str):
    """Text that knows the number it shows: a table is sorted by `value`, so that 900 µs come before 1.2 ms."""

    value: float

    def __new__(cls, text: str, value: float) -> Shown:
        shown = super().__new__(cls, text)
        shown.value = float(value)
        return shown


def count_text(count: float) -> Shown:
    """A number with commas, such as `4,096`."""
    return Shown(f"{count:,}", count)


def size_text(count: float) -> Shown:
    """Bytes in words, such as `1.5 MiB`."""
    size = count
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return Shown(f"{_brief(size)} {unit}", count)
        size /= 1024
    return Shown(f"{_brief(size)} TiB", count)


def seconds_text(seconds: float) -> Shown:
    """Seconds in words, such as `12.3 ms`."""
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return Shown(f"{_brief(seconds * factor)} {unit}", seconds)
    return Shown(f"{_brief(seconds * 1e6)} µs", seconds)


def between_text(text: Callable[[float], str], value: float, low: float, high: float) -> str:
    """A number and its interval, their unit once where they share it, such as `1.2 [1.1, 1.3] ms`."""
    told = [text(each) for each in (value, low, high)]
    numbers, _, shared = zip(*(each.rpartition(" ") for each in told), strict=True)
    if len(set(shared)) > 1:
        return f"{told[0]} [{told[1]}, {told[2]}]"
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}] {shared[0]}"


def program_text(row: dict, size: float) -> str:
    """The times of a row's program, and its bytes, such as `1.2 [1.1, 1.3] ms, 4 MiB, compiled in 0.2 s`."""
    time = between_text(seconds_text, row["median"], *row["quartiles"])
    return f"{time}, {size_text(size)}, compiled in {seconds_text(row['compile_seconds'])}"


def _brief(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if abs(number) >= 999.5 else f"{number:.3g}"
