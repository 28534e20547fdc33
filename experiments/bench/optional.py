"""What is not always installed: figures where matplotlib is, and a word where something is not."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Callable


def draw(figures: Callable[[list, pathlib.Path], object], rows: list, out: pathlib.Path) -> None:
    """`figures(rows, out)`, unless there are no rows, or nothing to draw with."""
    if not rows:
        return
    try:
        figures(rows, out)
    except ImportError as error:
        print(f"no figure: {error}; install matplotlib and run the same command again, which only draws then")


def require(module: str, extra: str, flag: str) -> None:
    """Refuse a flag whose module is not installed.

    Raises:
      ValueError: with the extra that has it.
    """
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{flag} needs {module}, which is not installed: pip install -e '.[{extra}]'")
