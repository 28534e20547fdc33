"""What rows tell of a kernel: how much longer it took than it must, and what it loses."""

from __future__ import annotations

import math
import pathlib
import statistics
from typing import NamedTuple

from attnzoo import Dims, Kernel, costs
from experiments.bench import processor, records
from experiments.bench.chips import CHIPS, Chip
from experiments.compiled import bounds
from experiments.show import naming
from experiments.train.sweep import analysis as sweep

# Of a processor nobody publishes what it does: a guess, which a measured row corrects.
GUESS = 1e10, 1e10  # operations and bytes a second, of a core
DECODE = "decode"


class Factor(NamedTuple):
    """How many times the least it took, and where that is known from."""

    value: float
    source: str


def chip(device: str) -> Chip:
    """A device by its name."""
    if device != "cpu":
        return CHIPS[device]
    flops, memory = (processor.cores() * each for each in GUESS)
    return Chip("CPU", dict.fromkeys(("float32", "bfloat16", "float16"), flops), memory, math.inf, "cpu", "")


def read(root: pathlib.Path) -> list[dict]:
    """Rows of a folder and of those below it; each tells its `place`."""
    places = sorted({path.parent for path in root.rglob(records.PARTS)})
    return [row | {"place": str(place)} for place in places for row in records.whole(place)[0]]


def factor(rows: list[dict], kernel: Kernel, device: str, length: int, is_causal: bool, passed: str) -> Factor | None:
    """What the nearest row in length tells; None where none does.

    A measured row comes before a compiled one, and the same causality before another.
    """
    candidates = []
    for row in rows:
        if row.get("kernel") != repr(kernel) or row.get("mesh") or not _asks(row, passed):
            continue
        if row.get("status") == "measured" and row.get("median") and _is_here(row, device) and _is_ours(row):
            candidates.append((row, row["median"], "measured"))
        elif row.get("status") == "compiled" and row.get("target") == device and row.get("roofline_seconds"):
            candidates.append((row, row["roofline_seconds"], "compiled, at least"))
    if not candidates:
        return None
    is_other = lambda row: row.get("is_causal", is_causal) != is_causal
    distance = lambda row: abs(math.log(_length(row) / length))
    row, seconds, how = min(candidates, key=lambda each: (each[2] != "measured", is_other(each[0]), distance(each[0])))
    told = f"{how}: {row['place']}, {_length(row):,} tokens{', other causality' * is_other(row)}"
    return Factor(
        seconds / least(kernel, _dims(row), row["dtype"], row.get("is_causal", True), passed, chip(device)), told
    )


def typical(known: list[Factor]) -> Factor:
    """What is taken for kernels without a row: the median of those with one, or the least where there are none."""
    if not known:
        return Factor(1.0, "formulas alone, at least")
    value = statistics.median(each.value for each in known)
    return Factor(value, f"formulas, times {value:,.3g} as the median of {len(known)} kernels with rows")


def _asks(row: dict, passed: str) -> bool:
    """Whether a row is of such a pass; one of decoding has a context in place of it."""
    return bool(row.get("context")) if passed == DECODE else bool(row.get("length")) and row.get("pass") == passed


def _length(row: dict) -> int:
    return row.get("context") or row["length"]


def _is_here(row: dict, device: str) -> bool:
    return row.get("platform") == "cpu" if device == "cpu" else device.upper() in str(row.get("device"))


def _is_ours(row: dict) -> bool:
    return row.get("implementation") in (None, "auto", "attnzoo")


def _dims(row: dict) -> Dims:
    heads, length = row.get("num_kv_heads") or row["heads"], _length(row)
    batch = row.get("batch") or max(1, (row.get("tokens") or 0) // length)
    return Dims(batch, length, length, row["heads"], heads, row["head_dim"], row["head_dim"])


def least(kernel: Kernel, dims: Dims, dtype: str, is_causal: bool, passed: str, target: Chip) -> float:
    """The least seconds of a call: of a launch, of operations counted from its program, and of what must be moved."""
    if passed == DECODE:  # a state is read once
        return bounds.roofline(target, dtype, kernel.state_bytes(dims, dtype), None, 1).seconds
    try:
        flops = costs.cost_of(kernel, dims, is_causal=is_causal, dtype=dtype).flops
    except ValueError:  # a loop whose trip count is not known
        flops = 0.0
    is_train = passed == "train"
    moved = bounds.least_bytes(kernel, dims, dtype, is_train)
    return bounds.roofline(target, dtype, moved, flops * (3 if is_train else 1), 1).seconds  # backward, each is two


def losses(rows: list[dict], length: int) -> dict[str, list[str]]:
    """By names of classes, differences to exact attention: of each task one that is decided, tested on a length as near
    as there is. Models whose layers mix kernels tell of none."""
    trained = [row for row in rows if {"task", "metric", "learning_rate", "width"} <= row.keys()]
    names = {row["kernel"]: _class(row) for row in trained}
    found: dict[tuple[str, str], tuple] = {}
    for place in dict.fromkeys(row["place"] for row in trained):
        for at, own in sweep.tested([row for row in trained if row["place"] == place]).items():
            for entry in sweep.summarise(own):
                if entry["difference"] is None or names[entry["kernel"]] is None:
                    continue
                key = names[entry["kernel"]], naming.short(entry["task"])
                order = not entry["doubt"], -abs(math.log(at / length)), entry["width"]
                found[key] = max(found.get(key, ((False, -math.inf, 0), "")), (order, _lost(entry, at, place)))
    told: dict[str, list[str]] = {}
    for (name, _), (_, text) in found.items():
        told.setdefault(name, []).append(text)
    return told


def _class(row: dict) -> str | None:
    """The class of the kernel of all layers."""
    names = {each.partition("(")[0] for each in row.get("built") or [row["kernel"]]}
    return names.pop() if len(names) == 1 else None


def _lost(entry: dict, at: int, place: str) -> str:
    unit = "bits" if entry["metric"] == "bits" else "points"
    learned = "" if at == entry["length"] else f" (trained on {entry['length']:,})"
    seeds = f"{entry['seeds']} seed{'s' * (entry['seeds'] > 1)}"
    doubt = f" ({entry['doubt']})" if entry["doubt"] else ""
    return (
        f"{sweep.mean_text(entry['metric'], entry['difference'], '+')} {unit} as {naming.short(entry['kernel'])}, "
        f"{naming.short(entry['task'])}, {at:,} tokens{learned}, {seeds}{doubt}: {place}"
    )
