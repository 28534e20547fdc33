"""Rows that a rule puts together of columns of others, such as products of all pairs of them, on a Hopper GPU.

A warpgroup has no columns apart. What picks some, by slices and concatenations, is a product with a matrix of zeros and
ones, and so exact. It is brought before all that is done with numbers one by one, which then is done once with all
columns that ask for the same: two products pick both factors of all pairs. What a column has of its own beside that,
such as a factor, is a vector.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from attnzoo.contract import programs

NARROW = (16, 32, 64)  # columns that copies and products of a kernel take
NONE = -1  # a column for which none is picked
PICKING = frozenset(("concatenate", "slice"))
STANDING = frozenset(("broadcast_in_dim", "reshape", "squeeze"))
# What gives 0 where all that it is given is 0; others, which give a finite number there, whose slope is finite, too.
KEEPING = frozenset(
    "abs add add_any convert_element_type copy copy_p integer_pow max min mul neg reshard select_n sign sin square "
    "stop_gradient sub tanh".split()
)
OTHERS = frozenset("and cos eq exp exp2 ge gt le lt ne not or".split())
Pick = np.ndarray  # int [columns]: of which column of something, or `NONE`
Members = list[tuple[Any, Pick]]  # of which each has columns of its own


def picks(program: core.ClosedJaxpr) -> bool:
    """Whether a program picks columns."""
    return any(each.primitive.name in PICKING for each in _flat(program))


def wide(program: core.ClosedJaxpr, block: int, most: int) -> tuple[core.ClosedJaxpr, list[np.ndarray]] | None:
    """The same program without picking, and matrices [columns, W] and vectors [columns] that it is given last.

    The rows that it is given, first of all, are filled up to one of `NARROW`, and those that it gives to a multiple of
    `block`, by zeros. Of more than `most` columns it gives a share, those of which it is given rows of matrices.

    Returns:
      None where something else is done with rows than is known here.
    """
    avals = program.in_avals
    width = next((x for x in NARROW if avals[0].shape[1] <= x), None)
    are_numbers = all(len(x.shape) < 2 or x.shape[1] == 1 for x in avals[1:])
    if width is None or not are_numbers or not all(map(_is_known, _flat(program))):
        return None
    nodes = [_Node(x, number=i) for i, x in enumerate(avals)]
    outs = programs.run(program, nodes, _noted)
    like = [jax.ShapeDtypeStruct((avals[0].shape[0], width), avals[0].dtype)]
    like += [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in avals[1:]]

    def made(operands: tuple, fixed: Callable[[np.ndarray], jax.Array]) -> list[jax.Array]:
        return [_Columns(out.aval.shape[1], block, most, operands, fixed).whole(out) for out in outs]

    known: list[np.ndarray] = []
    first: list[np.ndarray] = []  # share of them

    def noting(array: np.ndarray) -> jax.Array:
        known.append(array)
        first.append(array[:most])
        return jnp.asarray(first[-1])

    jax.eval_shape(lambda *operands: made(operands, noting), *like)

    def given(*operands):
        last = iter(operands[len(like) :])
        return made(operands[: len(like)], lambda _: next(last))

    return jax.make_jaxpr(given)(*like, *first), known


def _flat(program: core.ClosedJaxpr) -> Iterator[Any]:
    """All operations, those of programs inside among them."""
    for each in program.jaxpr.eqns:
        inner = programs.INNER.get(each.primitive.name)
        yield from [each] if inner is None else _flat(each.params[inner])


def _is_known(equation: Any) -> bool:
    """Whether an operation is one of rows that are picked, or of numbers alone."""
    name, given = equation.primitive.name, [x.aval for x in equation.invars]
    if len(equation.outvars[0].aval.shape) < 2:
        return all(len(x.shape) < 2 for x in given)
    if name == "slice":
        return equation.params["strides"] is None and given[0].shape[0] == equation.outvars[0].aval.shape[0]
    if name == "concatenate":
        return equation.params["dimension"] == 1 and given[0].dtype != bool
    if name in STANDING:
        return not given[0].shape or given[0].shape in ((x := equation.outvars[0].aval.shape)[:1], (x[0], 1))
    return (name in KEEPING or name in OTHERS) and equation.params.get("y", 1) > 0


@dataclasses.dataclass(frozen=True, eq=False)
class _Node:
    """What an operation gives, of others and of known numbers; or an operand, by its number."""

    aval: Any
    equation: Any = None
    operands: tuple = ()
    number: int = NONE

    @property
    def name(self) -> str:
        """Of the operation."""
        return "" if self.equation is None else self.equation.primitive.name


def _noted(equation: Any, operands: list[Any]) -> list[Any]:
    """What an operation gives, to be made later; numbers of no others at once."""
    aval = equation.outvars[0].aval
    if aval.shape or any(isinstance(x, _Node) for x in operands):
        typed = lambda x, like: x if isinstance(x, _Node) else np.asarray(x, like.aval.dtype)[()]
        return [_Node(aval, equation, tuple(map(typed, operands, equation.invars)))]
    with jax.ensure_compile_time_eval():
        return [np.asarray(x)[()] for x in programs.usual(equation, operands)]


class _Term(NamedTuple):
    """Columns as products.

    Attributes:
      pick: of what they are, `NONE` where another term is.
      weight: a known number.
      factors: what else is multiplied.
    """

    pick: Pick
    weight: Any
    factors: Members

    def times(self, other: _Term) -> _Term:
        """Products where both are."""
        is_there = (self.pick != NONE) & (other.pick != NONE)
        only = lambda pick: np.where(is_there, pick, NONE)
        factors = [(node, only(pick)) for node, pick in (*self.factors, *other.factors)]
        return _Term(only(self.pick), self.weight * other.weight, factors)


class _Columns:
    """Rows of so many columns, and of zeros beside them, which are put together, or a share of them."""

    def __init__(self, columns: int, block: int, most: int, operands: tuple, fixed: Callable[[np.ndarray], jax.Array]):
        self.columns, self.operands, self.fixed = columns, operands, fixed
        share = min(-(-columns // block) * block, most)
        self.width, self.shape = -(-columns // share) * share, (len(operands[0]), share)

    def whole(self, out: Any) -> jax.Array:
        """All columns of something."""
        every = np.arange(self.width)
        pick = np.where(every < self.columns, every, NONE)
        made, is_zero = self._made([(out, pick)])
        return made if is_zero or self.columns == self.width else self._masked(made, [(out, pick)])

    def _made(self, members: Members) -> tuple[jax.Array, bool]:
        """Columns of each, and whether those are 0 for which none is picked; else they are anything.

        They are products of as many factors each, which are made one after another, of all columns.
        """
        terms = [term for member in members for term in _terms(*member)]
        factor = lambda x, i: x.factors[i] if i < len(x.factors) else (np.ones_like(x.weight), x.pick)
        most = max(len(x.factors) for x in terms)
        made = [self._joined([factor(x, i) for x in terms]) for i in range(most)]
        if most == 0 or any(x.weight != 1 for x in terms):
            made.append(self._known([(x.weight, x.pick) for x in terms]))
        return functools.reduce(jnp.multiply, [x for x, _ in made]), any(is_zero for _, is_zero in made)

    def _joined(self, members: Members) -> tuple[jax.Array, bool]:
        """Columns of each, of which none is a product."""
        kinds: dict[Any, Members] = {}
        for node, pick in members:
            kinds.setdefault(_kind(node), []).append((node, pick))
        if len(kinds) == 1:
            return self._of_kind(members)
        total: Any = None
        for kind, group in kinds.items():
            made, is_zero = self._each_own(group) if kind == "known" else self._of_kind(group)
            made = made if is_zero else self._masked(made, group)
            total = made if total is None else total + made
        return total, True

    def _of_kind(self, group: Members) -> tuple[jax.Array, bool]:
        node, _ = group[0]
        if not isinstance(node, _Node):
            return self._known(group)
        if node.number == 0:
            return self._picked(self.operands[0], group), True
        if _is_number(node):
            return self._along(_number(node, self.operands), *range(len(node.aval.shape))), False
        operands = [self._made([(x.operands[i], pick) for x, pick in group]) for i in range(len(node.operands))]
        zeros = [is_zero for _, is_zero in operands][node.name == "select_n" :]
        made = programs.usual(node.equation, [x for x, _ in operands])[0]
        return made, all(zeros) and node.name in KEEPING

    def _known(self, group: Members) -> tuple[jax.Array, bool]:
        """Numbers that are known, where nothing else is asked for."""
        number, *others = (x for x, _ in group)
        if any(x != number for x in others):
            return self._each_own(group)
        return jnp.full(self.shape, number), not number

    def _each_own(self, group: Members) -> tuple[jax.Array, bool]:
        """The same, of which each column has its own."""
        numbers = np.zeros(self.width, np.result_type(group[0][0]))
        for number, pick in group:
            numbers[pick != NONE] = number
        return self._along(self.fixed(numbers), 1), True

    def _picked(self, rows: jax.Array, group: Members) -> jax.Array:
        matrix = np.zeros((self.width, rows.shape[1]), rows.dtype)
        for _, pick in group:
            (columns,) = np.nonzero(pick != NONE)
            matrix[columns, pick[columns]] = 1
        return rows @ self.fixed(matrix).T

    def _masked(self, made: jax.Array, group: Members) -> jax.Array:
        """Zeros where none is picked."""
        is_picked = np.any([pick != NONE for _, pick in group], axis=0)
        return made * self._along(self.fixed(is_picked.astype(made.dtype)), 1)

    def _along(self, numbers: jax.Array, *axes: int) -> jax.Array:
        return lax.broadcast_in_dim(numbers, self.shape, axes)


def _terms(node: Any, pick: Pick) -> Iterator[_Term]:
    """Columns as products, behind slices, concatenations and what stands in several columns."""
    if not (pick != NONE).any():
        return
    if not isinstance(node, _Node):
        yield _Term(pick, node, [])
        return
    if node.aval.shape[1:] == (1,):  # which stands beside any columns
        pick = np.where(pick == NONE, NONE, 0)
    if node.name == "slice":
        yield from _terms(node.operands[0], np.where(pick == NONE, NONE, pick + _start(node.equation)))
    elif node.name == "concatenate":
        start = 0
        for operand in node.operands:
            width = operand.aval.shape[1]
            is_own = (pick >= start) & (pick < start + width)
            yield from _terms(operand, np.where(is_own, pick - start, NONE))
            start += width
    elif node.name in STANDING and len(node.aval.shape) == 2:
        yield from _terms(node.operands[0], pick)
    elif factors := _factors(node):
        for each in itertools.product(*(_terms(x, pick) for x in factors)):
            yield functools.reduce(_Term.times, each)
    else:
        yield _Term(pick, np.ones((), node.aval.dtype)[()], [(node, pick)])


def _factors(node: _Node) -> list[Any]:
    """Of which it is the product; none where it is no product."""
    if node.name == "integer_pow":
        return [node.operands[0]] * node.equation.params["y"]
    return [*node.operands] if node.name == "mul" else [*node.operands] * 2 if node.name == "square" else []


def _start(equation: Any) -> int:
    return equation.params["start_indices"][1]


def _kind(node: Any) -> Any:
    """What is done alike with columns, where the same of them is asked, if anything is."""
    if not isinstance(node, _Node):
        return "known"
    if node.number == 0 or _is_number(node):
        return node
    asked = [x for x in node.operands if isinstance(x, _Node) and x.aval.dtype == bool]
    return node.name, str(node.equation.params), *asked


def _is_number(node: _Node) -> bool:
    """Whether it is one for each token, or for all."""
    return len(node.aval.shape) < 2 or node.number > 0


def _number(node: Any, operands: tuple) -> Any:
    """That."""
    if not isinstance(node, _Node):
        return node
    if node.number != NONE:
        return operands[node.number]
    return programs.usual(node.equation, [_number(x, operands) for x in node.operands])[0]
