"""Columns of what was timed: seconds and memory of each pass, and what decoding keeps."""

from __future__ import annotations

from collections.abc import Callable

from experiments.report import picking
from experiments.report.columns import Column, Found
from experiments.scaling import analysis as scaling
from experiments.scaling import run as scaled
from experiments.show import units

PASSES = {"forward": "forward", "train": "with gradients"}  # in words


def chosen(rows: list[dict]) -> list[dict]:
    """Rows of the setting in which the most kernels were timed on one device, whether causal or not."""
    own = [row for row in rows if scaled.EXPERIMENT.wrote(row) and not row.get("mesh")]
    return picking.most(own, lambda row: scaling.setting(row | {"is_causal": False}))


def state(rows: list[dict], length: int) -> list[Column]:
    """What decoding keeps, which is of one size whether or not all tokens see the past alone."""
    kept = [row for row in picking.nearest(rows, length) if row.get("state_bytes") is not None]
    if not kept:
        return []
    at = kept[0]["length"]
    return [Column("state", f"state, {at:,}", _by_name(kept, lambda row: _size(row, "state_bytes")), at)]


def in_one_form(rows: list[dict], length: int, is_causal: bool) -> tuple[list[Column], list[Column]]:
    """Times and memory of each pass where all rows are causal, or none is."""
    near = picking.nearest([row for row in rows if row["is_causal"] is is_causal], length)
    measured = [row for row in near if row["status"] == "measured"]
    times, memories = [], []
    for passed in dict.fromkeys(row["pass"] for row in measured):
        own = [row for row in measured if row["pass"] == passed]
        at = own[0]["length"]
        how, of = f"{passed}{', causal' * is_causal}, {at:,}", {"passed": passed, "is_causal": is_causal}
        told = f"{at:,} tokens, {setting_text(own)}; medians of {own[0]['repeats']} with quartiles"
        times.append(Column("time", f"time {how}", _by_name(own, _time), at, **of, told=told))
        memory = _by_name(own, lambda row: _size(row, "temporary_bytes"))
        memories.append(Column("memory", f"memory {how}", memory, at, **of))
    return times, memories


def setting_text(rows: list[dict]) -> str:
    """What was held fixed, but for who sees whom."""
    return scaling.setting_text(rows[0] | {"is_causal": False})


def _by_name(rows: list[dict], found: Callable[[dict], Found]) -> dict[str, Found]:
    return {row["name"]: found(row) for row in rows}


def _time(row: dict) -> Found:
    low, high = row["quartiles"]
    text = units.between_text(units.seconds_text, row["median"], low, high)
    return Found(text, row["median"], row["kernel"], low, high, seconds=tuple(row["seconds"]))


def _size(row: dict, name: str) -> Found:
    return Found(units.size_text(row[name]), row[name], row["kernel"], row[name], row[name])
