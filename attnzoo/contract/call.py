"""What is asked of a kernel beside its operands: one tree from the door to the engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.contract.bias import Bias, PositionBias
from attnzoo.contract.dropout import Dropout
from attnzoo.contract.mask import Mask
from attnzoo.contract.shards import Shards

OF_QUERIES = ("dense", "queries", "query_segments")  # of a mask, that lead with [B or 1, N or 1, T, ...]
OF_KEYS = ("keys", "key_segments", "global_tokens")  # and with [B or 1, N or 1, S]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Call:
    """Only what `supports` declares is ever given: the door has refused all else.

    Attributes:
      mask: who may see whom. In a step of decoding it is causal from where each example stands; what a query sees of a
        cache is said by positions.
      bias: added to scores, or None.
      scale: of scores, [], or None for 1 / sqrt(H).
      soft_cap: of scaled products, [], or None for no cap.
      dropout: of weights, or None.
      tokens: what each key brings beside key and value, [B, S, K or N, ...] each.
      shards: where the operands are this device's part of a sequence that is split, or the cache of a step is; only
        kernels that say so (`Kernel.meets`, `Kernel.sums_keys`, `Kernel.meets_cache`) are given any. The mask is that
        of the part, but that its offset is the whole's, and that a dense one, and an array of biases, have the columns
        of all keys.

    Example:
      >>> from attnzoo.contract.call import Call
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> call = Call(Mask(4, 4, is_causal=True))
      >>> out, residual = jax.jit(Softmax().batched)((), (), q, k, v, call)
      >>> bool(jnp.allclose(out, attend(q, k, v, is_causal=True)))
      True
      >>> call.under(SlidingWindow(left=1, right=0).as_softmax(call.mask)).mask.reach
      (1, 0)
    """

    mask: Mask
    bias: Bias | None = None
    scale: jax.Array | None = None
    soft_cap: jax.Array | None = None
    dropout: Dropout | None = None
    tokens: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    shards: Shards | None = None

    def under(self, mask: Mask) -> Call:
        """The same under another mask."""
        return dataclasses.replace(self, mask=mask)

    def bias_at(self, rows: jax.Array, columns: jax.Array) -> Any:
        """Bias of one head for queries `rows` [t] and keys `columns` [s], as `Bias.at` gives it, or None."""
        return None if self.bias is None else self.bias.at(rows, columns, *self.mask.in_whole(rows, columns)[1:])

    def dropout_at(self, rows: jax.Array, columns: jax.Array) -> jax.Array | None:
        """Factors [t, s] of one head for queries `rows` [t] and keys `columns` [s]."""
        index, _, position = self.mask.in_whole(rows, columns)
        return None if self.dropout is None else self.dropout.at(index, position)

    def by_axis(self, of_queries: Callable, of_keys: Callable, others: Callable) -> Call:
        """The same with a function of each leaf: those with an axis of queries, or of keys alone, and others.

        What tokens bring is left as it is.
        """
        mask, bias, tokens = self.mask, self.bias, self.tokens
        rest = jax.tree.map(others, dataclasses.replace(self, tokens={}))
        given = {name: jax.tree.map(of_queries, getattr(mask, name)) for name in OF_QUERIES}
        given |= {name: jax.tree.map(of_keys, getattr(mask, name)) for name in OF_KEYS}
        rest = dataclasses.replace(rest, mask=dataclasses.replace(rest.mask, **given), tokens=tokens)
        if bias is None:
            return rest
        changed: dict[str, Any] = {"projected": jax.tree.map(of_queries, bias.projected)}
        if not isinstance(bias.given, PositionBias):
            changed["given"] = of_queries(bias.given)
        return dataclasses.replace(rest, bias=dataclasses.replace(rest.bias, **changed))

    def by_head(self, num_heads: int) -> Call:
        """The same with all leaves led by [B or 1, N or 1], as loops over heads take it: what is left is one head's."""
        scale, soft_cap = (None if x is None else x[None, None] for x in (self.scale, self.soft_cap))
        tokens = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 1), of_each_head(self.tokens, num_heads))
        return dataclasses.replace(self, scale=scale, soft_cap=soft_cap, tokens=tokens)


def of_each_head(tokens: dict[str, jax.Array], num_heads: int) -> dict[str, jax.Array]:
    """What tokens bring, [B, S, N or K, ...], repeated for the query heads that share it: [B, S, N, ...]."""
    return jax.tree.map(lambda x: jnp.repeat(x, num_heads // x.shape[2], axis=2), tokens)
