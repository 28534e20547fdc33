"""Recalling the beginning: a few symbols, then noise, then a cue for each, at which the symbols are to be said again.

    s_1 .. s_k   n_1 .. n_D   cue .. cue   ->   ...   s_1 .. s_k

A batch is a pure function of seed, split and index. Chance is one in `SYMBOLS`.
"""

from __future__ import annotations

import numpy as np

SYMBOLS = 16  # what is to be recalled: tokens 0 .. 15
NOISE = 16  # what stands between: tokens 16 .. 31
CUE = SYMBOLS + NOISE
VOCABULARY = CUE + 1
COUNT = 8  # symbols to recall
SPLITS = ("train", "test")


def batch(seed: int, split: str, index: int, count: int, distance: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs and targets int [count, COUNT + distance + COUNT], and where targets count."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index, distance])
    symbols = rng.integers(SYMBOLS, size=(count, COUNT))
    noise = rng.integers(SYMBOLS, CUE, size=(count, distance))
    cues = np.full((count, COUNT), CUE)
    inputs = np.concatenate([symbols, noise, cues], axis=1).astype(np.int32)
    targets = np.zeros_like(inputs)
    targets[:, -COUNT:] = symbols
    weights = np.zeros(inputs.shape, np.float32)
    weights[:, -COUNT:] = 1
    return inputs, targets, weights
