"""Kernels, positions and tasks in few words, for lines, tables and figures."""

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


def code(kernel: str) -> tuple[str, str]:
    """A call of what text names, and the import before it where that is not in the catalogue: `from bad import Most; `,
    `Most()`."""
    path, opened, fields = kernel.partition("(")
    module, _, name = path.rpartition(".")
    call = f"{name}({fields}" if opened else f"{name}()"
    return (f"from {module} import {name}; ", call) if module else ("", f"attnzoo.{call}")


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
    from attnzoo.models.presets import PRESETS
    from experiments.tasks import TASKS

    catalogues = attnzoo.KERNELS, PRESETS, attnzoo.POSITIONS, TASKS
    classes = {cls.__name__: cls for catalogue in catalogues for cls in catalogue.values()}
    return _fields(repr(classes[name]())) if name in classes else {}
