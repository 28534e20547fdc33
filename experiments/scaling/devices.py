"""Rows of meshes to statements: what a call takes, needs and sends where more devices share it.

Strong scaling is a length on more and more devices, weak scaling as many tokens on each of them: both are among the
cells of lengths and meshes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from experiments.scaling import analysis
from experiments.show import naming, tables, units
from experiments.show.units import Shown

HEADER = ["kernel", "pass", "devices", "length", "time", "memory of a device", "sent by a device", "of its queries"]
LOSS = 8  # bytes, twice a float32: what a sum over any number of devices does not reach
WANTED = {
    "strong": "it takes a length that is compiled for several numbers of devices",
    "weak": "it takes lengths that grow with devices, such as --lengths=1024:4096 --mesh='sequence={1,2,4}'",
}


class Series(NamedTuple):
    """Rows of several numbers of devices which belong together, and what is the same in them, in words."""

    name: str
    rows: list[dict]


def of_meshes(rows: list[dict]) -> list[dict]:
    """Those that devices share, in the order of their number."""
    return sorted((row for row in rows if row.get("mesh")), key=lambda row: row["devices"])


def strong(rows: list[dict]) -> Series | None:
    """The longest length that programs of several numbers of devices were compiled for; None where there is none."""
    return _longest(rows, lambda row: row["length"], lambda length: f"{length:,} tokens in all")


def weak(rows: list[dict]) -> Series | None:
    """As many tokens on each of several numbers of devices, the most; None where there are no such cells."""
    return _longest(rows, tokens_of_a_device, lambda tokens: f"{tokens:,.0f} tokens on each device")


def _longest(rows, size, text) -> Series | None:
    """Of the sizes with most numbers of devices, the largest."""
    groups: dict[float, list[dict]] = {}
    for row in of_meshes(rows):
        if "temporary_bytes" in row and row["status"] in ("measured", "skipped"):
            groups.setdefault(size(row), []).append(row)
    counts = {size: len({row["devices"] for row in own}) for size, own in groups.items()}
    best = max(counts, key=lambda size: (counts[size], size), default=None)
    return None if best is None or counts[best] < 2 else Series(text(best), groups[best])


def tokens_of_a_device(row: dict) -> float:
    """Those of the batch, divided among devices."""
    return row["batch"] * row["length"] / row["devices"]


def query_bytes(row: dict) -> float:
    """Of the part of the queries that a device has."""
    return tokens_of_a_device(row) * row["heads"] * row["head_dim"] * jnp.dtype(row["dtype"]).itemsize


def is_talking(row: dict) -> bool:
    """Whether a device sends more than its part of the loss, one number that is summed."""
    return (row["sent_bytes"] or 0) > LOSS


def summaries(rows: list[dict]) -> list[tables.Table]:
    """Strong and weak scaling of each setting, as tables."""
    groups: dict[tuple, list[dict]] = {}
    for row in of_meshes(rows):
        groups.setdefault(analysis.setting(row), []).append(row)
    found = []
    for own in groups.values():
        for kind, series in (("Strong", strong(own)), ("Weak", weak(own))):
            if series is not None:
                said = (f"{kind} scaling, {series.name}: {analysis.setting_text(own[0])}", virtual(series.rows))
                title = ". ".join(filter(None, said))
                found.append(tables.Table(title, HEADER, _lines(series.rows)))
    return found


def virtual(rows: list[dict]) -> str:
    """What is to be said of devices that a CPU stands for; nothing of others."""
    if rows[0]["platform"] != "cpu":
        return ""
    most, cores = max(row["devices"] for row in rows), rows[0]["cores"]
    of_times = "times say nothing about scaling" if any(row["status"] == "measured" for row in rows) else "none was run"
    return (
        f"Up to {most} virtual devices of one CPU with {cores} cores: {of_times}; memory and bytes hold, read from the "
        "compiled programs"
    )


def refusals(rows: list[dict]) -> list[str]:
    """Why there is no program of some cells of meshes, each reason once."""
    reasons: dict[str, dict[str, None]] = {}
    for row in of_meshes(rows):
        if row["status"] not in ("measured", "skipped"):
            reasons.setdefault(tables.status_text(row), {})[naming.short(row["kernel"])] = None
    return [f"{', '.join(kernels)}: {reason}" for reason, kernels in reasons.items()]


def _lines(rows: list[dict]) -> list[list[str]]:
    order = {name: place for place, name in enumerate(dict.fromkeys((row["pass"], row["kernel"]) for row in rows))}
    return [_line(row) for row in sorted(rows, key=lambda row: order[row["pass"], row["kernel"]])]


def _line(row: dict) -> list[str]:
    sent = row["sent_bytes"]
    return [
        naming.short(row["kernel"]),
        row["pass"],
        units.count_text(row["devices"]),
        units.count_text(row["length"]),
        units.seconds_text(row["median"]) if row["status"] == "measured" else row["status"],
        units.size_text(row["temporary_bytes"]),
        "" if sent is None else units.size_text(sent),
        "" if sent is None else Shown(f"{sent / query_bytes(row):.3g}", sent / query_bytes(row)),
    ]
