"""Rows to a picture of who obeys what."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments.show import figures, naming

COLORS = {"obeyed": "#009E73", "broken": "#D55E00", "not run": "#bbbbbb"}


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """`laws.png` and `laws.svg`: a cell for each kernel and law."""
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    laws = list(dict.fromkeys(row["law"] for row in rows))
    codes = np.full((len(laws), len(kernels)), list(COLORS).index("not run"))
    for row in rows:
        codes[laws.index(row["law"]), kernels.index(row["kernel"])] = list(COLORS).index(row["status"])
    figure, (panel,) = figures.axes(1, width=2.5 + 0.45 * len(kernels), height=1.5 + 0.24 * len(laws))
    panel.pcolormesh(codes, cmap=figures.palette(list(COLORS.values())), vmin=-0.5, vmax=2.5, edgecolors="white")
    panel.set_xticks(np.arange(len(kernels)) + 0.5, map(naming.short, kernels), rotation=45, ha="right")
    panel.set_yticks(np.arange(len(laws)) + 0.5, [law.replace("_", " ") for law in laws])
    panel.invert_yaxis()
    panel.grid(False)
    counts = [f"{(codes == code).sum()} {status}" for code, status in enumerate(COLORS)]
    first = rows[-1]
    figures.title(figure, "Laws on " + first["device"], f"{', '.join(counts)} (green, red, grey); jax {first['jax']}")
    figures.save(figure, out / "laws")
