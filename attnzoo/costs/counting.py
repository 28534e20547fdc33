"""What a program costs, read off its jaxpr: nothing is compiled or run.

XLA's own analysis counts the body of a loop once, whatever its length, which makes chunked programs look cheap. Here
a scan counts its body times its length, and a cond its most expensive branch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

# One floating-point operation for each element of the result.
ELEMENTWISE = frozenset(
    "abs acos acosh add add_any asin asinh atan atan2 atanh cbrt ceil cos cosh digamma div erf erf_inv erfc exp exp2 "
    "expm1 floor integer_pow lgamma log log1p logistic max min mul neg pow rem round rsqrt sign sin sinh sqrt square "
    "sub tan tanh".split()
)
# One for each element of the operand.
REDUCTIONS = frozenset(
    "reduce_sum reduce_max reduce_min reduce_prod argmax argmin cumsum cummax cummin cumprod".split()
)
# One for each element that is added.
SCATTERS = frozenset("scatter-add scatter_add scatter_mul scatter-mul".split())


def flops(function: Callable, *args) -> float:
    """Floating-point operations of `function(*args)`; arguments may be `jax.ShapeDtypeStruct`.

    A multiply-add counts two; exponentials and the like count one; integers, comparisons and copies count nothing.

    Raises:
      ValueError: the program has a `while` loop, whose trip count is not known.

    Example:
      >>> from attnzoo.costs.counting import flops
      >>> flops(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)))
      48.0
    """
    return flops_of(jax.make_jaxpr(function)(*args).jaxpr)


def flops_of(jaxpr) -> float:
    """Floating-point operations of a jaxpr."""
    return float(sum(_flops_of_equation(equation) for equation in jaxpr.eqns))


def largest_intermediate(function: Callable, *args) -> int:
    """Elements of the largest value that `function(*args)` computes, inside loops too."""
    return largest_of(jax.make_jaxpr(function)(*args).jaxpr)


def largest_of(jaxpr) -> int:
    """Elements of the largest value in a jaxpr."""
    return max(_sizes(jaxpr), default=0)


def _flops_of_equation(equation) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        (contracting, _), _ = equation.params["dimension_numbers"]
        operand = equation.invars[0].aval.shape
        return 2.0 * _size(equation.outvars[0]) * math.prod(operand[axis] for axis in contracting)
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
        return 2.0 * _size(equation.outvars[0]) * math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    if name == "triangular_solve":
        return float(_size(equation.outvars[0]) * equation.invars[0].aval.shape[-1])
    if name == "pallas_call":
        return math.prod(equation.params["grid_mapping"].grid) * flops_of(equation.params["jaxpr"])
    if name == "shard_map":
        return equation.params["mesh"].size * flops_of(equation.params["jaxpr"])
    if name == "scan":
        return equation.params["length"] * flops_of(equation.params["jaxpr"].jaxpr)
    if name == "cond":
        return max(flops_of(branch.jaxpr) for branch in equation.params["branches"])
    if name == "while":
        raise ValueError("the program has a while loop: its trip count is not known, so its work cannot be counted")
    inner = list(_inner(equation))
    if inner:
        return sum(map(flops_of, inner))
    return float(_flops_of_elements(name, equation))


def _flops_of_elements(name, equation) -> int:
    if not any(jnp.issubdtype(variable.aval.dtype, jnp.inexact) for variable in equation.outvars[:1]):
        return 0
    if name in ELEMENTWISE:
        return _size(equation.outvars[0])
    if name in REDUCTIONS:
        return _size(equation.invars[0])
    if name in SCATTERS:
        return _size(equation.invars[2])
    return 0


def _inner(equation) -> Iterator:
    """The programs that an equation holds: jit, remat, custom derivatives and the like."""
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def _sizes(jaxpr) -> Iterator[int]:
    for equation in jaxpr.eqns:
        yield from map(_size, equation.outvars)
        for inner in _inner(equation):
            yield from _sizes(inner)


def _size(variable) -> int:
    return math.prod(getattr(variable.aval, "shape", ()))
