"""Recurrences on a TPU: one Pallas kernel forward, and one for gradients, which goes over chunks from the last.

The grid is (B, folds of heads, runs), the last of which is in order: a step has the chunks of one run, and finds the
state of the step before in VMEM. Heads whose numbers together fill registers are a fold, and lie side by side. A TPU v4
lacks what gradients need; for v5e, v5p and v6e they were compiled.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.extend import core

from attnzoo.contract import programs, varying
from attnzoo.engines import heads, state
from attnzoo.engines.fused.carried import Carried, Gradients, Learned, Recurrence, in_rows, is_real
from attnzoo.engines.fused.folding import LANES, stored
from attnzoo.engines.slots import Sequence
from attnzoo.engines.state import State, Write

DTYPES = ("bfloat16", "float32")
MOST = 8  # heads of a fold, each of which is a program of its own in the kernel
VMEM = 100 * 2**20  # bytes that a kernel may take
LARGEST = 2 * 2**20  # bytes of a state in VMEM, where several are held beside what a chunk goes through


def declined(given: Sequence, write: Write) -> list[str]:
    """Why the kernels cannot take such a sequence, and what one token of it writes."""
    dtypes = [x.dtype.name for x in jax.tree.leaves(given) if x.dtype.name not in DTYPES]
    reasons = [f"{dtypes[0]}: it takes {' and '.join(DTYPES)}"] if dtypes else []
    empty = jax.eval_shape(lambda: state.empty(write))
    size = sum(stored(in_rows(x.shape), x.dtype) for x in jax.tree.leaves(empty))
    return reasons + ([f"a state of {size / 2**20:.1f} MiB: it holds at most {LARGEST / 2**20:.0f}"] * (size > LARGEST))


def recurrence(chunk: int, interpret: bool = False) -> Recurrence:
    """The kernels, or what interprets them."""
    of_keyword = functools.partial(functools.partial, interpret=interpret)
    return Recurrence(chunk, declined, of_keyword(forward), of_keyword(backward))


class Order(NamedTuple):
    """How a kernel goes over heads and chunks.

    Attributes:
      own: heads that have a state.
      fold: of them, in a step.
      size: tokens in a chunk.
      chunks: of the sequence.
      run: chunks in a step, of which the last one may have fewer.
      is_backward: whether it begins at the end.
    """

    own: int
    fold: int
    size: int
    chunks: int
    run: int
    is_backward: bool

    @staticmethod
    def of(carried: Carried, is_backward: bool) -> Order:
        """As few heads in a step as fill registers."""
        widths = [math.prod(x.shape[3:]) for x in jax.tree.leaves(carried.given) if x.ndim > 3]
        fills = lambda fold: all(fold * width % LANES == 0 for width in widths)
        own, size = carried.own, carried.chunk
        fold = next((x for x in range(1, MOST + 1) if own % x == 0 and fills(x)), 1)
        chunks = carried.given.k.shape[1] // size
        return Order(own, fold, size, chunks, min(chunks, carried.run // size), is_backward)

    @property
    def folds(self) -> int:
        return self.own // self.fold

    @property
    def runs(self) -> int:
        return -(-self.chunks // self.run)

    def at(self, step: Any) -> Any:
        """The run of a step."""
        return self.runs - 1 - step if self.is_backward else step

    def count(self, step: Any) -> Any:
        """Chunks of a step."""
        return jnp.minimum(self.run, self.chunks - self.at(step) * self.run)


@dataclasses.dataclass(frozen=True)
class Lying:
    """How an array lies in memory, and what of it one head has in one chunk.

    Attributes:
      order: how it is gone over.
      like: the array.
    """

    order: Order
    like: jax.ShapeDtypeStruct

    @classmethod
    def of(cls, order: Order, x: Any, **how: bool) -> Self:
        return cls(order, jax.ShapeDtypeStruct(x.shape, x.dtype), **how)

    def outward(self, x: jax.Array) -> jax.Array:
        """The array as it lies."""
        raise NotImplementedError

    def inward(self, x: jax.Array) -> jax.Array:
        """The inverse."""
        raise NotImplementedError

    @property
    def block(self) -> pl.BlockSpec:
        """What a step has of it."""
        raise NotImplementedError

    def read(self, ref: Any, head: int, chunk: Any) -> Any:
        raise NotImplementedError

    def write(self, ref: Any, head: int, chunk: Any, value: Any) -> None:
        raise NotImplementedError

    @property
    def one(self) -> Any:
        """What one head has in one chunk."""
        raise NotImplementedError

    @property
    def turns(self) -> int:
        """How often a step of an example and fold has another block than the step before."""
        return self.order.runs

    @property
    def shape(self) -> jax.ShapeDtypeStruct:
        """Of all, as it lies."""
        return jax.eval_shape(self.outward, self.like)

    def moved(self) -> int:
        """Bytes that all steps move."""
        shape: Any = self.block.block_shape
        block = [size or 1 for size in shape]
        return self.turns * math.prod(block[:-2]) * stored(tuple(block), self.like.dtype)


@dataclasses.dataclass(frozen=True)
class Wide(Lying):
    """Several numbers of each token of each head, [B, L, heads, ...]: side by side, of all where folds fill registers.

    Attributes:
      is_list: whether a head that has a state has those of several, that share it.
    """

    is_list: bool = False

    @property
    def lanes(self) -> int:
        """Of one fold."""
        return math.prod(self.like.shape[2:]) // self.order.folds

    @property
    def is_beside(self) -> bool:
        return self.order.folds == 1 or self.lanes % LANES == 0

    def outward(self, x):
        if self.is_beside:
            return x.reshape(*x.shape[:2], -1)
        return x.reshape(*x.shape[:2], self.order.folds, -1).transpose(0, 2, 1, 3)

    def inward(self, x):
        x = x if self.is_beside else x.transpose(0, 2, 1, 3)
        return x.reshape(self.like.shape)

    @property
    def block(self):
        rows, at = self.order.run * self.order.size, self.order.at
        if self.is_beside:
            return pl.BlockSpec((1, rows, self.lanes), lambda b, h, i: (b, at(i), h))
        return pl.BlockSpec((1, None, rows, self.lanes), lambda b, h, i: (b, h, at(i), 0))

    @property
    def one(self):
        precise = jnp.promote_types(self.like.dtype, jnp.float32)
        found = jax.ShapeDtypeStruct((self.order.size, *self.like.shape[3:]), precise)
        return [found] * (self.like.shape[2] // self.order.own) if self.is_list else found

    def _places(self, head: int, chunk: Any):
        """Where numbers of all heads that share a state lie in a block."""
        size, width = self.order.size, math.prod(self.like.shape[3:])
        rows, group = pl.ds(pl.multiple_of(chunk * size, size), size), self.like.shape[2] // self.order.own
        return [(0, rows, pl.ds((head * group + n) * width, width)) for n in range(group)]

    def read(self, ref, head, chunk):
        found = [heads.precise(ref[place]) for place in self._places(head, chunk)]
        return found if self.is_list else found[0]

    def write(self, ref, head, chunk, value):
        for place, x in zip(self._places(head, chunk), value if self.is_list else [value], strict=True):
            ref[place] = x.astype(ref.dtype)


@dataclasses.dataclass(frozen=True)
class Rows(Lying):
    """One number of each token, [B or 1, L, heads or 1]: along lanes, heads one below the other.

    Attributes:
      is_one: whether all tokens of a chunk have the same.
    """

    is_one: bool = False

    def outward(self, x):
        batch, _, count = x.shape
        folds, order = (1 if count == 1 else self.order.folds), self.order
        x = x.astype(jnp.int32) if not is_real(x) else x
        x = x.reshape(batch, order.chunks, order.size, folds, count // folds)
        return x.transpose(0, 3, 1, 4, 2)

    def inward(self, x):
        return x.transpose(0, 2, 4, 1, 3).reshape(self.like.shape)

    @property
    def block(self):
        (batch, _, count), order = self.like.shape, self.order
        index = lambda b, h, i: (b if batch > 1 else 0, h if count > 1 else 0, order.at(i), 0, 0)
        return pl.BlockSpec((1, 1, order.run, order.fold if count > 1 else 1, order.size), index)

    @property
    def one(self):
        precise = jnp.promote_types(self.like.dtype, jnp.float32)
        dtype = precise if is_real(self.like) else bool if self.like.dtype == bool else jnp.int32
        return jax.ShapeDtypeStruct(() if self.is_one else (self.order.size,), dtype)

    def read(self, ref, head, chunk):
        found = ref[0, 0, chunk, head if self.like.shape[2] > 1 else 0]
        found = found[0] if self.is_one else found
        return heads.precise(found) if is_real(self.like) else found != 0 if self.like.dtype == bool else found

    def write(self, ref, head, chunk, value):
        ref[0, 0, chunk, head] = value.astype(ref.dtype)


@dataclasses.dataclass(frozen=True)
class Apart(Lying):
    """What each head has once, [B or 1, heads or 1, ...], or before each run, [B, heads, runs, ...] where `is_kept`."""

    is_kept: bool = False

    @property
    def _own(self) -> tuple[int, ...]:
        return self.like.shape[3 if self.is_kept else 2 :]

    def outward(self, x):
        x = x.astype(jnp.int32) if not is_real(x) else x
        return x.reshape(*x.shape[: x.ndim - len(self._own)], *in_rows(self._own))

    def inward(self, x):
        return x.reshape(self.like.shape)

    @property
    def block(self):
        (batch, count, *_), own = self.like.shape, in_rows(self._own)
        place = lambda b, h: (b if batch > 1 else 0, h if count > 1 else 0)
        fold, rest = self.order.fold if count > 1 else 1, (0,) * len(own)
        if self.is_kept:
            return pl.BlockSpec((1, fold, None, *own), lambda b, h, i: (*place(b, h), self.order.at(i), *rest))
        return pl.BlockSpec((1, fold, *own), lambda b, h, i: (*place(b, h), *rest))

    @property
    def one(self):
        dtype = self.like.dtype if is_real(self.like) or self.like.dtype == bool else jnp.int32
        return jax.ShapeDtypeStruct(self._own, dtype)

    @property
    def turns(self):
        return self.order.runs if self.is_kept else 1

    def read(self, ref, head, chunk=None):
        return self.taken(ref[0, head if self.like.shape[1] > 1 else 0])

    def taken(self, x: jax.Array) -> jax.Array:
        """What a head has, of how it lies."""
        x = x != 0 if self.like.dtype == bool else x
        return x[0, 0] if not self._own else x.reshape(self._own) if len(self._own) == 1 else x

    def write(self, ref, head, chunk, value):
        ref[0, head] = self.put(value)

    def put(self, value: jax.Array) -> jax.Array:
        """The inverse of `taken`."""
        return jnp.broadcast_to(value, in_rows(self._own))


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
        closed, out = jax.make_jaxpr(function, return_shape=True)(*example)
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
    if equation.primitive.name == "dot_general":
        return [_product(*operands, **equation.params)]
    if equation.primitive.name in ("reshape", "broadcast_in_dim"):
        x, (out,) = jnp.asarray(operands[0]), equation.outvars  # jax 0.12 has numbers of Python among constants
        if x.shape == out.aval.shape:
            return [x]
        if x.dtype == bool:
            return [programs.usual(equation, [x.astype(jnp.int32)])[0] != 0]
    return programs.usual(equation, operands)


def _product(x: jax.Array, y: jax.Array, *, dimension_numbers, preferred_element_type, **_: Any) -> jax.Array:
    """A product summed in float32, precise where an operand is."""
    (contracted, _), (batched, _) = dimension_numbers
    if not contracted and not batched:  # is no product of matrices to the compiler
        x, y = map(heads.precise, (x, y))
        return (jnp.expand_dims(x, tuple(range(x.ndim, x.ndim + y.ndim))) * y).astype(preferred_element_type)

    def product(x, y):
        precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
        return jax.lax.dot_general(x, y, dimension_numbers, precision, preferred_element_type=jnp.float32)

    # Where one was rounded, as in gradients, the other is two numbers that are.
    dtype = min(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)
    found = sum(product(*each) for each in itertools.product(_parts(x, dtype), _parts(y, dtype)))
    return found.astype(preferred_element_type)


def _parts(x: jax.Array, dtype: Any) -> list[jax.Array]:
    """Numbers of a type whose sum has twice its digits; x alone where it is of that type."""
    rounded = x.astype(dtype)
    return [x] if x.dtype == dtype else [rounded, (x - rounded.astype(x.dtype)).astype(dtype)]


class Operands(NamedTuple):
    """What both kernels are given: arrays, or how they lie, or what one head has of one chunk."""

    learned: Any  # `Learned`, of which arrays lead with [B or 1, heads or 1]
    given: Any  # `Sequence`
    slots: Any  # `Slots`, of which arrays are [B or 1, L, 1]

    @staticmethod
    def of(carried: Carried) -> Operands:
        (constants, closed, found), first = carried.learned, lambda x: x[None]
        learned = Learned(jax.tree.map(first, constants), [first(first(x)) for x in closed], found)
        of_tokens = lambda x: x if x.ndim == 3 else jnp.broadcast_to(x[..., None], (*x.shape, carried.chunk))
        slots = jax.tree.map(lambda x: of_tokens(x).reshape(len(x), -1, 1), carried.slots)
        return Operands(learned, carried.given, slots)

    def lying(self, order: Order, carried: Carried) -> Operands:
        """How these arrays lie."""
        q, *others = self.given
        rest: Any = jax.tree.map(lambda x: (Rows if x.ndim == 3 else Wide).of(order, x), others)
        query: Any = Wide.of(order, q, is_list=True)
        slots = jax.tree.map(lambda x, like: Rows.of(order, x, is_one=like.ndim == 2), self.slots, carried.slots)
        return Operands(jax.tree.map(functools.partial(Apart.of, order), self.learned), Sequence(query, *rest), slots)

    def beside(self, found: State) -> tuple[Any, ...]:
        """The arguments of `Carried.head`, of one head."""
        constants, closed, _ = self.learned
        return constants, closed, found, self.given, self.slots


class Kernel:
    """What both kernels have.

    Attributes:
      operands: arrays. lying: how they lie.
      state: that of one head.
      left: how one of each head lies. kept: how those of each run do.
      step: the program of a chunk.
    """

    def __init__(self, carried: Carried, interpret: bool, *, is_backward: bool):
        self.carried, self.interpret = carried, interpret
        self.order = order = Order.of(carried, is_backward)
        self.operands = Operands.of(carried)
        self.lying = self.operands.lying(order, carried)
        self.state = jax.eval_shape(carried.empty)
        of_each = lambda x: jax.ShapeDtypeStruct((len(carried.given.q), order.own, *x.shape), x.dtype)
        self.left = jax.tree.map(lambda x: Apart.of(order, of_each(x)), self.state)
        in_runs = lambda x: jax.ShapeDtypeStruct((*of_each(x).shape[:2], order.runs, *in_rows(x.shape)), x.dtype)
        self.kept = [Apart.of(order, in_runs(x), is_kept=True) for x in jax.tree.leaves(self.state)]
        self.example = jax.tree.map(lambda how: how.one, self.lying).beside(self.state)
        self.step = Program.of(carried.head, *self.example)

    def known(self, *given: Program) -> tuple[Any, Any]:
        """Arrays that are known to programs, and how they lie."""
        arrays = [each.known for each in given]
        return arrays, jax.tree.map(functools.partial(Apart.of, self.order), arrays)

    def held(self, *leading: int) -> list[Any]:
        """Memory for states of the heads of a fold."""
        of = lambda x: pltpu.VMEM((*leading, self.order.fold, *in_rows(x.shape)), x.dtype)
        return list(map(of, jax.tree.leaves(self.state)))

    def read_state(self, refs: list[Any], *place: Any) -> State:
        """The state of one head in such memory."""
        leaves, structure = jax.tree.flatten(self.left)
        return jax.tree.unflatten(structure, [how.taken(x[place]) for how, x in zip(leaves, refs, strict=True)])

    def write_state(self, refs: list[Any], value: State, *place: Any) -> None:
        for how, x, leaf in zip(*map(jax.tree.leaves, (self.left, refs, value)), strict=True):
            x[place] = how.put(leaf)

    def call(self, body: Callable, arrays: Any, lying: Any, results: Any, held: list[Any], work: int) -> Any:
        """What `body(step, operands, results, held)` writes, a step of an example and fold after another."""
        order, (given, structure) = self.order, jax.tree.flatten(arrays)
        ways, found = jax.tree.leaves(lying), jax.tree.leaves(results)
        given = varying.alike([how.outward(x) for how, x in zip(ways, given, strict=True)])
        of_mesh = jax.typeof(given[0]).manual_axis_type
        like = [jax.ShapeDtypeStruct(x.shape.shape, x.shape.dtype, manual_axis_type=of_mesh) for x in found]

        def of_step(*refs):
            inner, outer = refs[: len(given)], refs[len(given) : len(given) + len(found)]
            outer = jax.tree.unflatten(jax.tree.structure(results), outer)
            body(pl.program_id(2), jax.tree.unflatten(structure, inner), outer, list(refs[len(given) + len(found) :]))

        batch = len(self.carried.given.q)
        moved = batch * order.folds * sum(x.moved() for x in (*ways, *found))
        written = pl.pallas_call(
            of_step,
            out_shape=like,
            grid=(batch, order.folds, order.runs),
            in_specs=[x.block for x in ways],
            out_specs=[x.block for x in found],
            scratch_shapes=held,
            interpret=self.interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM
            ),
            cost_estimate=pl.CostEstimate(batch * order.own * order.chunks * work, 0, moved),
        )(*given)
        inward = [how.inward(x) for how, x in zip(found, written, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(results), inward)


def forward(carried: Carried, keeps: bool, *, interpret: bool = False):
    """The kernel of `Recurrence.forward`."""
    kernel = Kernel(carried, interpret, is_backward=False)
    order, step, empty = kernel.order, kernel.step, Program.of(carried.empty)
    q, v = carried.given.q, carried.given.v
    out = Wide.of(order, jax.ShapeDtypeStruct((*q.shape[:3], v.shape[3]), v.dtype), is_list=True)
    known, of_known = kernel.known(step, empty)

    def body(number, operands, results, states):
        (given, known), (written, left, kept) = operands, results

        @pl.when(number == 0)
        def _():
            for head in range(order.fold):
                found = _read(kernel.lying.learned.found, given.learned.found, head)
                found = empty(_read(of_known[1], known[1], head)) if found is None else found
                kernel.write_state(states, found, head)

        for x, held in zip(kept, states, strict=False):
            x[0] = held[...]

        def one(chunk, _):
            for head in range(order.fold):
                own = _read(kernel.lying, given, head, chunk).beside(kernel.read_state(states, head))
                found, outs = step(_read(of_known[0], known[0], head), *own)
                out.write(written, head, chunk, outs)
                kernel.write_state(states, found, head)

        jax.lax.fori_loop(np.int32(0), order.count(number), one, None)

        @pl.when(number == order.runs - 1)
        def _():
            for x, held in zip(left, states, strict=True):
                x[0] = held[...]

    results = out, jax.tree.leaves(kernel.left), kernel.kept if keeps else []
    operands = (kernel.operands, known), (kernel.lying, of_known)
    found, left, kept = kernel.call(body, *operands, results, kernel.held(), step.products)
    return found, jax.tree.unflatten(jax.tree.structure(kernel.left), left), kept


def backward(carried: Carried, kept: list[jax.Array], d_out: jax.Array, d_left: State, *, interpret: bool = False):
    """The kernel of `Recurrence.backward`."""
    kernel = Kernel(carried, interpret, is_backward=True)
    order, step = kernel.order, kernel.step
    d_outs = Wide.of(order, d_out, is_list=True)
    pulled = Program.of(functools.partial(_pulled, carried.head), *kernel.example, kernel.state, d_outs.one)
    known, of_known = kernel.known(step, pulled)
    constants, closed, found = kernel.lying.learned
    summed = [x for x in jax.tree.leaves((constants, closed)) if is_real(x.like)]
    of_each = lambda x: jax.ShapeDtypeStruct((len(d_out), order.own, *x.one.shape), jnp.float32)
    d_learned = [Apart.of(order, of_each(x)) for x in summed]
    d_found = jax.tree.leaves(kernel.left) if found is not None else []
    of_sequence = lambda x: dataclasses.replace(
        x, like=x.like.update(dtype=jnp.float32 if carried.is_summed else x.like.dtype)
    )
    d_given = jax.tree.map(of_sequence, kernel.lying.given)

    def body(number, operands, results, held):
        (given, known, kept, d_out, d_left), (d_learned_refs, d_found_refs, d_given_refs) = operands, results
        d_states, states = held[: len(kept)], held[len(kept) :]
        count = order.count(number)
        own = lambda chunk, head: _read(kernel.lying, given, head, chunk).beside(kernel.read_state(states, chunk, head))

        @pl.when(number == 0)
        def _():
            for x, d_state in zip(d_left, d_states, strict=True):
                d_state[...] = x[0]
            for x in d_learned_refs:
                x[...] = jnp.zeros_like(x)

        for x, first in zip(kept, states, strict=True):
            first[0] = x[0]

        def ahead(chunk, _):
            for head in range(order.fold):
                found, _outs = step(_read(of_known[0], known[0], head), *own(chunk, head))
                kernel.write_state(states, found, chunk + 1, head)

        def behind(turn, _):
            chunk = count - 1 - turn
            for head in range(order.fold):
                d_after, d_outs_read = kernel.read_state(d_states, head), d_outs.read(d_out, head, chunk)
                grads = pulled(_read(of_known[1], known[1], head), *own(chunk, head), d_after, d_outs_read)
                of_learned, of_state, of_given = grads
                for how, x, grad in zip(d_learned, d_learned_refs, of_learned, strict=True):
                    x[0, head] += how.put(grad)
                kernel.write_state(d_states, of_state, head)
                _write(d_given, d_given_refs, of_given, head, chunk)

        jax.lax.fori_loop(np.int32(0), count - 1, ahead, None)
        jax.lax.fori_loop(np.int32(0), count, behind, None)

        @pl.when(number == order.runs - 1)
        def _():
            for x, d_state in zip(d_found_refs, d_states, strict=False):
                x[0] = d_state[...]

    arrays = kernel.operands, known, kept, d_out, jax.tree.leaves(d_left)
    lying = kernel.lying, of_known, kernel.kept, d_outs, jax.tree.leaves(kernel.left)
    held, work = [*kernel.held(), *kernel.held(order.run)], step.products + pulled.products
    found_learned, found_found, found_given = kernel.call(
        body, arrays, lying, (d_learned, d_found, d_given), held, work
    )
    return Gradients([*found_learned, *found_found], found_given)


def _pulled(head: Callable, constants, closed, found, given, slots, d_left, d_outs):
    """Gradients of what is real of constants and what is closed over, of the state that was found, and of tokens."""
    leaves, structure = jax.tree.flatten((constants, closed))

    def of(real, found, given):
        real = iter(real)
        own = jax.tree.unflatten(structure, [next(real) if is_real(x) else x for x in leaves])
        return head(*own, found, given, slots)

    _, pull = jax.vjp(of, list(filter(is_real, leaves)), found, given)
    return pull((d_left, d_outs))


def _read(lying: Any, refs: Any, *place: Any) -> Any:
    """What one head has, of one chunk."""
    return jax.tree.map(lambda how, ref: how.read(ref, *place), lying, refs)


def _write(lying: Any, refs: Any, values: Any, *place: Any) -> None:
    jax.tree.map(lambda how, ref, x: how.write(ref, *place, x), lying, refs, values)
