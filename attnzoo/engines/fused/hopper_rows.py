"""What a Hopper GPU's kernel makes itself of rows that it has loaded: features, normalised outputs, their gradients.

A rule is a program of one head's tokens. What it does with their rows, each for itself and by operations that a
warpgroup knows, the kernel does in registers, so that rows pass through the device's memory once. What it does without
rows, such as with positions and what tokens bring beside them, is a number for each token, which XLA makes before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from attnzoo.contract import programs
from attnzoo.engines.fused import warpgroups
from attnzoo.engines.fused.warpgroups import ROWS

TOKENS = 61  # for which a program is written down, a number that no width is, so that tokens are told from channels
# What a warpgroup does with each number by itself, and with what it is told of one or more of them.
ALONE = frozenset(
    "abs add add_any and convert_element_type copy copy_p cos div eq exp exp2 ge gt integer_pow le log lt max min mul "
    "ne neg not or rsqrt select_n sign sin sqrt square stop_gradient sub tanh".split()
)
STANDING = frozenset(("broadcast_in_dim", "reshape", "squeeze"))


class Rows(NamedTuple):
    """A program of tokens: of rows [t, W], first of all, and numbers [t], to such.

    Attributes:
      made: the program. pulled: from its operands, and the gradients of what it gives, to theirs.
    """

    made: core.ClosedJaxpr
    pulled: core.ClosedJaxpr

    def __call__(self, *operands: Any) -> list[Any]:
        """What it makes of rows that a warpgroup has in registers."""
        return programs.run(self.made, operands, _rule)

    def gradients(self, operands: list[Any], pulled: list[Any]) -> list[Any]:
        """Those of operands, in float32."""
        rounded = [x.astype(like.aval.dtype) for x, like in zip(pulled, self.made.jaxpr.outvars, strict=True)]
        return programs.run(self.pulled, [*operands, *rounded], _rule)

    @property
    def widths(self) -> list[int]:
        """Of the rows that it gives."""
        return [x.aval.shape[1] for x in self.made.jaxpr.outvars]


class Parted(NamedTuple):
    """A program of which a kernel does what is done with rows.

    Attributes:
      rows: that, of rows and what else it needs; None where it hands rows on.
      places: where what else it needs is made: a leaf of the operands by number, or an operation and its result.
      read: of each of these, the numbers of the leaves that it depends on.
    """

    rows: Rows | None
    places: list[tuple[int, ...]]
    read: list[frozenset[int]]


def parted(function: Callable, like: Callable[[int], Any], own: Sequence[int]) -> Parted | None:
    """What a kernel does of `function(*operands)`, which gives rows; None where it cannot.

    Args:
      like: the shapes of operands, from a number of tokens.
      own: which of their leaves the kernel has, rows first of all.
    """
    closed = jax.make_jaxpr(function)(*like(TOKENS))
    jaxpr = closed.jaxpr
    equations = list(_living(jaxpr))
    operands = [jaxpr.invars[place] for place in own]
    inside, there = [], set(operands)
    for equation in equations:
        if not there.isdisjoint(_variables(equation)) or not all(map(_is_number, equation.outvars)):
            inside.append(equation)
            there.update(equation.outvars)
    known = {x: _scalar(value) for x, value in zip(jaxpr.constvars, closed.consts, strict=True)}
    needed = dict.fromkeys(x for each in inside for x in _variables(each) if x not in there)
    consts = [x for x in needed if known.get(x) is not None]
    given = [x for x in needed if known.get(x) is None]
    where, read = _places(jaxpr), _read(jaxpr)
    is_made = all(_is_variable(x) and own[0] in read[x] for x in jaxpr.outvars)
    if not is_made or not all(x in where and _is_vector(x) for x in given) or not all(map(_is_done, inside)):
        return None
    if all(each.primitive.name == "convert_element_type" for each in inside) and len(jaxpr.outvars) == 1:
        return Parted(None, [], [])
    made = jaxpr.replace(constvars=consts, invars=[*operands, *given], outvars=jaxpr.outvars, eqns=inside)
    rows = _with_gradients(core.ClosedJaxpr(made, [known[x] for x in consts]))
    return rows and Parted(rows, [where[x] for x in given], [read[x] for x in given])


def read_by(function: Callable, like: Any) -> list[frozenset[int]]:
    """The numbers of the leaves of operands that each result of `function(*like)` depends on."""
    jaxpr = jax.make_jaxpr(function)(*like).jaxpr
    found = _read(jaxpr)
    return [found[x] if _is_variable(x) else frozenset() for x in jaxpr.outvars]


def beside(function: Callable, like: Any, leaves: list[jax.Array], places: list[tuple[int, ...]]) -> list[jax.Array]:
    """What a kernel needs beside rows, float32 [T] each, of all tokens."""
    closed = jax.make_jaxpr(function)(*like)
    where = {place: x for x, place in _places(closed.jaxpr).items()}
    jaxpr = closed.jaxpr.replace(outvars=[where[place] for place in places])
    jaxpr = jaxpr.replace(eqns=list(_living(jaxpr)))  # what is made of rows may vary over a mesh, as these do not
    made = programs.run(core.ClosedJaxpr(jaxpr, closed.consts), leaves, programs.usual)
    return [x.reshape(len(x)).astype(jnp.float32) for x in made]


def _with_gradients(program: core.ClosedJaxpr) -> Rows | None:
    """The same of operands in float32, which a kernel has; None where a warpgroup does not know all of it."""
    like = program.jaxpr.invars

    def made(*operands):
        return core.jaxpr_as_fun(program)(*(x.astype(y.aval.dtype) for x, y in zip(operands, like, strict=True)))

    def pulled(operands, d_outs):
        return list(jax.vjp(made, *operands)[1](d_outs))

    operands = [jax.ShapeDtypeStruct(x.aval.shape, jnp.float32) for x in like]
    outs = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in program.jaxpr.outvars]
    found = Rows(jax.make_jaxpr(made)(*operands), jax.make_jaxpr(pulled)(operands, outs))
    return found if all(_is_done(x) for closed in found for x in closed.jaxpr.eqns) else None


def _living(jaxpr: Any) -> Iterator[Any]:
    """Operations on which results depend."""
    needed, living = set(filter(_is_variable, jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if needed & set(equation.outvars):
            living.append(equation)
            needed.update(_variables(equation))
    yield from reversed(living)


def _places(jaxpr: Any) -> dict[Any, tuple[int, ...]]:
    """Where each variable is made, which is the same for any number of tokens."""
    places: dict[Any, tuple[int, ...]] = {x: (i,) for i, x in enumerate(jaxpr.invars)}
    return places | {x: (i, j) for i, each in enumerate(jaxpr.eqns) for j, x in enumerate(each.outvars)}


def _read(jaxpr: Any) -> dict[Any, frozenset[int]]:
    """The numbers of the operands that each variable depends on."""
    read: dict[Any, frozenset[int]] = dict.fromkeys(jaxpr.constvars, frozenset())
    read |= {x: frozenset((i,)) for i, x in enumerate(jaxpr.invars)}
    for equation in jaxpr.eqns:
        all_read = frozenset().union(*(read[x] for x in _variables(equation)))
        read |= dict.fromkeys(equation.outvars, all_read)
    return read


def _is_variable(x: Any) -> bool:
    return not isinstance(x, core.Literal)


def _variables(equation: Any) -> list[Any]:
    return list(filter(_is_variable, equation.invars))


def _scalar(x: Any) -> Any:
    """A number that is known; None of any other array."""
    is_known = not isinstance(x, jax.core.Tracer) and np.ndim(x) == 0
    return np.asarray(x)[()] if is_known else None


def _is_vector(x: Any) -> bool:
    """Whether it is a number for each token."""
    return x.aval.shape in ((TOKENS,), (TOKENS, 1))


def _is_number(x: Any) -> bool:
    return x.aval.shape == () or _is_vector(x)


def _is_done(equation: Any) -> bool:
    """Whether a warpgroup knows an operation."""
    name = equation.primitive.name
    if name in programs.INNER:
        inner = equation.params[programs.INNER[name]]
        return all(_scalar(x) is not None for x in inner.consts) and all(map(_is_done, inner.jaxpr.eqns))
    if name == "reduce_sum":
        return equation.params["axes"] == (1,)
    if not all(_is_number(x) or (len(x.aval.shape) == 2 and x.aval.shape[0] == TOKENS) for x in equation.outvars):
        return False
    if name == "broadcast_in_dim" and (size := equation.invars[0].aval.shape):
        return size[0] == TOKENS and equation.params["broadcast_dimensions"][0] == 0
    return name in ALONE or name in STANDING


def _rule(equation: Any, operands: list[Any]) -> list[Any]:
    """An operation of a warpgroup, to which [t, 1] is [t]."""
    name, shape = equation.primitive.name, equation.outvars[0].aval.shape
    x = operands[0]
    if name in STANDING:
        return [_standing(x, shape[1:], equation.invars[0].aval.shape)]
    if name == "reduce_sum":
        return [x.sum(axis=1) if equation.invars[0].aval.shape[1] > 1 else x]
    if name in ("copy", "copy_p", "stop_gradient"):
        return [x]
    if name == "add_any":
        return [x + operands[1]]
    if name == "convert_element_type" and jnp.issubdtype(equation.params["new_dtype"], jnp.bool_):
        return [x != 0]  # a compiler would have registers of one bit
    if name == "integer_pow":
        return [_power(x, equation.params["y"])]
    rows = next((x.shape for x in operands if np.ndim(x) == 2), None)
    if rows is not None:
        operands = [_along(x, rows) if np.ndim(x) == 1 else x for x in operands]
    return programs.usual(equation, operands)


def _power(x: jax.Array, exponent: int) -> jax.Array:
    """Of whole numbers a compiler knows but few."""
    if exponent <= 0:
        return 1 / _power(x, -exponent) if exponent else jnp.ones_like(x)
    return functools.reduce(jnp.multiply, [x] * exponent)


def _standing(x: Any, width: tuple[int, ...], before: tuple[int, ...]) -> Any:
    """Rows of a width, or a number for each token where that is 1, of a number for all of them or for each."""
    shape = (ROWS,) if width in ((), (1,)) else (ROWS, *width)
    if not before:
        return warpgroups.filled(x, *shape) if jnp.result_type(x) == jnp.float32 else jnp.full(shape, x)
    return x if x.shape == shape else _along(x, shape)


def _along(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    is_bool = x.dtype == bool
    wide = warpgroups.spread(jnp.where(x, 1.0, 0.0).astype(jnp.float32) if is_bool else x, shape)
    return wide != 0 if is_bool else wide
