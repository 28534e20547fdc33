"""Which of many rows are shown beside each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def most(
    rows: list[dict], group: Callable[[dict], Any], then: Callable[[list[dict]], Any] = lambda own: 0
) -> list[dict]:
    """Rows of the group in which the most kernels are; of several, in which `then` is most."""
    groups: dict[Any, list[dict]] = {}
    for row in rows:
        groups.setdefault(group(row), []).append(row)
    return max(groups.values(), key=lambda own: (len({row["kernel"] for row in own}), then(own)), default=[])


def nearest(rows: list[dict], length: int, along: str = "length") -> list[dict]:
    """Rows of the length that is nearest by its logarithm."""
    near = min({row[along] for row in rows}, key=lambda each: abs(math.log(each / length)), default=None)
    return [row for row in rows if row[along] == near]
