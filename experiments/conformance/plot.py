"""Rows to a picture of who obeys what."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments.conformance import analysis
from experiments.show import figures

COLORS = {"obeyed": "#009E73", "broken": "#D55E00", "refused": "#56B4E9", "not run": "#bbbbbb"}
NAMES = {"obeyed": "green", "broken": "orange", "refused": "blue", "not run": "grey"}


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`laws.png` and `implementations.png`: a cell for each law and what is held to it."""
    for name, of_routes in (("laws", False), ("implementations", True)):
        if some := [row for row in rows if ("route" in row) is of_routes]:
            _grid(some, out / name, name.capitalize())


def _grid(rows: list[dict], path: pathlib.Path, title: str) -> None:
    subjects = list(dict.fromkeys(map(analysis.subject, rows)))
    laws = list(dict.fromkeys(row["law"] for row in rows))
    codes = np.full((len(laws), len(subjects)), list(COLORS).index("not run"))
    for row in rows:
        codes[laws.index(row["law"]), subjects.index(analysis.subject(row))] = list(COLORS).index(row["status"])
    room = 0.06 * max(map(len, subjects))  # of the longest name, which stands aslant
    width, height = 2.5 + room + 0.45 * len(subjects), 1.2 + room + 0.24 * len(laws)
    figure, (panel,) = figures.axes(1, width=width, height=height)
    palette = figures.palette(list(COLORS.values()))
    panel.pcolormesh(codes, cmap=palette, vmin=-0.5, vmax=len(COLORS) - 0.5, edgecolors="white")
    panel.set_xticks(np.arange(len(subjects)) + 0.5, subjects, rotation=45, ha="right")
    panel.set_yticks(np.arange(len(laws)) + 0.5, [law.replace("_", " ") for law in laws])
    panel.invert_yaxis()
    panel.grid(False)
    counts = [f"{(codes == code).sum()} {status} ({NAMES[status]})" for code, status in enumerate(COLORS)]
    first = rows[-1]
    figures.title(figure, f"{title} on {first['device']}", f"{', '.join(counts)}; jax {first['jax']}")
    figures.save(figure, path)
