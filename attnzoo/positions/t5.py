"""T5's relative positions: a learned bias for each head and bucket of distances.

    b_ij = table_{bucket(j - i)}

Half of the buckets hold one distance each, n = 0 .. m - 1; the others grow with its logarithm up to `max_distance` D:

    bucket(n) = m + floor((B - m) ln(n / m) / ln(D / m)),    at most B - 1

for n = |j - i| where both sides are told apart, B and m of each being half, and for n = max(i - j, 0) where not. Raffel
et al. 2020, arXiv:1910.10683, section 2.1. T5 leaves scores unscaled, which is `scale=1.0` beside this bias, and has
one table for all layers; a layer here has its own, and layers that are called with one `bias` share it.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract import fields
from attnzoo.contract.bias import PositionBias
from attnzoo.positions.encoding import RelativeEncoding

FURTHEST = 2**20  # the largest `max_distance`: the bucket of every distance up to it is kept


@functools.lru_cache(maxsize=64)
def of_distances(chosen: T5Buckets) -> np.ndarray:
    """The buckets of distances j - i = -max_distance .. max_distance, int [2 max_distance + 1].

    The borders are decided in whole numbers: n starts bucket m + k where n^(B - m) m^k >= D^k m^(B - m).
    """
    steps = chosen.one_side - chosen.exact
    borders = [_border(k, chosen.exact, steps, chosen.max_distance) for k in range(1, steps)]
    n = np.arange(chosen.max_distance + 1)
    near = np.where(n < chosen.exact, n, chosen.exact + np.searchsorted(borders, n, side="right"))
    ahead = near[1:] + chosen.one_side if chosen.bidirectional else np.zeros(chosen.max_distance, int)
    return np.concatenate([near[::-1], ahead]).astype(np.int32)


def _border(k: int, exact: int, steps: int, max_distance: int) -> int:
    """The smallest n with (n / exact)^steps >= (max_distance / exact)^k."""
    reaches = lambda n: n**steps * exact**k >= max_distance**k * exact**steps
    n = round(exact * (max_distance / exact) ** (k / steps))
    while not reaches(n):
        n += 1
    while reaches(n - 1):
        n -= 1
    return n


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class T5Bias(PositionBias):
    """A learned number for each head and bucket of distances.

    Attributes:
      table: float [N, num_buckets].
      max_distance: all further keys are in the last bucket.
      bidirectional: keys before and after the query have buckets of their own; else all after it are in bucket 0.

    Example:
      >>> bias = T5Bias(jnp.arange(4.0), max_distance=8, bidirectional=False)  # of one head: each bucket has its number
      >>> bias(query_positions=jnp.array([8]), key_positions=jnp.array([8, 7, 6, 4, 0])).tolist()
      [[0.0, 1.0, 2.0, 3.0, 3.0]]
    """

    table: jax.Array
    max_distance: int = dataclasses.field(default=128, metadata={"static": True})
    bidirectional: bool = dataclasses.field(default=True, metadata={"static": True})

    def __call__(self, query_positions, key_positions):
        if self.table.ndim != 1:
            raise ValueError(f"T5Bias has {self.table.ndim} axes for one head: expected a table [heads, num_buckets]")
        chosen = T5Buckets(len(self.table), self.max_distance, self.bidirectional)
        by_distance = self.table[of_distances(chosen)]
        distance = key_positions[None, :] - query_positions[:, None]
        return by_distance[jnp.clip(distance, -self.max_distance, self.max_distance) + self.max_distance]


@dataclasses.dataclass(frozen=True)
class T5Buckets(RelativeEncoding):
    """T5's buckets as a choice for layers and models.

    Attributes:
      num_buckets: of both sides together, where they are told apart.
      max_distance: all further keys are in the last bucket.
      bidirectional: as in `T5Bias`; T5's decoder has False.

    Raises:
      ValueError: a field has the wrong type or value, or there are more buckets than distances.

    Example:
      >>> chosen = T5Buckets(num_buckets=8, max_distance=20)
      >>> table = chosen.init(jax.random.key(0), Dims(1, 16, 16, 2, 2, 4, 4))
      >>> q = k = v = jnp.ones((1, 16, 2, 4))
      >>> attend(q, k, v, chosen.bias(table, num_heads=2)).shape
      (1, 16, 2, 4)
    """

    num_buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True

    def __post_init__(self):
        for name in ("num_buckets", "max_distance"):
            fields.positive_integer(self, name)
        fields.truth_value(self, "bidirectional")
        if self.one_side < 2 or (self.bidirectional and self.num_buckets % 2):
            kind = "an even number, at least 4, of which each side has half" if self.bidirectional else "at least 2"
            raise ValueError(f"T5Buckets(num_buckets={self.num_buckets}): num_buckets must be {kind}")
        if not self.exact < self.max_distance <= FURTHEST:
            raise ValueError(
                f"T5Buckets(max_distance={self.max_distance}): max_distance must be more than {self.exact}, the "
                f"distances that have a bucket each, and at most {FURTHEST}"
            )

    @property
    def one_side(self) -> int:
        """Buckets of keys on one side of the query."""
        return self.num_buckets // 2 if self.bidirectional else self.num_buckets

    @property
    def exact(self) -> int:
        """Those of them that hold one distance."""
        return self.one_side // 2

    def init(self, rng, dims):
        return 0.02 * jax.random.normal(rng, (dims.num_heads, self.num_buckets))

    def bias(self, params, num_heads):
        return T5Bias(params, self.max_distance, self.bidirectional)
