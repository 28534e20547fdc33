"""Rows to statements: how fast each kernel grows, and from which length it is faster than exact attention."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from experiments.show import naming, statistics, tables, units
from experiments.show.units import Shown

# What is held fixed while kernel, pass and length vary; with `tokens`, the batch varies with the length.
SETTING = ("tokens", "heads", "num_kv_heads", "head_dim", "dtype", "is_causal", "repeats", "seed", "platform", "device")
REFERENCE = "softmax"
FITTED = 4  # the longest lengths that an exponent is fitted on: overhead flatters the short ones
RESAMPLES = 1000
METHOD = (
    f"Exponents: least squares on the logarithms of the last {FITTED} lengths, with the 95% Student t interval of the "
    "slope.\nFaster from: where medians cross, in straight lines between logarithms, with the 95% interval of "
    f"{RESAMPLES} resamples of the repetitions."
)


class Exponent(NamedTuple):
    """Seconds grow as length ** value, with the 95% interval of a straight line through the logarithms."""

    value: float
    low: float
    high: float


class Crossing(NamedTuple):
    """The length from which a kernel stays faster; 0 is before the first length, infinity beyond the last."""

    value: float
    low: float
    high: float


def exponent(lengths: list[int], amounts: list[float]) -> Exponent | None:
    """Least squares on the last lengths; None for fewer than three."""
    x, y = np.log(lengths[-FITTED:]), np.log(amounts[-FITTED:])
    if len(x) < 3:
        return None
    from scipy import stats  # which takes longer to import than jax

    line = stats.linregress(x, y)
    # Of amounts that do not grow at all scipy says that the error of the slope is no number.
    half = 0.0 if np.ptp(y) == 0 else statistics.student(len(x) - 2) * line.stderr
    return Exponent(float(line.slope), float(line.slope - half), float(line.slope + half))


def crossing(lengths: list[int], seconds: list[list[float]], reference: list[list[float]], seed: int = 0) -> Crossing:
    """Where medians cross for the last time, with a 95% bootstrap interval over repetitions.

    Args:
      lengths: lengths at which both were timed.
      seconds: repetitions at each length.
      reference: those of the reference.
      seed: of the resamples.
    """
    rng = np.random.default_rng(seed)
    own, other = (_resampled_medians(samples, rng) for samples in (seconds, reference))
    values = [_crossing(lengths, np.log(other[i]) - np.log(own[i])) for i in range(1 + RESAMPLES)]
    # Nearest, since half way to infinity is no length: scipy's bootstrap would interpolate.
    low, high = np.quantile(values[1:], [0.025, 0.975], method="nearest")
    return Crossing(values[0], float(low), float(high))


def _resampled_medians(samples: list[list[float]], rng) -> np.ndarray:
    """Medians at each length: of the sample, then of its resamples; [1 + RESAMPLES, lengths]."""
    columns = []
    for sample in map(np.asarray, samples):
        drawn = sample[rng.integers(len(sample), size=(RESAMPLES, len(sample)))]
        columns.append(np.append(np.median(sample), np.median(drawn, axis=1)))
    return np.stack(columns, axis=1)


def _crossing(lengths: list[int], ahead: np.ndarray) -> float:
    """The length from which `ahead`, a logarithm of ratios, stays above 0."""
    behind = np.flatnonzero(ahead <= 0)
    if not len(behind):
        return 0.0
    last = behind[-1]
    if last == len(lengths) - 1:
        return math.inf
    share = -ahead[last] / (ahead[last + 1] - ahead[last])
    return float(lengths[last] * (lengths[last + 1] / lengths[last]) ** share)


def summarise(rows: list[dict]) -> list[dict]:
    """One entry for each setting, pass and kernel: exponents of time and memory, crossing, refusals and skips."""
    beside: dict[tuple, list[dict]] = {}
    for row in rows:
        beside.setdefault((setting(row), row["pass"]), []).append(row)
    entries = []
    for group in beside.values():
        for kernel in dict.fromkeys(row["kernel"] for row in group):
            entries.append(_entry([row for row in group if row["kernel"] == kernel], group))
    return entries


def setting(row: dict) -> tuple:
    """What must be equal for rows to be compared."""
    return (None if row.get("tokens") else row["batch"], *(row.get(name) for name in SETTING))


def setting_text(row: dict) -> str:
    """A setting in words, such as `batch 1, 8 heads of 64, float32, causal; CPU, 2 cores`."""
    size = f"{row['tokens']:,} tokens" if row.get("tokens") else f"batch {row['batch']}"
    shared = "" if row["num_kv_heads"] == row["heads"] else f" ({row['num_kv_heads']} of keys)"
    causal = ", causal" if row["is_causal"] else ""
    device = f"{row['device']}, {row['cores']} cores" if row["platform"] == "cpu" else row["device"]
    return f"{size}, {row['heads']} heads{shared} of {row['head_dim']}, {row['dtype']}{causal}; {device}"


def shared_text(rows: list[dict]) -> str:
    """That of rows of which some may be of kernels that are causal in any case."""
    return setting_text(min(rows, key=lambda row: row["is_causal"]))


def label(row: dict, rows: list[dict]) -> str:
    """A kernel in few words; whether it is causal where not all of `rows` are."""
    is_told = row["is_causal"] and not all(other["is_causal"] for other in rows)
    return naming.short(row["kernel"]) + " (causal)" * is_told


def _entry(own: list[dict], beside: list[dict]) -> dict:
    own = sorted(own, key=lambda row: row["length"])
    measured = [row for row in own if row["status"] == "measured"]
    lengths = [row["length"] for row in measured]
    return {
        "kernel": own[0]["kernel"],
        "name": own[0]["name"],
        "pass": own[0]["pass"],
        "setting": setting_text(own[0]),
        "lengths": lengths,
        "exponent": exponent(lengths, [row["median"] for row in measured]),
        "memory_exponent": exponent(lengths, [max(row["temporary_bytes"], 1) for row in measured]),
        **_entry_crossing(measured, beside),
        "longest": measured[-1]["median"] if measured else None,
        "longest_bytes": measured[-1]["temporary_bytes"] if measured else None,
        "notes": _notes(own),
    }


def _notes(own: list[dict]) -> list[str]:
    """Why cells were not measured, each reason once with its lengths."""
    lengths: dict[str, list[int]] = {}
    for row in own:
        if row["status"] != "measured":
            lengths.setdefault(f"{row['status']}: {row['reason']}", []).append(row["length"])
    return [
        why if len(at) == len(own) else f"{', '.join(f'{length:,}' for length in at)}: {why}"
        for why, at in lengths.items()
    ]


def _entry_crossing(measured: list[dict], beside: list[dict]) -> dict:
    """The crossing, None for the reference itself and without it, and the lengths at which both were timed."""
    reference = {row["length"]: row for row in beside if row["name"] == REFERENCE and row["status"] == "measured"}
    common = [row for row in measured if row["length"] in reference]
    if not common or common[0]["name"] == REFERENCE:
        return {"crossing": None, "shared_lengths": []}
    lengths = [row["length"] for row in common]
    found = crossing(lengths, [row["seconds"] for row in common], [reference[n]["seconds"] for n in lengths])
    return {"crossing": found, "shared_lengths": lengths}


def crossing_text(found: Crossing | None, lengths: list[int]) -> str:
    """A crossing in words, such as `1,200 [1,100, 1,350]`, `before 256` or `beyond 8,192`."""
    if found is None:
        return ""
    value, low, high = (length_text(length, lengths) for length in found)
    return Shown(value if low == value == high else f"{value} [{low}, {high}]", found.value)


def length_text(value: float, lengths: list[int]) -> str:
    """A length of a crossing in words."""
    if value == 0:
        return f"before {lengths[0]:,}"
    return f"beyond {lengths[-1]:,}" if math.isinf(value) else f"{value:,.0f}"


def exponent_text(found: Exponent | None) -> str:
    """An exponent in words, such as `1.02 [0.98, 1.06]`."""
    return "" if found is None else tables.range_text(*found)


def statement(entry: dict) -> dict:
    """An entry as JSON takes it: crossings beside or beyond the lengths become words."""
    found = dict(entry)
    for name in ("exponent", "memory_exponent"):
        found[name] = None if entry[name] is None else entry[name]._asdict()
    if entry["crossing"] is not None:
        found["crossing"] = {
            name: value if 0 < value < math.inf else length_text(value, entry["shared_lengths"])
            for name, value in entry["crossing"]._asdict().items()
        }
    return found


def table(summary: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the summary, with a column of settings where there are several."""
    header = ["kernel", "pass", "time exponent", "memory exponent", f"faster than {REFERENCE} from", "longest"]
    several = len({entry["setting"] for entry in summary}) > 1
    header += ["its time", "its memory", *(["setting"] if several else []), "note"]
    lines = []
    for entry in summary:
        lines.append(
            [
                naming.short(entry["kernel"]),
                entry["pass"],
                exponent_text(entry["exponent"]),
                exponent_text(entry["memory_exponent"]),
                crossing_text(entry["crossing"], entry["shared_lengths"]),
                units.count_text(entry["lengths"][-1]) if entry["lengths"] else "",
                "" if entry["longest"] is None else units.seconds_text(entry["longest"]),
                "" if entry["longest"] is None else units.size_text(entry["longest_bytes"]),
                *([entry["setting"]] if several else []),
                _note(entry["notes"]),
            ]
        )
    return header, lines


def _note(notes: list[str]) -> str:
    """The first sentence of the first note, and how many follow."""
    if not notes:
        return ""
    more = f" (and {len(notes) - 1} more)" if len(notes) > 1 else ""
    return notes[0].split(". ")[0] + more


def summaries(rows: list[dict]) -> list[tables.Table]:
    """Exponents and crossings, and the median of each cell."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["status"] == "measured":
            groups.setdefault((row["pass"], setting_text(row)), []).append(row)
    median = lambda cell: units.seconds_text(cell[-1]["median"])
    return [
        tables.Table("Growth, and from where each is faster", *table(summarise(rows))),
        *(
            tables.pivot(f"Median time, {passed}: {setting}", own, "kernel", "length", median)
            for (passed, setting), own in groups.items()
        ),
    ]
