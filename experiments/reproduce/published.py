"""The published results, as this project has copied them from the papers: `published.csv`, a result a line.

LRA's tables are 1, 2 and 3 of Tay et al. 2021, arXiv:2011.04006; the small models are what Xiong et al. 2021,
arXiv:2102.03902, got from code of their own; the last line is figure 2 of Arora et al. 2023, arXiv:2312.04927.
"""

from __future__ import annotations

import csv
import functools
import pathlib
from typing import NamedTuple

FILE = pathlib.Path(__file__).with_name("published.csv")
ACCURACY, SMALL, SPEED, MEMORY, MQAR = TABLES = ("accuracy", "accuracy, small", "speed", "memory", "mqar")
TASKS = ("listops", "text", "retrieval", "image", "pathfinder")  # of LRA
REFERENCE = "softmax"  # the model that speed and memory are told relative to


class Published(NamedTuple):
    """One published number.

    Attributes:
      source: where it stands, with `arxiv`, the number of the paper.
      table: one of `TABLES`.
      task: what was learned, or timed.
      length: tokens of an example.
      model: the name that the table gives it.
      metric: what was measured, in `unit`.
      value: percent, steps per second, or GB.
      note: what a reader of the table should know.
    """

    source: str
    arxiv: str
    table: str
    task: str
    length: int
    model: str
    metric: str
    value: float
    unit: str
    note: str

    @property
    def is_ratio(self) -> bool:
        """Whether only its ratio to softmax carries over from one machine to another."""
        return self.table in (SPEED, MEMORY)

    @property
    def group(self) -> str:
        """What --only calls it."""
        return self.table if self.is_ratio else self.task + "-small" * (self.table == SMALL)


@functools.cache
def results() -> tuple[Published, ...]:
    """All of them, in the order of the file."""
    with FILE.open(newline="") as file:
        return tuple(
            Published(**line | {"length": int(line["length"]), "value": float(line["value"])})
            for line in csv.DictReader(file)
        )


def ratio(result: Published) -> float:
    """A speed or a memory over that of softmax, at the same length of the same table."""
    [softmax] = [
        other.value
        for other in results()
        if (other.table, other.length, other.model) == (result.table, result.length, REFERENCE)
    ]
    return result.value / softmax
