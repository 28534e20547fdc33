"""Rows to figures of rates against length, with the ceiling, and to a table in Markdown."""

from __future__ import annotations

import pathlib

from experiments import figures, wording

TABLE = "table.md"
STYLE = {
    "attnzoo": ("#000000", "o"),
    "attnzoo xla": ("#0072B2", "s"),
    "jax.nn": ("#E69F00", "X"),
    "jax.nn cudnn": ("#009E73", "P"),
    "torch SDPA": ("#D55E00", "D"),
    "torch flex": ("#CC79A7", "^"),
}


def draw(rows: list[dict], out: pathlib.Path) -> None:
    """A figure for each kernel and pass, and `table.md`."""
    ceilings = {row["ceiling"]: row for row in rows if "ceiling" in row and row["status"] == "measured"}
    cells = [row for row in rows if "ceiling" not in row]
    header, lines = table(cells, ceilings)
    text = [header, ["---"] * len(header), *lines]
    (out / TABLE).write_text("".join(f"| {' | '.join(line)} |\n" for line in text))
    kernels = list(dict.fromkeys(row["kernel"] for row in cells if row["status"] == "measured"))
    for index, kernel in enumerate(kernels):
        for passed in ("forward", "train"):
            chosen = [row for row in cells if row["kernel"] == kernel and row["pass"] == passed]
            if chosen:
                name = wording.short(kernel).partition("(")[0].lower()
                figures.save(_figure(chosen, ceilings, passed), out / f"{index}_{name}_{passed}")


def table(cells: list[dict], ceilings: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines, a line for each cell that was measured or not."""
    header = ["kernel", "pass", "H", "T", "implementation", "time", "TFLOP/s", "of matmul", "of copy", "temporaries"]
    order = lambda row: (row["kernel"], row["pass"], row["head_dim"], row["length"], row["implementation"])
    return header, [_line(row, ceilings) for row in sorted(cells, key=order)]


def _line(row: dict, ceilings: dict[str, dict]) -> list[str]:
    cell = [wording.short(row["kernel"]), row["pass"], str(row["head_dim"]), f"{row['length']:,}"]
    cell.append(row["implementation"])
    if row["status"] != "measured":
        reason = row["reason"].replace("|", "/").replace("\n", " ")
        return [*cell, f"{row['status']}: {reason}", "", "", "", ""]
    shares = [
        _share(row["flops_per_second"], ceilings.get("matmul")),
        _share(row["bytes_per_second"], ceilings.get("copy")),
    ]
    temporaries = wording.size_text(row["temporary_bytes"]) if "temporary_bytes" in row else ""
    return [*cell, wording.seconds_text(row["median"]), f"{row['flops_per_second'] / 1e12:.3g}", *shares, temporaries]


def _share(rate: float, ceiling: dict | None) -> str:
    return "" if ceiling is None else f"{rate / ceiling['rate']:.1%}"


def _figure(rows: list[dict], ceilings: dict[str, dict], passed: str):
    first, widths = rows[0], sorted({row["head_dim"] for row in rows})
    lengths = sorted({row["length"] for row in rows})
    figure, panels = figures.axes(len(widths))
    what = {"forward": "forward", "train": "forward and backward"}[passed]
    held = f"{first['dtype']}, {first['tokens']:,} tokens, {first['heads']} heads, causal: {first['is_causal']}"
    figures.title(figure, f"{wording.short(first['kernel'])}, {what}", f"{first['device']}; {held}")
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
