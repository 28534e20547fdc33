"""Whether what is given of the past feels the future, at cuts that are drawn all over a sequence.

A leak may be of a few tokens, of the first block, or of one example of a batch: so each example, and each of its heads,
has a cut of its own in each call, and what follows the cut is changed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from attnzoo.testing.subject import Subject

CUTS, ROUNDS = 64, (4, 16)  # as many places as that, in so many calls at least, and at most


def drawn(length: int, *entries: int) -> np.ndarray:
    """Cuts [rounds, *entries] from 1 to length - 1, both among them: as far apart as they can be, each anywhere in its
    part of the sequence; all that there are, where rounds have room for them."""
    places, each = max(length - 1, 0), math.prod(entries)
    rounds = min(max(ROUNDS[0], -(-CUTS // each)), ROUNDS[1], -(-places // each))
    edges = np.arange(rounds * each + 1) * places // max(rounds * each, 1)
    rng = np.random.default_rng(length)
    cuts = 1 + rng.integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1))
    cuts[:1], cuts[-1:] = 1, length - 1
    return rng.permutation(cuts).reshape(rounds, *entries)


def is_later(shape: tuple[int, ...], cuts: np.ndarray) -> np.ndarray:
    """Whether entries of an array [B, T, ...] stand at the cut of their example or after it: bool [B, T, 1...].

    Args:
      cuts: [B]; or [B, K] for an array [B, T, N, ...], each that of N / K heads beside each other.
    """
    if cuts.ndim == 2:
        cuts = np.repeat(cuts, shape[2] // cuts.shape[1], axis=1)
    at = np.expand_dims(cuts, 1)
    later = np.arange(shape[1]).reshape(-1, *(1,) * (at.ndim - 2)) >= at
    return later.reshape(*later.shape, *(1,) * (len(shape) - later.ndim))


def untouched(
    subject: Subject, before: np.ndarray, after: Callable[[np.ndarray], np.ndarray], cuts: np.ndarray, rounding: float
) -> None:
    """Hold what is given before cuts to be the same whatever follows them.

    Args:
      before: what is given, [B, T, ...], or [B, T, N, ...] where heads have cuts of their own.
      after: what is given where all from cuts [B], or [B, K], on is changed.
      cuts: [rounds, B] or [rounds, B, K].
    """
    length = before.shape[1]
    for cut in cuts:
        given = after(cut)
        at = cut if cut.ndim == 1 else np.repeat(cut, before.shape[2] // cut.shape[1], axis=1)
        for entry in itertools.product(*map(range, at.shape)):
            past: Any = (entry[0], np.s_[: at[entry]], *entry[1:])
            where = ", ".join(f"{name} {one}" for name, one in zip(("example", "head"), entry, strict=False))
            what = f"output of {where} before token {at[entry]} of {length}, after a change of all from there on,"
            subject.same(given[past], before[past], what, rounding)
