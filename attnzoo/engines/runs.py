"""Runs of tokens, one after another, of which none is longer than another by more than one.

Of n runs of L tokens the j-th goes from ceil(j L / n) on, so that token i is in run floor(i n / L).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Runs(NamedTuple):
    """So many of a sequence that has no fewer tokens.

    Example:
      >>> from attnzoo.engines.runs import Runs
      >>> runs = Runs(length=7, number=3)
      >>> runs.starts.tolist(), runs.sizes.tolist()
      ([0, 3, 5, 7], [3, 2, 2])
      >>> runs.beside(tile=4).tolist()  # tokens 0 to 3 are of two runs, and so are 4 to 6
      [[0, 1], [1, 2]]
    """

    length: int
    number: int

    @property
    def are_even(self) -> bool:
        """Whether all are as long."""
        return self.length % self.number == 0

    @property
    def starts(self) -> np.ndarray:
        """The first token of each, and the end, [number + 1]."""
        return self.start(np.arange(self.number + 1))

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each, [number]."""
        return np.diff(self.starts)

    def of(self, token: Any) -> Any:
        """The number of a token's; a token behind the last may have one behind the last."""
        return _over(token * self.number, self.length)

    def start(self, run: Any) -> Any:
        """The first token of a run."""
        return _over(run * self.length + (self.number - 1), self.number)

    def are_few(self, tile: int, most: int) -> bool:
        """Whether no tile of the sequence has tokens of more than so many, which 32 bits suffice to tell."""
        return (self.length + tile) * self.number < 2**31 and self.beside(tile).shape[1] <= most

    def beside(self, tile: int, width: int = 0) -> np.ndarray:
        """Those that have tokens in each tile, int [tiles, width], -1 behind the last; wider where a tile has more."""
        start = np.arange(0, self.length, tile)
        first, last = self.of(start), self.of(np.minimum(start + tile, self.length) - 1)
        found = first[:, None] + np.arange(max(width, (last - first).max() + 1))
        return np.where(found <= last[:, None], found, -1)

    def weights(self, beside: np.ndarray) -> jax.Array:
        """What the mean of each run has of the sum of each part, float32 [number, *parts], where parts are of runs
        `beside`.
        """
        column = lambda x: x.reshape(-1, *(1,) * beside.ndim)
        return jnp.where(beside == column(jnp.arange(self.number)), column(1 / self.sizes.astype(np.float32)), 0.0)


def _over(x: Any, by: int) -> Any:
    """x // by of what is not negative: of whole numbers, of NumPy's, and of those that a kernel has."""
    return jax.lax.div(x, np.int32(by)) if isinstance(x, jax.Array) else x // by
