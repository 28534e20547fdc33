"""Linformer: keys and values projected along the length to a fixed rank.

    y_i = sum_r softmax_r(scale q_i . (E K)_r) (F V)_r,    E, F learned, [rank, longest S]

Cost O((T + S) rank H). Wang et al. 2020, arXiv:2006.04768, eq. 7. Hidden keys and values are zero before E and F; a
shorter input uses the first S columns. Every key is mixed with every other, so there is no causal form.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo.contract import fields
from attnzoo.contract.support import Support
from attnzoo.engines import few
from attnzoo.kernel import Kernel

SHARING = ("none", "kv", "heads")


@dataclasses.dataclass(frozen=True)
class Linformer(Kernel):
    """Keys and values projected along the length to `rank` of them.

    Learned for inputs up to the key length at `init`; a longer one is refused. `share` is "none" (E and F for each
    head), "heads" (one E and one F), or "kv" (one E for keys and values of all heads), the paper's headwise and
    key-value sharing.

    Raises:
      ValueError: `rank` is no integer >= 1, or there is no such `share`; in a call, there are more keys than at `init`.

    Example:
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> kernel = Linformer(rank=3)
      >>> params = kernel.init(jax.random.key(0), Dims.of(q, k, v))
      >>> params["key"].shape
      (2, 3, 4)
      >>> attend(q, k, v, kernel=kernel, params=params).shape
      (1, 4, 2, 8)
      >>> attend(q, k, v, kernel=kernel, params=params, is_causal=True)
      Traceback (most recent call last):
      NotImplementedError: Linformer cannot honour `is_causal`: its keys are mixed along the length before ...
    """

    rank: int = 64
    share: str = "none"

    supports = Support(
        key_mask=True,
        scale=True,
        soft_cap=True,
        cross=True,
        work=1.0,
        memory=1.0,
        why="its keys are mixed along the length before any query meets them",
    )

    def __post_init__(self):
        fields.positive_integer(self, "rank")
        fields.one_of(self, "share", SHARING)

    def init(self, rng, dims):
        """Projections {"key": E, "value": F} of [N or 1, rank, S], or {"key": E} where keys and values share it."""
        names = ("key",) if self.share == "kv" else ("key", "value")
        shape = (dims.num_heads if self.share == "none" else 1, self.rank, dims.key_length)
        keys = jax.random.split(rng, len(names))
        return {name: jax.random.normal(key, shape) * self.rank**-0.5 for name, key in zip(names, keys, strict=True)}

    def head(self, params, draws, q, k, v, visible, *, scale, soft_cap):
        key, value = ((self._columns(x, len(k)) @ y) for x, y in self._pairs(params, k, v))
        # Hidden keys, which the door has set to zero, have added nothing to those that all see.
        return few.of_head(q, key, value, scale, soft_cap).astype(v.dtype)

    def batched(self, params, draws, q, k, v, call):
        pairs, shards = self._pairs(params, k, v), call.shards
        if shards is None:
            key, value = (few.projected(self._columns(x, k.shape[1]), y) for x, y in pairs)
        else:
            own = lambda x: shards.part(shards.filled(self._columns(x, shards.key_length), 2), 2)
            key, value = shards.summed([few.projected(own(x), y) for x, y in pairs])
        return few.over_heads(q, key, value, call).astype(v.dtype)

    def meets(self, shards, mask):
        return True

    def sums_keys(self, mask):
        return True

    def _pairs(self, params, k, v):
        """E, in float32 at least, beside keys and F beside values."""
        precise = jnp.promote_types(k.dtype, jnp.float32)
        projections = params["key"], params.get("value", params["key"])
        return [(x.astype(precise), y) for x, y in zip(projections, (k, v), strict=True)]

    def _columns(self, projection, length):
        longest = projection.shape[-1]
        if length > longest:
            raise ValueError(
                f"Linformer was initialised for at most {longest} keys, key has {length}: initialise it with dims of "
                "the longest key length that it will meet"
            )
        return projection[..., :length]
