"""Rows to figures of rates against length, with the ceiling, and to a table in Markdown."""

from __future__ import annotations

import pathlib

from experiments.show import figures, naming, placing, scales, tables
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
    figure, panels = figures.grid(len(widths), 1, width=5.6, height=3.8)
    what = {"forward": "forward", "train": "forward and backward"}[passed]
    causal = "causal" if first["is_causal"] else "not causal"
    held = f"{first['dtype']}, {first['tokens']:,} tokens, {first['heads']} heads, {causal}"
    figures.title(figure, f"{naming.short(first['kernel'])}, {what}", f"{first['device']}; {held}")
    notes = ["Dashed: the largest matrix product here."] if "matmul" in ceilings else []
    ends = []
    for [panel], width in zip(panels, widths, strict=True):
        own = [row for row in rows if row["head_dim"] == width]
        ends.append((panel, _lines(panel, own, ceilings.get("matmul"))))
        scales.lengths_axis(panel, lengths)
        panel.set_xlabel("sequence length" if width == widths[-1] else "")
        panel.set_title(f"heads of {width}", fontsize=10, loc="left")
        panel.set_ylabel("useful TFLOP/s\n(visible pairs alone)", fontsize=9)
        notes += placing.side_by_side(panel, [drawn for _, drawn in ends[-1][1]])
    figures.footnote(figure, [*dict.fromkeys(notes), *_notes(rows)])
    for panel, lines in ends:
        placing.label_lines(panel, [end for end, _ in lines])
    return figure


def _lines(panel, rows: list[dict], ceiling: dict | None) -> list[tuple[tuple, list]]:
    """Draw each implementation; the ends of those with numbers, as `label_lines` takes them, and their artists."""
    found = []
    for name, (color, marker) in STYLE.items():
        line = sorted((row for row in rows if row["implementation"] == name), key=lambda row: row["length"])
        measured = [row for row in line if row["status"] == "measured"]
        xs, ys = ([row["length"] for row in measured], [row["flops_per_second"] / 1e12 for row in measured])
        if measured:
            found.append(((name, xs[-1], ys[-1], color), panel.plot(xs, ys, color=color, marker=marker, markersize=4)))
        unfit = [row["length"] for row in line if _is_unfit(row)]
        panel.plot(unfit, [0] * len(unfit), "x", color=color)
    if ceiling is not None:
        panel.axhline(ceiling["rate"] / 1e12, color="#555555", linestyle="--", linewidth=0.8)
    panel.set_ylim(bottom=0)
    return found


def _is_unfit(row: dict) -> bool:
    return row.get("limit") == "memory"


def _notes(rows: list[dict]) -> list[str]:
    """What crosses are, where there are any, and why other cells have no number: each reason with its implementations,
    and where these have others that were measured, with their widths and lengths."""
    notes = ["Crosses: does not fit in memory."] if any(map(_is_unfit, rows)) else []
    missing: dict[str, dict[str, list[str]]] = {}
    for (name, width), own in _grouped(rows).items():
        for reason in dict.fromkeys(_reason(row) for row in own if _is_missing(row)):
            lengths = sorted(row["length"] for row in own if _is_missing(row) and _reason(row) == reason)
            at = f" at {', '.join(f'{length:,}' for length in lengths)} tokens" * (len(lengths) < len(own))
            missing.setdefault(reason, {}).setdefault(f"heads of {width}{at}", []).append(name)
    for reason, cells in missing.items():
        told = "; ".join(f"{', '.join(names)} with {where}" for where, names in cells.items())
        notes.append(f"{reason[0].upper()}{reason[1:]}: {told}.")
    return notes


def _grouped(rows: list[dict]) -> dict[tuple[str, int], list[dict]]:
    """Rows of an implementation and a width."""
    found: dict[tuple[str, int], list[dict]] = {}
    for row in rows:
        found.setdefault((row["implementation"], row["head_dim"]), []).append(row)
    return found


def _is_missing(row: dict) -> bool:
    return row["status"] != "measured" and not _is_unfit(row)


def _reason(row: dict) -> str:
    return tables.status_text(row).replace(": ", ", ", 1)
