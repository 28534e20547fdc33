"""Rows to figures of rates against length, with the ceiling, and to a table in Markdown."""

from __future__ import annotations

import pathlib

from experiments.show import figures, naming, tables
from experiments.throughput import analysis

TABLE = "table.md"
STYLE = {
    "attnzoo": ("#000000", "o"),
    "attnzoo xla": ("#0072B2", "s"),
    "attnzoo pallas": ("#56B4E9", "v"),
    "jax.nn": ("#E69F00", "X"),
    "jax.nn cudnn": ("#009E73", "P"),
    "torch SDPA": ("#D55E00", "D"),
    "torch flex": ("#CC79A7", "^"),
}


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """A figure for each kernel and pass, and `table.md`."""
    cells, ceilings = analysis.split(rows)
    (out / TABLE).write_text(tables.markdown(*analysis.table(cells, ceilings)))
    kernels = list(dict.fromkeys(row["kernel"] for row in cells if row["status"] == "measured"))
    for index, kernel in enumerate(kernels):
        for passed in ("forward", "train"):
            chosen = [row for row in cells if row["kernel"] == kernel and row["pass"] == passed]
            if chosen:
                name = naming.short(kernel).partition("(")[0].lower()
                figures.save(_figure(chosen, ceilings, passed), out / f"{index}_{name}_{passed}")


def _figure(rows: list[dict], ceilings: dict[str, dict], passed: str):
    first, widths = rows[0], sorted({row["head_dim"] for row in rows})
    lengths = sorted({row["length"] for row in rows})
    figure, panels = figures.axes(len(widths))
    what = {"forward": "forward", "train": "forward and backward"}[passed]
    held = f"{first['dtype']}, {first['tokens']:,} tokens, {first['heads']} heads, causal: {first['is_causal']}"
    figures.title(figure, f"{naming.short(first['kernel'])}, {what}", f"{first['device']}; {held}")
    for panel, width in zip(panels, widths, strict=True):
        _panel(panel, [row for row in rows if row["head_dim"] == width], ceilings.get("matmul"))
        figures.lengths_axis(panel, lengths)
        panel.set_title(f"H = {width}", fontsize=10)
        panel.set_ylabel("useful TFLOP/s (visible pairs alone)")
    figures.footnote(figure, ["Dashed: the largest matrix product here. Crosses: does not fit in memory."])
    return figure


def _panel(panel, rows: list[dict], ceiling: dict | None) -> None:
    ends = []
    for name, (color, marker) in STYLE.items():
        line = sorted((row for row in rows if row["implementation"] == name), key=lambda row: row["length"])
        measured = [row for row in line if row["status"] == "measured"]
        xs, ys = ([row["length"] for row in measured], [row["flops_per_second"] / 1e12 for row in measured])
        panel.plot(xs, ys, color=color, marker=marker, markersize=4)
        ends += [(name, xs[-1], ys[-1], color)] if measured else []
        unfit = [row["length"] for row in line if row.get("limit") == "memory"]
        panel.plot(unfit, [0] * len(unfit), "x", color=color)
    if ceiling is not None:
        panel.axhline(ceiling["rate"] / 1e12, color="#555555", linestyle="--", linewidth=0.8)
    panel.set_ylim(bottom=0)
    figures.label_lines(panel, ends)
