"""Figures where matplotlib is installed, and a word where it is not."""

from __future__ import annotations

import importlib
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
