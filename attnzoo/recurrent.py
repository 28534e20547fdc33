"""Kernels that keep a state in place of keys: all that follows from the rule by which tokens write and read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from attnzoo.contract.call import Call
from attnzoo.contract.support import Support
from attnzoo.engines import dense, recurrence, slots
from attnzoo.kernel import Kernel

# What rules support whose keys are added up, in any order.
SUMMED = Support(
    causal=True,
    key_mask=True,
    segments=True,
    cross=True,
    decode=True,
    work=1.0,
    memory=1.0,
    why="its keys are summed before any query meets them",
)
# And those that stand for an order in time.
IN_TIME = dataclasses.replace(
    SUMMED,
    bidirectional=False,
    scale=True,
    why="its keys are written into one state in the order of time, before any query meets them",
)


def scaled(scale: jax.Array | None) -> Callable[..., tuple[jax.Array, ...]]:
    """`Rule.read` of queries as they are, times `scale`, 1 / sqrt(H) where None."""
    return lambda q, at: (q * dense.scale_of(scale, q),)


@dataclasses.dataclass(frozen=True)
class Recurrent(Kernel):
    """A kernel whose state has one size however many tokens came: `rule` says of one head what `head` says of it.

    Sequences take O(T + S), and decoding keeps the state (`engines/recurrence.py`). Where the order of tokens matters
    to the rule, as it does with decays, `supports` says bidirectional=False.

    Example:
      >>> import dataclasses
      >>> from attnzoo.engines.recurrence import Rule
      >>> from attnzoo.engines.state import Channels, Write
      >>> @dataclasses.dataclass(frozen=True)
      ... class Sum(Recurrent):
      ...     supports = Support(causal=True, key_mask=True, decode=True, work=1.0, memory=1.0)
      ...
      ...     def head(self, params, draws, q, k, v, visible):
      ...         return (q @ k.T * visible) @ v
      ...
      ...     def rule(self, params, draws, scale):
      ...         return Rule(read=lambda q, at: (q,), write=lambda k, v, at: Write((v,), (Channels(k),)))
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> attend(q, k, v, kernel=Sum(), is_causal=True)[0, :, 0, 0].tolist()
      [8.0, 16.0, 24.0, 32.0]
      >>> Sum().state_bytes(Dims.of(q, k, v))  # 4 N H Hv
      512.0
    """

    def rule(self, params, draws, scale) -> recurrence.Rule:
        """How the tokens of one head write and read its state, from what that head has learned and drawn.

        `scale` is that of the call, a number or None.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no `rule`: say how a head writes and reads there")

    def batched(self, params, draws, q, k, v, call):
        return recurrence.attend(self._rule_of(call), (params, draws), q, k, v, call)

    def meets(self, shards, mask):
        return recurrence.meets(shards, mask)

    def sums_keys(self, mask):
        return slots.sees_all(mask)

    def start(self, params, draws, dims, max_length, dtype):
        """The state of each key head, or of each query head where these differ in more than queries."""
        shapes = {name: x.shape for name, x in self.token_inputs(dims).items()}
        is_shared = not shapes and all(len(x) == 1 for x in jax.tree.leaves((params, draws)))
        heads = dims.num_key_value_heads if is_shared else dims.num_heads
        sizes = dims.batch, heads, dims.head_dim, dims.value_dim
        return recurrence.start(self._rule_of(None), (params, draws), *sizes, dtype, shapes)

    def step(self, params, draws, cache, q, k, v, positions, call):
        return recurrence.step(self._rule_of(call), (params, draws), cache, q, k, v, positions, call)

    def _rule_of(self, call: Call | None):
        scale = None if call is None else call.scale
        return lambda constants: self.rule(constants[0], constants[1], scale)
