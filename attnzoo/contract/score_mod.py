"""Scores by a caller's function of them, of a head and of two positions, in the place of a bias."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.bias import PositionBias
from attnzoo.contract.functions import Program, traced

HALF = 16  # bits of whole numbers that each of several floats holds


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoreMod(PositionBias):
    """A `score_mod`, in the place of a bias: what is added depends on the score, too.

    Leaves are floats, as those of any bias, of which some are learned: whole numbers travel as floats that hold 16 bits
    each.

    Attributes:
      program: what it computes.
      dtype: of the scores that it takes.
      closed_over: what it closes over, [1, parts, ...] each.
      head: which head, [N].
    """

    program: Program = dataclasses.field(metadata={"static": True})
    dtype: Any = dataclasses.field(metadata={"static": True})
    closed_over: tuple[jax.Array, ...]
    head: jax.Array

    depends_on_score = True

    @staticmethod
    def of(function: Callable, num_heads: int, dtype: Any) -> ScoreMod:
        """Of scores in `dtype`. Raises ValueError where the function gives anything but one score."""
        dtype = jnp.dtype(dtype)
        program, closed_over, out = traced("score_mod", function, jax.ShapeDtypeStruct((), dtype))
        if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
            raise ValueError(
                f"score_mod gave {out}: expected one score from score_mod(score, head, query_index, key_index)"
            )
        leaves = tuple(_as_floats(jnp.asarray(x))[None] for x in closed_over)
        return ScoreMod(program, dtype, leaves, jnp.arange(num_heads, dtype=jnp.float32))

    def added_to(self, scores, query_positions, key_positions, projected=None):
        """Scores [t, s] of one head, as the function makes them."""
        closed_over = [_restored(x, dtype) for x, dtype in zip(self.closed_over, self.program.dtypes, strict=True)]
        places = (x.astype(jnp.int32) for x in (self.head, query_positions, key_positions))
        return self.program.over(closed_over, *places, scores.astype(self.dtype)).astype(scores.dtype)


def _as_floats(x: jax.Array) -> jax.Array:
    """[...] -> [parts, ...], floats that hold the same exactly."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x[None]
    if x.dtype != bool and not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"score_mod closes over an array of {x.dtype}: expected floats, whole numbers or bools")
    if x.dtype.itemsize <= 2:
        return x[None].astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(x, _unsigned(x.dtype))
    lowest = np.array((1 << HALF) - 1, bits.dtype)
    shifts = (np.array(shift, bits.dtype) for shift in range(0, 8 * x.dtype.itemsize, HALF))
    return jnp.stack([bits >> shift & lowest for shift in shifts]).astype(jnp.float32)


def _restored(parts: jax.Array, dtype: Any) -> jax.Array:
    """The inverse."""
    if jnp.issubdtype(dtype, jnp.floating):
        return parts[0].astype(dtype)
    if dtype.itemsize <= 2:
        return parts[0].astype(dtype)
    whole = _unsigned(dtype)
    halves = [part.astype(whole) << np.array(HALF * n, whole) for n, part in enumerate(parts)]
    return jax.lax.bitcast_convert_type(functools.reduce(jnp.bitwise_or, halves), dtype)


def _unsigned(dtype: Any) -> Any:
    return jnp.dtype(f"uint{8 * dtype.itemsize}")
