"""Kernels, positions, tasks, times and sizes in few words, for lines, tables and figures."""

from __future__ import annotations

import ast


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
    except SyntaxError:
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


def size_text(count: float) -> str:
    """Bytes in words, such as `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.3g} TiB"


def seconds_text(seconds: float) -> str:
    """Seconds in words, such as `12.3 ms`."""
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:,.3g} {unit}" if seconds < 1000 else f"{seconds:,.0f} s"
    return f"{seconds * 1e6:.3g} µs"
