"""What is not always installed: figures where matplotlib is, and a word where something is not."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib


def draw(module: str, rows: list[dict], out: pathlib.Path) -> None:
    """`module.draw(rows, out)`, unless there are no rows, or nothing to draw with."""
    if not rows:
        return
    try:
        plot = importlib.import_module(module)
    except ImportError as error:
        print(f"no figure: {error}; install matplotlib and run the same command again, which only draws then")
        return
    plot.draw(rows, out)


def require(module: str, extra: str, flag: str) -> None:
    """Refuse a flag whose module is not installed.

    Raises:
      ValueError: with the extra that has it.
    """
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{flag} needs {module}, which is not installed: pip install -e '.[{extra}]'")
