"""How long a program should take, before it is timed."""

from __future__ import annotations

import dataclasses
import functools

import jax

from experiments.bench import mesh, timing
from experiments.bench.program import Program

PROBE_FLOPS = 1e9  # what any machine does in about a second
SHORTEST = 16  # length of the shortest probe


def predict(row: dict, rows: list[dict], work: float) -> float | None:
    """Seconds, by the ratio of operations: from the longest shorter length of the same kernel and pass, or from what
    the kernel takes without gradients.

    Args:
      work: the exponent of length that the kernel claims, for programs whose operations cannot be counted.
    """
    same = ("kernel", "heads", "num_kv_heads", "head_dim", "dtype", "is_causal", "platform", "device", "mesh")
    kin = [
        other
        for other in rows
        if all(other.get(name) == row.get(name) for name in same)
        and (other.get("median") or other.get("predicted_seconds"))
        and _is_smaller(other, row)
    ]
    if not kin:
        return None
    nearest = max(kin, key=lambda other: (other["pass"] == row["pass"], other["length"], other["status"] == "measured"))
    return (nearest.get("median") or nearest["predicted_seconds"]) * _growth(nearest, row, work)


def _is_smaller(other: dict, row: dict) -> bool:
    """Whether it is the same at a shorter length, or the same without gradients where operations tell how many more
    there are with them."""
    if other["pass"] == row["pass"]:
        return other["length"] < row["length"]
    is_counted = other["flops"] and row["flops"]
    return bool(is_counted) and other["pass"] == "forward" and other["length"] <= row["length"]


def _growth(small: dict, large: dict, work: float) -> float:
    if small["flops"] and large["flops"]:
        return large["flops"] / small["flops"]
    return (large["length"] / small["length"]) ** work * large["batch"] / small["batch"]


def probe(program: Program, flops: float, seed: int) -> float | None:
    """Seconds of a program that nothing is known about, from one call at a length at which it cannot take long, on one
    device: others share the work, but for those that a CPU is."""
    small = dataclasses.replace(program, mesh="")
    while small.dims.query_length > SHORTEST and small.counts()["flops"] > PROBE_FLOPS:
        half = small.dims.query_length // 2
        small = dataclasses.replace(small, dims=small.dims._replace(batch=1, query_length=half, key_length=half))
    if small.refusal() is not None:
        return None
    call = functools.partial(small.compiled[0], *small.operands(seed))
    timing.seconds_of(call)  # a warm-up
    sharing = 1 if jax.devices()[0].platform == "cpu" else mesh.count(program.mesh)
    return timing.seconds_of(call) * flops / small.counts()["flops"] / sharing


def may_be_slow(row: dict) -> bool:
    """Whether a cell that nothing is known about might exceed its budget."""
    return row["flops"] is not None and row["flops"] / PROBE_FLOPS * (row["repeats"] + 1) > row["cell_budget"]
