"""What a Hopper GPU's kernel makes itself of rows that it has loaded: features, normalised outputs, their gradients.

A rule is a program of one head's tokens. What it does with their rows, each for itself and by operations that a
warpgroup knows, the kernel does in registers, so that rows pass through the device's memory once. What it does without
rows, such as with positions and what tokens bring beside them, is a number for each token, which XLA makes before. A
matrix that all tokens of a head are multiplied with, such as one of random features, is held in shared memory by
kernels that know of it (`blocks`), and so are those that pick columns (`picked`).
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
from attnzoo.engines.fused.hopper import picked, warpgroups
from attnzoo.engines.fused.hopper.warpgroups import ROWS

WIDEST = 256  # channels that a block of threads holds sums of
TOKENS = 61  # for which a program is written down, a number that no width is, so that tokens are told from channels
# What a warpgroup does with each number by itself, and with what it is told of one or more of them.
ALONE = frozenset(
    "abs add add_any and convert_element_type copy copy_p cos div eq exp exp2 ge gt integer_pow le log lt max min mul "
    "ne neg not one_minus_square or reshard rsqrt select_n sign sin sqrt square stop_gradient sub tanh".split()
)
STANDING = frozenset(("broadcast_in_dim", "reshape", "squeeze"))
REDUCED = {"reduce_sum": jnp.add, "reduce_max": jnp.maximum}
FACTORS = {"mul": 2, "div": 1, "neg": 1, "convert_element_type": 1}  # operands in each of which these are linear


class Rows(NamedTuple):
    """A program of tokens: of rows [t, W], first of all, numbers [t] and matrices, to rows and numbers.

    Attributes:
      made: the program. pulled: from its operands, and the gradients of what it gives, in float32, to theirs, without
        those of matrices.
    """

    made: core.ClosedJaxpr
    pulled: core.ClosedJaxpr

    def __call__(self, *operands: Any) -> list[Any]:
        """What it makes of rows that a warpgroup has in registers."""
        return programs.run(self.made, operands, rule)

    def gradients(self, operands: list[Any], pulled: list[Any]) -> list[Any]:
        """Those of operands, in float32."""
        return programs.run(self.pulled, [*operands, *pulled], rule)

    @property
    def is_factor(self) -> bool:
        """Whether it gives the first rows times numbers that depend on none of them."""
        jaxpr = self.made.jaxpr
        scaled = {jaxpr.invars[0]}
        for equation in jaxpr.eqns:
            own = [x for x in equation.invars if _is_variable(x) and x in scaled]
            if not own:
                continue
            if len(own) > 1 or own[0] not in equation.invars[: FACTORS.get(equation.primitive.name, 0)]:
                return False
            scaled.update(equation.outvars)
        return scaled.issuperset(jaxpr.outvars)

    @property
    def width(self) -> int:
        """Of the rows that it is given, which may be filled up to that."""
        return self.made.jaxpr.invars[0].aval.shape[1]

    @property
    def widths(self) -> list[int]:
        """Of the rows that it gives."""
        return [x.aval.shape[1] for x in self.made.jaxpr.outvars if x.aval.ndim > 1]


class Parted(NamedTuple):
    """A program of which a kernel does what is done with rows.

    Attributes:
      rows: that, of rows and what else it needs; None where it hands rows on.
      places: where what else it needs is made: a leaf of the operands by number, or an operation and its result.
      read: of each of these, the numbers of the leaves that it depends on.
      fixed: the numbers of leaves that are matrices of a head, which it needs, too.
      known: matrices, and vectors of channels, which it needs last.
    """

    rows: Rows | None
    places: list[tuple[int, ...]]
    read: list[frozenset[int]]
    fixed: tuple[int, ...] = ()
    known: tuple[np.ndarray, ...] = ()


def parted(function: Callable, like: Callable[[int], Any], own: Sequence[int]) -> Parted | None:
    """What a kernel does of `function(*operands)`, which gives rows; None where it cannot.

    Args:
      like: the shapes of operands, from a number of tokens.
      own: which of their leaves the kernel has, rows first of all.
    """
    closed = jax.make_jaxpr(function)(*like(TOKENS))
    jaxpr, known = closed.jaxpr, _known(closed)
    equations = [each for each in _living(jaxpr) if not known.keys() >= set(each.outvars)]
    operands = [jaxpr.invars[place] for place in own]
    inside, there = [], set(operands)
    for equation in equations:
        is_of_rows = not there.isdisjoint(_variables(equation)) or not all(map(_is_number, equation.outvars))
        if is_of_rows or _is_filled(equation, known):
            inside.append(equation)
            there.update(equation.outvars)
    needed = dict.fromkeys(x for each in inside for x in _variables(each) if x not in there)
    consts = [x for x in needed if x in known]
    where, read = _places(jaxpr), _read(jaxpr)
    fixed = [x for x in needed if _is_matrix(x) and x in jaxpr.invars]
    given = [x for x in needed if x not in known and x not in fixed]
    is_made = all(_is_variable(x) and own[0] in read[x] for x in jaxpr.outvars)
    if not is_made or not all(x in where and _is_vector(x) for x in given):
        return None
    if all(each.primitive.name == "convert_element_type" for each in inside) and len(jaxpr.outvars) == 1:
        return Parted(None, [], [])
    made = jaxpr.replace(constvars=consts, invars=[*operands, *given, *fixed], outvars=jaxpr.outvars, eqns=inside)
    program = core.ClosedJaxpr(made, [known[x] for x in consts])
    whole = picked.wide(program, ROWS, WIDEST) if picked.picks(program) else (program, [])
    rows = whole and _with_gradients(whole[0], len(fixed) + len(whole[1]))
    if not whole or not rows:
        return None
    numbers = tuple(where[x][0] for x in fixed)
    return Parted(rows, [where[x] for x in given], [read[x] for x in given], numbers, tuple(whole[1]))


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


def _with_gradients(program: core.ClosedJaxpr, fixed: int) -> Rows | None:
    """The same of operands in float32, which a kernel has, the last ones `fixed`; None where a warpgroup does not know
    all of it.
    """
    like = program.jaxpr.invars
    changed = len(like) - fixed

    def made(*operands):
        return core.jaxpr_as_fun(program)(*(x.astype(y.aval.dtype) for x, y in zip(operands, like, strict=True)))

    def pulled(operands, d_outs):
        of_changed = lambda *x: made(*x, *operands[changed:])
        rounded = [x.astype(y.aval.dtype) for x, y in zip(d_outs, program.jaxpr.outvars, strict=True)]
        return list(jax.vjp(of_changed, *operands[:changed])[1](rounded))

    precise = lambda x: jax.ShapeDtypeStruct(x.aval.shape, jnp.float32)
    operands, outs = list(map(precise, like)), list(map(precise, program.jaxpr.outvars))
    found = [jax.make_jaxpr(made)(*operands), jax.make_jaxpr(pulled)(operands, outs)]
    found = [core.ClosedJaxpr(x.jaxpr.replace(eqns=list(_living(x.jaxpr))), x.consts) for x in found]
    return Rows(*found) if all(_is_done(x) for closed in found for x in closed.jaxpr.eqns) else None


def _known(closed: core.ClosedJaxpr) -> dict[Any, Any]:
    """Numbers that a program has, and what it makes of no others."""
    consts = zip(closed.jaxpr.constvars, map(_scalar, closed.consts), strict=True)
    known = {x: value for x, value in consts if value is not None}
    for equation in closed.jaxpr.eqns:
        if all(x.aval.shape == () for x in equation.outvars) and all(x in known for x in _variables(equation)):
            operands = [known[x] if _is_variable(x) else x.val for x in equation.invars]
            with jax.ensure_compile_time_eval():
                made = programs.of_one(equation, operands, programs.usual)
            known |= {x: np.asarray(y)[()] for x, y in zip(equation.outvars, made, strict=True)}
    return known


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


def _is_matrix(x: Any) -> bool:
    """Whether it is one that tokens are multiplied with."""
    return len(x.aval.shape) == 2 and x.aval.shape[0] != TOKENS


def _is_number(x: Any) -> bool:
    return x.aval.shape == () or _is_vector(x)


def _is_filled(equation: Any, known: dict[Any, Any]) -> bool:
    """Whether it is one number for all tokens."""
    return equation.primitive.name == "broadcast_in_dim" and all(x in known for x in _variables(equation))


def _is_done(equation: Any) -> bool:
    """Whether a warpgroup knows an operation."""
    name = equation.primitive.name
    if name in programs.INNER:
        inner = equation.params[programs.INNER[name]]
        return all(_scalar(x) is not None for x in inner.consts) and all(map(_is_done, inner.jaxpr.eqns))
    if name in REDUCED:
        return equation.params["axes"] == (1,)
    if name == "dot_general":
        return _is_product(equation)
    if any(map(_is_matrix, _variables(equation))):
        return name in ("transpose", "convert_element_type")
    if not all(_is_number(x) or (len(x.aval.shape) == 2 and x.aval.shape[0] == TOKENS) for x in equation.outvars):
        return False
    if name == "broadcast_in_dim" and (size := equation.invars[0].aval.shape):
        own = equation.params["broadcast_dimensions"]
        return own[0] == 0 if size[0] == TOKENS else own == (1,)
    return name in ALONE or name in STANDING


def _is_product(equation: Any) -> bool:
    """Whether it is one of rows with a matrix."""
    (contracted, _), batch = equation.params["dimension_numbers"]
    rows, matrix = equation.invars
    return contracted == (1,) and batch == ((), ()) and rows.aval.shape[0] == TOKENS and _is_matrix(matrix)


def rule(equation: Any, operands: list[Any], width: tuple[int, ...] | None = None) -> list[Any]:
    """An operation of a warpgroup, to which [t, 1] is [t]; of so many columns, if not of all."""
    name, x = equation.primitive.name, operands[0]
    if name in STANDING:
        width = equation.outvars[0].aval.shape[1:] if width is None else width
        return [_standing(x, width, equation.invars[0].aval.shape)]
    if name in REDUCED:
        reduced = jnp.sum if name == "reduce_sum" else jnp.max
        return [reduced(x, axis=1) if equation.invars[0].aval.shape[1] > 1 else x]
    if name == "convert_element_type" and jnp.issubdtype(jnp.result_type(x), jnp.bool_):
        return [jnp.where(x, 1.0, 0.0).astype(equation.params["new_dtype"])]
    if name in ("copy", "copy_p", "reshard", "stop_gradient"):
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
