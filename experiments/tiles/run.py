"""Settings to rows: the engine over each size of tile and each number of pairs in a step."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
import time

import jax

from attnzoo import Mask
from attnzoo.compute import schedule, streaming
from attnzoo.masking import Band
from experiments.bench import locks, parsing, progress, provenance, records, timing
from experiments.show import units
from experiments.tiles import plot

WINDOW = 256
# Attributes of the mask; how many times the length that was asked for; the size of a tile that the library takes.
WORKS = {
    "full": ({}, 1, streaming.TILE),
    "causal": ({"is_causal": True}, 1, streaming.TILE),
    "window": ({"is_causal": True, "bands": (Band(WINDOW, 0),)}, 4, WINDOW),
}
KEY = (
    "work",
    "tile",
    "pairs",
    "length",
    "heads",
    "head_dim",
    "dtype",
    "repeats",
    "seed",
    "platform",
    "device",
    "cores",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to sweep."""

    works: tuple[str, ...]
    tiles: tuple[int, ...]
    pairs: tuple[int, ...]
    length: int
    heads: int
    head_dim: int
    dtype: str
    repeats: int
    seed: int
    out: str

    def __post_init__(self):
        parsing.at_least(1, length=self.length, heads=self.heads, head_dim=self.head_dim)
        parsing.at_least(5, repeats=self.repeats)
        parsing.at_least(0, seed=self.seed)


def run(settings: Settings) -> int:
    """Time each work's cells that are missing, in turns, then draw; 1 if a cell failed."""
    out = pathlib.Path(settings.out)
    with locks.writing(out):
        environment = provenance.environment()
        todo = missing(settings, environment, records.read(out))
        with progress.over(todo.items(), f"tiles: {sum(map(len, todo.values()))} cells to do") as each:
            for _, rows in each:
                ready = [(row | found, call) for row in rows for found, call in [_ready(row)]]
                for row in timing.take_turns(ready, settings.repeats):
                    records.append(out, row)
                    each.say(describe(row))
        rows = list(records.latest(records.read(out), KEY).values())
    plot.draw(rows, out)
    print(f"rows and figure: {out}")
    return int(any(row["status"] == "failed" for row in rows))


def missing(settings: Settings, environment: dict, rows: list[dict]) -> dict[str, list[dict]]:
    """Cells of each work without a measured row. A step holds one pair of tiles at least."""
    done = {key for key, row in records.latest(rows, KEY).items() if row["status"] == "measured"}
    shared = {name: getattr(settings, name) for name in ("heads", "head_dim", "dtype", "repeats", "seed")}
    todo = {}
    for work, tile, pairs in itertools.product(settings.works, settings.tiles, settings.pairs):
        _, times, rule = WORKS[work]
        row = environment | shared | {"work": work, "tile": tile, "pairs": pairs, "length": times * settings.length}
        row |= {"is_rule": tile == rule and pairs == schedule.PAIRS, "cell_budget": 60.0}
        if tile**2 <= pairs and tile <= row["length"] and records.cell(row, KEY) not in done:
            todo.setdefault(work, []).append(row)
    return todo


def _ready(row: dict):
    """The compiled program of a cell, and what compiling took."""
    attributes, _, _ = WORKS[row["work"]]
    mask = Mask(row["length"], row["length"], **attributes)
    layout_of = functools.partial(streaming.natural_layout, tile=(row["tile"],) * 2, pairs=row["pairs"])

    def program(q, k, v):
        score, params = streaming.dot_product(None, q)
        return streaming.over_heads(score, params, q, k, v, mask, None, None, layout_of)[0]

    keys = jax.random.split(jax.random.key(row["seed"]), 3)
    shape = (1, row["length"], row["heads"], row["head_dim"])
    operands = [jax.random.normal(key, shape, row["dtype"]) for key in keys]
    start = time.perf_counter()
    compiled = jax.jit(program).lower(*operands).compile()
    found = {"compile_seconds": time.perf_counter() - start}
    found["temporary_bytes"] = compiled.memory_analysis().temp_size_in_bytes
    return found, functools.partial(compiled, *operands)


def describe(row: dict) -> str:
    """A line on a row."""
    told = units.seconds_text(row["median"]) if row["status"] == "measured" else row["reason"]
    return f"{row['work']}, tiles of {row['tile']}, {row['pairs']:,} pairs in a step: {told}"
