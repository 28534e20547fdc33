"""Settings to rows: the engine over each size of tile and each number of pairs in a step."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator

import jax

from attnzoo import Mask
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Band
from attnzoo.engines import schedule, streaming
from experiments.bench import timing
from experiments.bench.experiment import Cell, Experiment, Run
from experiments.show import caveats, units
from experiments.tiles.settings import Settings

WINDOW = 256
# Attributes of the mask; how many times the length that was asked for; the size of a tile that the library takes.
WORKS = {
    "full": ({}, 1, streaming.TILE),
    "causal": ({"is_causal": True}, 1, streaming.TILE),
    "window": ({"is_causal": True, "bands": (Band(WINDOW, 0),)}, 4, WINDOW),
}
BUDGET = 60.0  # seconds that the repetitions of a cell may take
CHOSEN = ("heads", "head_dim", "dtype", "repeats", "seed")  # settings in a row


class Tiles(Experiment):
    """All cells of a work take turns, and are drawn with what earlier runs have left in the folder."""

    name = "tiles"
    key = ("work", "tile", "pairs", "length", *CHOSEN, "platform", "device", "cores")
    columns = ("tile", "pairs", "is_rule")
    caveats = (caveats.MACHINE,)
    leaves = "rows and figure"
    is_cumulative = True

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        """Tiles that fit into a step and into the sequence: a step holds one pair of tiles at least."""
        shared = {name: getattr(settings, name) for name in CHOSEN} | {"cell_budget": BUDGET}
        found = []
        for work, tile, pairs in itertools.product(settings.works, settings.tiles, settings.pairs):
            _, times, rule = WORKS[work]
            row = shared | {"work": work, "tile": tile, "pairs": pairs, "length": times * settings.length}
            if tile**2 <= pairs and tile <= row["length"]:
                found.append(Cell(row | {"is_rule": tile == rule and pairs == schedule.PAIRS}))
        yield found

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        for _, group in itertools.groupby(todo, key=lambda cell: cell.row["work"]):
            yield from timing.in_turns(group, _prepare, settings.repeats)

    def describe(self, row: dict) -> str:
        told = units.seconds_text(row["median"]) if row["status"] == "measured" else row["reason"]
        return f"{row['work']}, tiles of {row['tile']}, {row['pairs']:,} pairs in a step: {told}"


def _prepare(cell: Cell) -> timing.Call:
    """The compiled program of a cell; the row takes what compiling took."""
    row = cell.row
    attributes, _, _ = WORKS[row["work"]]
    mask = Mask(row["length"], row["length"], **attributes)
    layout_of = functools.partial(streaming.natural_layout, tile=(row["tile"],) * 2, pairs=row["pairs"])

    def program(q, k, v):
        score, params = streaming.dot_product(q)
        return streaming.over_heads(score, params, q, k, v, Call(mask), layout_of)[0]

    keys = jax.random.split(jax.random.key(row["seed"]), 3)
    shape = (1, row["length"], row["heads"], row["head_dim"])
    operands = [jax.random.normal(key, shape, row["dtype"]) for key in keys]
    start = time.perf_counter()
    compiled = jax.jit(program).lower(*operands).compile()
    row["compile_seconds"] = time.perf_counter() - start
    row["temporary_bytes"] = compiled.memory_analysis().temp_size_in_bytes
    return functools.partial(compiled, *operands)


EXPERIMENT = Tiles()
run = EXPERIMENT.run
