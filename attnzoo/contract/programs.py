"""A program as jax has written it down, run again with a rule of one's own for its operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core

# Programs inside others, and where they stand there. Their own rules of differentiation are left to jax.
INNER = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def run(closed: core.ClosedJaxpr, args: Sequence[Any], rule: Callable[..., list[Any]]) -> list[Any]:
    """What a program gives where `rule(equation, operands)` says what each of its operations does.

    Args:
      rule: it is asked for operations, and not for programs inside, whose operations it is asked for in turn.

    Example:
      >>> from attnzoo.contract import programs
      >>> closed = jax.make_jaxpr(lambda x: jnp.sin(x) + 1.0)(0.0)
      >>> named = []
      >>> def noted(equation, operands):
      ...     named.append(equation.primitive.name)
      ...     return programs.usual(equation, operands)
      >>> [float(x) for x in programs.run(closed, [jnp.zeros(())], noted)], named
      ([1.0], ['sin', 'add'])
    """
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars + jaxpr.invars, [*closed.consts, *args], strict=True))
    read = lambda x: x.val if isinstance(x, core.Literal) else values[x]
    for equation in jaxpr.eqns:
        found = of_one(equation, list(map(read, equation.invars)), rule)
        values |= dict(zip(equation.outvars, found, strict=True))
    return list(map(read, jaxpr.outvars))


def of_one(equation: Any, operands: Sequence[Any], rule: Callable[..., list[Any]]) -> list[Any]:
    """What one operation of it gives, or a program inside."""
    name = equation.primitive.name
    return run(equation.params[INNER[name]], operands, rule) if name in INNER else rule(equation, list(operands))


def usual(equation: Any, operands: list[Any]) -> list[Any]:
    """What the operation does."""
    found = equation.primitive.bind(*operands, **equation.params)
    return found if equation.primitive.multiple_results else [found]
