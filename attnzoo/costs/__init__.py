"""What a call of a kernel costs: operations counted from its program, and bytes that cannot stay where they are."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.contract.sizes import Dims
from attnzoo.costs import counting
from attnzoo.door import validation
from attnzoo.door.attention import attend
from attnzoo.kernel import Kernel


class Cost(NamedTuple):
    """Forward cost of a whole call.

    Attributes:
      flops: floating-point operations, a multiply-add counted as two.
      bytes: of operands, of what is learned or drawn, and of the result, each moved once.
      state_bytes: size of the cache that decodes `key_length` tokens; None where decoding is refused.

    Example:
      >>> dims = Dims(1, 4, 4, 2, 2, 8, 8)
      >>> cost = cost_of(Softmax(), dims)
      >>> cost.bytes, cost.state_bytes  # four arrays of [1, 4, 2, 8] in float32, of which the state keeps two
      (1024.0, 512.0)
    """

    flops: float
    bytes: float
    state_bytes: float | None


def cost_of(kernel: Kernel, dims: Dims, *, is_causal: bool = False, dtype=jnp.float32) -> Cost:
    """The cost of `attend` with `kernel`, of the program that it traces to: nothing is compiled or run.

    Args:
      dims: sizes of the call.
      is_causal: as in `attend`.
      dtype: of query, key and value.

    Raises:
      NotImplementedError: the kernel does not support such a call.
      ValueError: `kernel` is none; the program has a `while` loop, whose trip count is not known.

    Example:
      >>> dims = Dims(1, 1024, 1024, 8, 8, 64, 64)
      >>> round(cost_of(Softmax(), dims).flops / 1e9, 2)  # products take 4 T^2 N H = 2.15
      2.19
    """
    validation.kernel(kernel)
    q, k, v = operands(dims, dtype)
    params = jax.eval_shape(lambda: kernel.init(jax.random.key(0), dims))
    call = lambda q, k, v, params, tokens: attend(
        q, k, v, kernel=kernel, params=params, tokens=tokens, is_causal=is_causal
    )
    flops = counting.flops(call, q, k, v, params, tokens(kernel, dims, dtype))
    return Cost(flops, bytes_moved(kernel, dims, dtype), kernel.state_bytes(dims, dtype))


def bytes_moved(kernel: Kernel, dims: Dims, dtype=jnp.float32) -> float:
    """Bytes of operands, of what is learned or drawn, and of the result: the least that a call moves."""
    q, k, v = operands(dims, dtype)
    out = jax.ShapeDtypeStruct((*q.shape[:3], dims.value_dim), dtype)
    constants = jax.eval_shape(lambda rng: (kernel.init(rng, dims), kernel.draw(rng, dims)), jax.random.key(0))
    moved = q, k, v, tokens(kernel, dims, dtype), out, constants
    return float(sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(moved)))


def operands(dims: Dims, dtype=jnp.float32) -> list[jax.ShapeDtypeStruct]:
    """Shapes of query, key and value."""
    queries = dims.batch, dims.query_length, dims.num_heads
    keys = dims.batch, dims.key_length, dims.num_key_value_heads
    shapes = (*queries, dims.head_dim), (*keys, dims.head_dim), (*keys, dims.value_dim)
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]


def tokens(kernel: Kernel, dims: Dims, dtype=jnp.float32) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of what each key token brings, for every query head."""
    leading = dims.batch, dims.key_length, dims.num_heads
    return {name: jax.ShapeDtypeStruct((*leading, *x.shape), dtype) for name, x in kernel.token_inputs(dims).items()}
