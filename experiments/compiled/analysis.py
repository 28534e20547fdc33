"""Rows to statements: what is launched and moved at the longest length, and how much more than is needed at any."""

from __future__ import annotations

from attnzoo import KERNELS, Kernel
from experiments.bench.chips import CHIPS
from experiments.compiled.settings import AUTOMATIC, PROJECTED
from experiments.show import naming, tables, units
from experiments.show.units import Shown

SETTING = ("batch", "heads", "num_kv_heads", "head_dim", "value_dim", "dtype", "operands", "is_causal")
HEADER = [
    "kernel", "pass", "length", "launches", "steps", "moved", "needed", "moved / needed", "temporaries", "TFLOP",
    "at least", "bound by", "one fused kernel", "note",
]  # fmt: skip
UNCOUNTED = "its operations are not counted, so that no time is told"


def ratio(row: dict) -> float:
    """How many times what a fused kernel needs to move is moved."""
    return row["moved_bytes"] / row["least_bytes"]


def is_counted(row: dict) -> bool:
    """Whether a row has launches and bytes: its program was compiled, and no loop depends on data."""
    return row["status"] == "compiled" and row["launches"] is not None


def is_timed(row: dict) -> bool:
    """Whether a row's least times are of operations, too: some rows of kernels of ours do not know theirs."""
    return is_counted(row) and row["flops"] is not None


def line_name(row: dict) -> str:
    """A kernel in few words, and its implementation where one was named."""
    kernel = naming.short(row["kernel"])
    return kernel if row["implementation"] == "auto" else f"{kernel}, {row['implementation']}"


def route(row: dict) -> str:
    """The implementation of a row that was counted.

    Of what is chosen where none is named, cuDNN's is softmax under a mask in one launch, or two with gradients, for
    which XLA takes more.
    """
    if row["implementation"] != AUTOMATIC:
        return row["implementation"]
    is_softmax = getattr(KERNELS.get(row["name"]), "as_softmax", Kernel.as_softmax) is not Kernel.as_softmax
    return "cudnn" if is_softmax and CHIPS[row["target"]].platform == "cuda" and row["launches"] <= 2 else "xla"


def settings_of(rows: list[dict]) -> dict[tuple, list[dict]]:
    """Rows that may be compared: of one target and setting, and one version of what compiles."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        names = ("target", *SETTING, "jax", "compiler")
        groups.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return groups


def setting_text(row: dict) -> str:
    """A target and setting in words, such as `H100 SXM, batch 4, 16 heads of 64, bfloat16, causal`."""
    shared = "" if row["num_kv_heads"] == row["heads"] else f" ({row['num_kv_heads']} of keys)"
    values = "" if row.get("value_dim") is None else f" beside values of {row['value_dim']}"
    size = f"batch {row['batch']}, {row['heads']} heads{shared} of {row['head_dim']}{values}, {row['dtype']}"
    how = ", as projections leave them" * (row["operands"] == PROJECTED)
    return f"{CHIPS[row['target']].name}, {size}{how}{', causal' * row['is_causal']}"


def summaries(rows: list[dict]) -> list[tables.Table]:
    """Of each target and setting: the longest length of each kernel, and moved / needed against length."""
    found = []
    for own in settings_of(rows).values():
        said = f"{setting_text(own[0])}; compiled by jax {own[0]['jax']} ({own[0]['compiler']}), nothing run"
        found.append(tables.Table(f"Longest length: {said}", HEADER, [_line(row) for row in longest(own)]))
        counted = [row | {"kernel": line_name(row)} for row in own if is_counted(row)]
        for passed in dict.fromkeys(row["pass"] for row in counted):
            chosen = [row for row in counted if row["pass"] == passed]
            cell = lambda cells: ratio_text(cells[-1])
            found.append(
                tables.pivot(f"Moved / needed, {passed}: {setting_text(own[0])}", chosen, "kernel", "length", cell)
            )
    return found


def longest(rows: list[dict]) -> list[dict]:
    """The row of each kernel and pass at the longest length that was counted; where there is none, why."""
    found: dict[tuple, dict] = {}
    for row in sorted(rows, key=lambda row: (is_counted(row), row["length"])):
        found[row["kernel"], row["implementation"], row["pass"]] = row
    order = {name: place for place, name in enumerate(dict.fromkeys(map(line_name, rows)))}
    return sorted(found.values(), key=lambda row: (order[line_name(row)], row["pass"]))


def ratio_text(row: dict) -> Shown:
    """How many times what is needed, in words."""
    return Shown(f"{ratio(row):,.3g}" if ratio(row) < 999.5 else f"{ratio(row):,.0f}", ratio(row))


def _line(row: dict) -> list[str]:
    head = [line_name(row), row["pass"], units.count_text(row["length"])]
    if row["status"] != "compiled":
        return [*head, *[""] * (len(HEADER) - 4), tables.status_text(row)]
    is_known, temporaries = row["flops"] is not None, units.size_text(row["temporary_bytes"])
    flops = Shown(f"{row['flops'] / 1e12:.3g}", row["flops"]) if is_known else ""
    fused = units.seconds_text(row["least_seconds"]) if is_known else ""
    needed = units.size_text(row["least_bytes"])
    if not is_counted(row):
        return [*head, "", "", "", needed, "", temporaries, flops, "", "", fused, row["reason"]]
    counts = [units.count_text(round(row[name])) for name in ("launches", "steps")]
    least = [units.seconds_text(row["roofline_seconds"]), row["bound"]] if is_timed(row) else ["", ""]
    note = "; ".join(filter(None, (_fit(row), UNCOUNTED * (not is_known))))
    return [
        *head, *counts, units.size_text(row["moved_bytes"]), needed, ratio_text(row), temporaries, flops, *least, fused,
        note,
    ]  # fmt: skip


def _fit(row: dict) -> str:
    needed, there = row["needed_bytes"], row["capacity_bytes"]
    return "" if needed <= there else f"needs {units.size_text(needed)}, the device has {units.size_text(there)}"
