"""Settings to rows: the cells of each claim, one claim after another."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.bench import records
from experiments.bench.experiment import Cell, Experiment, Run
from experiments.claims import recall, regression, speed
from experiments.claims.settings import Settings
from experiments.show import caveats

CLAIMS = {"speed": speed, "recall": recall, "regression": regression}


class Claims(Experiment):
    """What is said about attention and recurrent networks."""

    name = "claims"
    key = tuple(dict.fromkeys(name for module in CLAIMS.values() for name in module.KEY))  # of a row of any claim
    columns = ("claim",)
    caveats = (caveats.MACHINE, caveats.SMALL)

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        for claim in settings.claims:
            yield [cell._replace(row=cell.row | {"claim": claim}) for cell in CLAIMS[claim].cells(settings)]

    def title(self, cells: list[Cell]) -> str:
        return cells[0].row["claim"]

    def identity(self, row: dict) -> tuple:
        """What makes two rows of one claim the same cell."""
        claim = CLAIMS.get(row.get("claim"))
        return records.cell(row, claim.KEY if claim else self.key)

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        if todo:
            yield from CLAIMS[todo[0].row["claim"]].rows(settings, todo)

    def describe(self, row: dict) -> str:
        where = {"speed": "length", "recall": "seed", "regression": "bandwidth"}[row["claim"]]
        what = f"{row['kernel']}, {where} {row[where]:,}"
        if row["status"] != "measured":
            return f"{what}: {row['status']}, {row['reason']}"
        told = {
            "speed": lambda: f"{row['tokens_per_second']:,.0f} tokens per second",
            "recall": lambda: "recalled " + ", ".join(f"{x:.0%}" for x in row["accuracies"]),
            "regression": lambda: f"error {row['error']:.3f}",
        }
        return f"{what}: {told[row['claim']]()}"


EXPERIMENT = Claims()
run = EXPERIMENT.run
