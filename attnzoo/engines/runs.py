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
      >>> runs.beside(tile=4, tiles=2, most=2).tolist()  # tokens 0 to 3 are of two runs, and so are 4 to 6
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

    def beside(self, tile: int, tiles: int, most: int) -> np.ndarray:
        """Those that have tokens in each tile of the sequence, int [tiles, most], -1 behind the last of a tile."""
        first, last = self._ends(tile, tiles)
        found = first[:, None] + np.arange(most)
        return np.where(found <= last[:, None], found, -1)

    def most(self, tile: int, tiles: int) -> int:
        """Those that have tokens in one tile, at most."""
        first, last = self._ends(tile, tiles)
        return int((last - first).max()) + 1

    def weights(self, beside: np.ndarray) -> jax.Array:
        """What the mean of each run has of the sum of each part, float32 [number, *parts], where parts are of runs
        `beside`.
        """
        column = lambda x: x.reshape(-1, *(1,) * beside.ndim)
        return jnp.where(beside == column(jnp.arange(self.number)), column(1 / self.sizes.astype(np.float32)), 0.0)

    def _ends(self, tile: int, tiles: int) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last run of each tile, which has tokens."""
        first = np.arange(tiles) * tile
        return self.of(first), self.of(np.minimum(first + tile, self.length) - 1)


def _over(x: Any, by: int) -> Any:
    """x // by of what is not negative: of whole numbers, of NumPy's, and of those that a kernel has."""
    return jax.lax.div(x, np.int32(by)) if isinstance(x, jax.Array) else x // by
