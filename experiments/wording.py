"""Kernels, positions, tasks, times and sizes in few words, for lines, tables and figures."""

from __future__ import annotations

import ast


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


def short(kernel: str) -> str:
    """The repr of a kernel, positions or a task, without fields at their defaults: Performer(features=64)."""
    fields = _fields(kernel)
    if fields is None:
        return kernel
    name = kernel.partition("(")[0]
    defaults = _defaults(name)
    kept = [f"{field}={value}" for field, value in fields.items() if defaults.get(field) != value]
    return f"{name}({', '.join(kept)})" if kept else name


def _fields(kernel: str) -> dict[str, str] | None:
    """Fields of a repr as text; None where it is no call."""
    try:
        call = ast.parse(kernel, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # rows are read from files, and may hold anything
        return None
    return (
        {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords} if isinstance(call, ast.Call) else None
    )


def _defaults(name: str) -> dict[str, str]:
    import attnzoo
    from experiments.tasks import TASKS

    catalogues = attnzoo.KERNELS, attnzoo.POSITIONS, TASKS
    classes = {cls.__name__: cls for catalogue in catalogues for cls in catalogue.values()}
    return _fields(repr(classes[name]())) if name in classes else {}


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


def _brief(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if abs(number) >= 999.5 else f"{number:.3g}"
