"""How the scores of a task are drawn: what an axis of them says, and whether it tells right or wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from experiments.show import shares, statistics
from experiments.train.sweep.analysis import LABELS, tested


class Scale(NamedTuple):
    """Of all figures of one task.

    Attributes:
      metric: what scores are.
      is_wrong: whether shares are told by how much is wrong.
    """

    metric: str
    is_wrong: bool

    @classmethod
    def of(cls, measured: list[dict]) -> Scale:
        """That of captioned rows, by the means over seeds at each width and length."""
        metric, found = measured[0]["metric"], {}
        for length, rows in tested(measured).items():
            for row in rows:
                place = row["width"], row["length"], length
                found.setdefault(row["label"], {}).setdefault(place, []).append(row["score"])
        means = [[statistics.mean(scores).value for scores in places.values()] for places in found.values()]
        return cls(metric, metric == "accuracy" and shares.are_crowded(means))

    def axis(self, panel, along: str, drawn: Iterable[float]) -> None:
        """Finish an axis, "x" or "y", once everything is drawn; `drawn` are the scores of seeds."""
        best = {"x": "right", "y": "top"}[along]
        panel.set(**{f"{along}label": LABELS["bits"] if self.metric == "bits" else shares.label(self.is_wrong, best)})
        if self.is_wrong:
            shares.wrong_axis(panel, along, drawn)
        elif self.metric == "accuracy":
            shares.right_axis(panel, along)
