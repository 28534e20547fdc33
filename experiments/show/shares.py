"""Axes of accuracies: of shares that are right, or, where kernels crowd near 1, of shares that are wrong.

From 99% to 99.9% it is as far as from 0% to 90%: of wrong answers one in ten is left. So where two kernels reach
`CROWDED`, or the only one, an axis tells the share that is wrong, on a logarithmic scale, best at the top or the right
as ever. Data stay shares that are right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from matplotlib import ticker

CROWDED = 0.9
TICKS = 9  # of a part of an axis that is 1, 2 and 5 times powers of ten; of more, these powers alone


def are_crowded(reached: list[list[float]]) -> bool:
    """Whether two kernels reach `CROWDED`, or the only one, by the mean scores of each."""
    return sum(max(scores) >= CROWDED for scores in reached) >= min(2, len(reached))


def label(is_wrong: bool, best: str) -> str:
    """What an axis says; `best` is where its best end is, "top" or "right"."""
    return f"share of answers that are wrong, best at the {best}" if is_wrong else "share of answers that are right"


def right_axis(panel, along: str) -> None:
    """An axis, "x" or "y", of shares, which end at 0 and 1, once everything is drawn."""
    low, high = getattr(panel, f"get_{along}lim")()
    panel.set(**{f"{along}lim": (max(low, -0.03), min(high, 1.03))})


def wrong_axis(panel, along: str, drawn: Iterable[float]) -> None:
    """An axis, "x" or "y", of shares by their distance from 1, once everything is drawn.

    It is logarithmic down to the least share that is wrong, and linear below, so that none has a place.

    Args:
      drawn: the shares that are right.
    """
    least = min((1 - share for share in drawn if share < 1), default=1 - CROWDED)
    place = lambda share: -np.arcsinh((1 - np.asarray(share)) / least)
    share = lambda place: 1 - least * np.sinh(-np.asarray(place))
    getattr(panel, f"set_{along}scale")("function", functions=(place, share))
    ends = place(getattr(panel.dataLim, f"interval{along}"))
    margin = panel.margins()["xy".index(along)] * np.ptp(ends)
    low, high = map(float, share((ends[0] - margin, ends[1] + margin)))
    panel.set(**{f"{along}lim": (low, high)})
    ticks = [1.0, *_ticks(max(least, 1 - high), min(1.0, 1 - low))]
    axis = getattr(panel, f"{along}axis")
    axis.set_major_locator(ticker.FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_major_formatter(ticker.FuncFormatter(lambda tick, _: f"{100 * (1 - tick):.6g}%" if tick < 1 else "none"))
    axis.set_minor_locator(ticker.NullLocator())


def _ticks(fewest: float, most: float) -> list[float]:
    """Shares that are right, of which so many are wrong."""
    powers = range(math.floor(math.log10(fewest)), math.ceil(math.log10(most)) + 1)
    for factors in ((1, 2, 5), (1,)):
        wrong = [factor * 10.0**power for power in powers for factor in factors]
        found = [1 - share for share in wrong if fewest * (1 - 1e-9) <= share <= most * (1 + 1e-9)]
        if len(found) <= TICKS:
            break
    return found
