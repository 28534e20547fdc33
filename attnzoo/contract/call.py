"""What is asked of a kernel beside its operands: one tree from the door to the engines."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo.contract.bias import Bias
from attnzoo.contract.dropout import Dropout
from attnzoo.contract.mask import Mask


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

    def under(self, mask: Mask) -> Call:
        """The same under another mask."""
        return dataclasses.replace(self, mask=mask)

    def by_head(self, num_heads: int) -> Call:
        """The same with all leaves led by [B or 1, N or 1], as loops over heads take it: what is left is one head's."""
        scale, soft_cap = (None if x is None else x[None, None] for x in (self.scale, self.soft_cap))
        tokens = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 1), of_each_head(self.tokens, num_heads))
        return dataclasses.replace(self, scale=scale, soft_cap=soft_cap, tokens=tokens)


def of_each_head(tokens: dict[str, jax.Array], num_heads: int) -> dict[str, jax.Array]:
    """What tokens bring, [B, S, N or K, ...], repeated for the query heads that share it: [B, S, N, ...]."""
    return jax.tree.map(lambda x: jnp.repeat(x, num_heads // x.shape[2], axis=2), tokens)
