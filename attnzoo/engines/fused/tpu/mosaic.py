"""A program as the kernel of a TPU runs it: in words that its compiler knows, and as precise as is asked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from attnzoo.contract import programs
from attnzoo.engines import heads
from attnzoo.engines.fused.tpu.folding import SUBLANES

OUTER = (((1,), (1,)), ((), ()))  # a b^T
INNER = (((0,), (0,)), ((), ()))  # a^T b
PLAIN = (((1,), (0,)), ((), ()))  # a b


def run(kernel: Callable, *operands: Any) -> Any:
    """What a kernel gives; its whole numbers have 32 bits, whatever jax's default is: no compiler takes others."""
    with jax.enable_x64(False):
        return kernel(*operands)


def dot(a: jax.Array, b: jax.Array, dimensions: Any) -> jax.Array:
    """A product summed in float32; of float32, precise, whatever the default is where the kernel is traced."""
    dtype = jnp.promote_types(a.dtype, b.dtype)
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), dimensions, precision, preferred_element_type=jnp.float32
    )


class Program(NamedTuple):
    """What a chunk does, as a kernel runs it.

    Attributes:
      closed: the program; what is known to it are arrays of the kernel.
      out: the structure of what it gives.
    """

    closed: core.ClosedJaxpr
    out: Any

    @staticmethod
    def of(function: Callable, *example: Any) -> Program:
        closed, out = run(jax.make_jaxpr(function, return_shape=True), *example)
        return Program(closed, jax.tree.structure(out))

    @property
    def known(self) -> list[jax.Array]:
        """Arrays, which lead with [1, 1]."""
        return [jnp.asarray(x)[None, None] for x in self.closed.consts]

    @property
    def products(self) -> int:
        """Operations of its products."""
        return sum(_operations(x) for x in _equations(self.closed.jaxpr) if x.primitive.name == "dot_general")

    def __call__(self, known: list[Any], *operands: Any) -> Any:
        """What it gives; `known` are the arrays as the kernel has them."""
        closed = core.ClosedJaxpr(self.closed.jaxpr, known)
        return jax.tree.unflatten(self.out, programs.run(closed, jax.tree.leaves(operands), _rule))


def _equations(jaxpr: core.Jaxpr) -> Iterator[Any]:
    """Those of a program, and of programs inside."""
    for equation in jaxpr.eqns:
        inner = equation.params.get(programs.INNER.get(equation.primitive.name, ""))
        yield from [equation] if inner is None else _equations(inner.jaxpr)


def _operations(product: Any) -> int:
    """Multiplications and additions of a product."""
    (contracted, _), _ = product.params["dimension_numbers"]
    x, out = product.invars[0].aval, product.outvars[0].aval
    return 2 * math.prod(out.shape) * math.prod(x.shape[axis] for axis in contracted)


def _rule(equation: Any, operands: list[Any]) -> list[Any]:
    """An operation in words that a TPU's compiler knows."""
    name = equation.primitive.name
    if name == "dot_general":
        return [_product(*operands, **equation.params)]
    if name in ROWS and equation.params["axes"] == (1,) and _is_matrix(operands[0]):
        return [ROWS[name](operands[0])]
    if name in ("reshape", "squeeze", "broadcast_in_dim"):
        x, (out,) = jnp.asarray(operands[0]), equation.outvars  # jax 0.12 has numbers of Python among constants
        if x.shape == out.aval.shape:
            return [x]
        if _is_matrix(x) and x.shape[1] == out.aval.ndim == 1:
            return [_row_sums(x)]
        if x.dtype == bool:
            return [programs.usual(equation, [x.astype(jnp.int32)])[0] != 0]
    return programs.usual(equation, operands)


def _is_matrix(x: jax.Array) -> bool:
    """Whether x is [t, w], of real numbers."""
    return x.ndim == 2 and x.shape[0] > 1 and jnp.issubdtype(x.dtype, jnp.floating)


def _row_sums(x: jax.Array) -> jax.Array:
    """Of each row [t, w]."""
    return _along_lanes(jnp.ones(x.shape[1], x.dtype), x).astype(x.dtype)


def _along_lanes(y: jax.Array, x: jax.Array) -> jax.Array:
    """x [t, w] times y [w], as rows are: the other way around they would be a column, which a TPU v4 cannot turn."""
    rows = jnp.broadcast_to(y[None], (SUBLANES, len(y)))
    return _product(rows, x, dimension_numbers=OUTER, preferred_element_type=jnp.float32)[0]


ROWS: dict[str, Callable] = {"reduce_sum": _row_sums, "reduce_max": lambda x: x.T.max(axis=0)}


def _product(x: jax.Array, y: jax.Array, *, dimension_numbers, preferred_element_type, **_: Any) -> jax.Array:
    """A product summed in float32, precise where an operand is."""
    (contracted, _), (batched, _) = dimension_numbers
    if not contracted and not batched:  # is no product of matrices to the compiler
        x, y = map(heads.precise, (x, y))
        outer = jnp.expand_dims(x, tuple(range(x.ndim, x.ndim + y.ndim))) * jnp.expand_dims(y, tuple(range(x.ndim)))
        return outer.astype(preferred_element_type)
    if (x.ndim, y.ndim, tuple(contracted)) == (2, 1, (1,)):
        return _along_lanes(y, x).astype(preferred_element_type)
    # Where one was rounded, as in gradients, the other is two numbers that are.
    dtype = min(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)
    found: Any = sum(dot(*each, dimension_numbers) for each in itertools.product(_parts(x, dtype), _parts(y, dtype)))
    return found.astype(preferred_element_type)


def _parts(x: jax.Array, dtype: Any) -> list[jax.Array]:
    """Numbers of a type whose sum has twice its digits; x alone where it is of that type."""
    rounded = x.astype(dtype)
    return [x] if x.dtype == dtype else [rounded, (x - rounded.astype(x.dtype)).astype(dtype)]
