"""Masks and scores as functions of a head and two positions, which both libraries take: FlexAttention's contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

PREFIX = 512  # tokens that all see
WINDOW = 256  # tokens that a query sees, itself one of them
DOCUMENT = 384  # tokens in a document, on the average


class Pattern(NamedTuple):
    """What a library is asked for: functions of whole numbers, without the example.

    Attributes:
      mask: whether a query may see a key, from a head and their two positions.
      score: the score, from itself, a head and two positions; None where it stays.
    """

    mask: Callable
    score: Callable | None = None


def causal(length: int, asarray: Callable[[np.ndarray], Any]) -> Pattern:
    """The past, and the query's own place."""
    return Pattern(lambda h, i, j: j <= i)


def window(length: int, asarray: Callable[[np.ndarray], Any]) -> Pattern:
    """As many tokens of it as the window has."""
    return Pattern(lambda h, i, j: (j <= i) & (i - j < WINDOW))


def prefix(length: int, asarray: Callable[[np.ndarray], Any]) -> Pattern:
    """The past, and a prefix that all see."""
    return Pattern(lambda h, i, j: (j <= i) | (j < PREFIX))


def documents(length: int, asarray: Callable[[np.ndarray], Any]) -> Pattern:
    """Causal, of packed documents whose ends are drawn."""
    starts = np.random.default_rng(0).random(length) < 1 / DOCUMENT
    ids = asarray(np.cumsum(starts).astype(np.int32))
    return Pattern(lambda h, i, j: (ids[i] == ids[j]) & (j <= i))


def alibi(length: int, asarray: Callable[[np.ndarray], Any]) -> Pattern:
    """Causal, less a slope of each head times the distance (Press et al. 2022, arXiv:2108.12409)."""
    slopes = asarray(np.exp2(-np.arange(1, 9)).astype(np.float32))
    return Pattern(lambda h, i, j: j <= i, lambda s, h, i, j: s - slopes[h] * (i - j))


PATTERNS = {function.__name__: function for function in (causal, window, prefix, documents, alibi)}
