"""A mask by a caller's function of a head and two positions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from attnzoo.contract.functions import Program, traced


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaskMod:
    """A `mask_mod`, of all heads, where leaves lead with [1, 1 or N]; of a single head they lead with nothing.

    Attributes:
      program: what it computes.
      num_heads: N.
      closed_over: what it closes over.
      head: which head, int32.

    Example:
      >>> from attnzoo.contract.mask_mod import MaskMod
      >>> prefix = MaskMod.of(lambda head, i, j: (j <= i) | (j < 2), num_heads=1)
      >>> prefix.at(jnp.arange(3), jnp.arange(4))[0, 0].astype(int)
      Array([[1, 1, 0, 0],
             [1, 1, 0, 0],
             [1, 1, 1, 0]], dtype=int32)
    """

    program: Program = dataclasses.field(metadata={"static": True})
    num_heads: int = dataclasses.field(metadata={"static": True})
    closed_over: tuple[jax.Array, ...]
    head: jax.Array

    @staticmethod
    def of(function: Callable, num_heads: int) -> MaskMod:
        """Raises ValueError where the function gives anything but one bool."""
        program, closed_over, out = traced("mask_mod", function)
        if getattr(out, "shape", None) != () or out.dtype != bool:
            raise ValueError(
                f"mask_mod gave {out}: expected one bool from mask_mod(head, query_index, key_index), of whole numbers"
            )
        leaves = tuple(jnp.asarray(x)[None, None] for x in closed_over)
        return MaskMod(program, num_heads, leaves, jnp.arange(num_heads, dtype=jnp.int32)[None])

    def at(self, i: jax.Array, j: jax.Array) -> jax.Array:
        """Whether queries at positions i [t] may see keys at positions j [s]: bool [..., t, s]."""
        over = lambda closed_over, head: self.program.over(closed_over, head, i.astype(jnp.int32), j.astype(jnp.int32))
        if self.head.ndim == 0:
            return over(self.closed_over, self.head)
        closed_over = [x[0, 0] for x in self.closed_over]
        return jax.vmap(functools.partial(over, closed_over))(self.head[0])[None]
