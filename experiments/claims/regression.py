"""A noisy curve by Nadaraya and Watson's estimate, which is attention, against the bandwidth."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from attnzoo import NadarayaWatson, attend
from experiments.bench.experiment import Cell, one_by_one

KEY = ("claim", "bandwidth", "seed")
BANDWIDTHS = tuple(round(0.02 * 2 ** (step / 2), 4) for step in range(15))  # 0.02 to 2.56
POINTS, GRID, NOISE = 60, 200, 0.35


def truth(x: np.ndarray) -> np.ndarray:
    """The curve that noise is added to, on [0, 5]."""
    return np.sin(2 * x) + 0.4 * x


def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and noisy values."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(0, 5, POINTS))
    return x, truth(x) + NOISE * rng.normal(size=POINTS)


def cells(settings) -> Iterator[Cell]:
    """Every bandwidth for every seed."""
    for seed in range(settings.seeds):
        for bandwidth in BANDWIDTHS:
            yield Cell({"kernel": repr(NadarayaWatson(bandwidth)), "bandwidth": bandwidth, "seed": seed})


def rows(settings, todo: list[Cell]) -> Iterator[dict]:
    """The rows of cells."""
    return one_by_one(todo, _estimated)


def _estimated(cell: Cell) -> dict:
    """The error on a grid, and the one that data alone can tell, each point left out in turn."""
    grid, bandwidth = np.linspace(0, 5, GRID), cell.row["bandwidth"]
    x, y = sample(cell.row["seed"])
    estimate = regressed(grid, x, y, bandwidth)
    left_out = regressed(x, x, y, bandwidth, mask=~np.eye(POINTS, dtype=bool))
    error, told = (float(np.sqrt(np.mean(square))) for square in ((estimate - truth(grid)) ** 2, (left_out - y) ** 2))
    return {"status": "measured", "error": error, "left_out_error": told, "estimate": estimate.tolist()}


def regressed(at: np.ndarray, x: np.ndarray, y: np.ndarray, bandwidth: float, mask=None) -> np.ndarray:
    """Attention: places asked for are queries, places seen are keys, values seen are values."""
    query, key, value = (jnp.asarray(array, jnp.float32)[:, None, None] for array in (at, x, y))
    return np.asarray(attend(query, key, value, kernel=NadarayaWatson(bandwidth), mask=mask))[:, 0, 0]
