"""Why a kernel has no number: what rows say, and where there is none, what the catalogue says of the call."""

from __future__ import annotations

import functools
from typing import NamedTuple

from attnzoo import Dims
from experiments.accuracy import run as accuracy
from experiments.bench.program import Program
from experiments.report import picking
from experiments.scaling import run as scaled
from experiments.show import calls

NOTHING = "not measured"


class Why(NamedTuple):
    """How a cell ended, in a word or two, and the reason, which may be empty."""

    status: str
    reason: str = ""

    @property
    def text(self) -> str:
        """Both, in one sentence."""
        return f"{self.status}: {self.reason}" if self.reason else self.status


def broken(rows: list[dict]) -> dict[str, dict]:
    """Of each kernel that is refused because of a law, a row that says so and is the last of its cell."""
    found = {}
    for experiment in (accuracy.EXPERIMENT, scaled.EXPERIMENT):
        for row in experiment.last(filter(experiment.wrote, rows)).values():
            if row["status"] == "refused" and "law" in row:
                found[row["kernel"]] = row
    return found


def timed(rows: list[dict], kernels: dict[str, str], length: int, is_causal: bool) -> dict[tuple[str, str], Why]:
    """By name and pass, why a kernel was not timed where all rows are causal, or none is.

    Args:
      rows: of one setting.
      kernels: a form of each kernel by its name.
      length: at which rows are looked at, the nearest.
    """
    own = [row for row in rows if row["is_causal"] is is_causal]
    near = {(row["name"], row["pass"]): row for row in picking.nearest(own, length)}
    passes = dict.fromkeys(row["pass"] for row in own)
    found = {}
    for name, kernel in kernels.items():
        for passed in passes:
            row = near.get((name, passed))
            if row is None:
                found[name, passed] = _asked(kernel, _dims(own[0]), own[0]["dtype"], is_causal)
            elif row["status"] != "measured":
                found[name, passed] = Why(row["status"], row["reason"].split(". ")[0])
    return found


def _dims(row: dict) -> Dims:
    lengths, widths = [row["length"]] * 2, [row["head_dim"]] * 2
    return Dims(row["batch"], *lengths, row["heads"], row["num_kv_heads"], *widths)


@functools.cache  # with gradients it is the same
def _asked(kernel: str, dims: Dims, dtype: str, is_causal: bool) -> Why:
    """What the catalogue says of a call like that of a row; no row was written where it has nothing against it."""
    found = calls.known(kernel)
    if found is None:
        return Why(NOTHING)
    refusal = Program(found, dims, dtype, is_causal, is_train=False).refusal()
    return Why("refused", refusal.split(". ")[0]) if refusal else Why(NOTHING)
