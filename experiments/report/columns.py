"""What is known of kernels at one length, a column for each number."""

from __future__ import annotations

from typing import NamedTuple

EXACT = "softmax"  # what others are compared with


class Found(NamedTuple):
    """What a column has of a kernel: its text and number, the form that was measured, where its interval ends, whether
    it is of another setting than the others and is not to be compared with them, and each seed's number if trained.
    """

    text: str
    value: float
    kernel: str
    low: float
    high: float
    is_apart: bool = False
    by_seed: dict[int, float] = {}


class Column(NamedTuple):
    """What is found by the names of kernels, and whether any may be called best.

    Attributes:
      metric: what models are scored by, accuracy or bits; empty where nothing is trained.
      is_causal: whether tokens see the past alone; None where that is all the same.
    """

    head: str
    found: dict[str, Found]
    metric: str = ""
    is_decided: bool = True
    is_causal: bool | None = None

    @property
    def is_more_better(self) -> bool:
        """Whether the greatest number is the best."""
        return self.metric == "accuracy"

    def is_like(self, other: Column) -> bool:
        """Whether tokens see alike."""
        return self.is_causal is other.is_causal
