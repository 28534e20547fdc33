"""Recurrences on a TPU whose queries all see the same keys, which have no order in time.

One Pallas kernel passes over keys and holds their state in VMEM, another one passes over queries, which read it. So do
gradients: a pass over queries has theirs and that of the state, of which one over keys has theirs. What a chunk of one
head does is a program, as in `chunks`, and so is the grid.

Beside gains a state is relative to the largest of all keys, M. With M known, that of what a chunk writes is that of its
sums times e^(own largest - M), and of M itself minus the sum of all products of a state with its gradient: it goes to
the first chunk which has that key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnzoo.engines import state
from attnzoo.engines.fused.carried import Carried, Gradients, Kept, Recurrence, kept_of, unkept
from attnzoo.engines.fused.tpu import chunks
from attnzoo.engines.fused.tpu.chunks import Kernel, pulled_by, read, write
from attnzoo.engines.fused.tpu.lying import Head, Wide
from attnzoo.engines.fused.tpu.mosaic import Program
from attnzoo.engines.slots import Sequence, Slots
from attnzoo.engines.state import Standing, State, Sums, Write

NEAR = 1e-5  # of two gains that are one, however each of them was rounded
Tops = tuple[jax.Array | None, ...]  # the largest gain of each channels


def declined(given: Sequence, write: Write) -> list[str]:
    """Why the kernels cannot take such a sequence, and what one token of it writes."""
    are_groups = any(x.key.ndim == 3 for x in write.channels)
    return chunks.declined(given, write) + ["channels in groups, whose queries all see the same keys"] * are_groups


def recurrence(chunk: int, interpret: bool = False) -> Recurrence:
    """The kernels, or what interprets them."""
    of_keyword = functools.partial(functools.partial, interpret=interpret)
    return Recurrence(chunk, declined, of_keyword(forward), of_keyword(backward), shares=True)


def forward(carried: Carried, keeps: bool, *, interpret: bool = False) -> tuple[jax.Array, State, Kept]:
    """Outputs, the state that all keys leave, and the same where it is kept."""
    left = _summed(carried, interpret)
    return _outputs(carried, left, interpret), left, kept_of(carried, left) if keeps else Kept([])


def backward(carried: Carried, kept: Kept, d_out, d_left, *, interpret: bool = False) -> Gradients:
    """Gradients, which begin with operands and the state that was kept."""
    assert d_left is None
    sums = unkept(carried, kept)
    of_queries, d_sums, d_q = _queries_pulled(carried, sums, d_out, interpret)
    d_sums = tuple(map(_of_largest, sums, d_sums))
    of_keys, d_keys = _keys_pulled(carried, sums, d_sums, interpret)
    return Gradients([a + b for a, b in zip(of_queries, of_keys, strict=True)], d_keys._replace(q=d_q.q))


def _keys(carried: Carried) -> Carried:
    """What a pass over keys is given."""
    nothing: Any = None
    return carried._replace(given=carried.given._replace(q=nothing), slots=carried.slots._replace(query_at=None))


def _queries(carried: Carried) -> Carried:
    """What one over queries is given."""
    nothing: Any = None
    given = Sequence(carried.given.q, nothing, nothing, {})
    return carried._replace(given=given, slots=Slots(carried.slots.query_at, None), is_summed=False)


def _written(carried: Carried, constants, closed, found: State | None, given: Sequence, slots: Slots) -> State:
    """The state of one head with the keys of a chunk."""
    standing = Standing(np.ones((1, len(given.k)), bool), writes=slots.shown)
    return state.meet(found, carried.write(constants, closed, given, slots), standing).after()


def _landed(carried: Carried, constants, closed, tops: Tops, given: Sequence, slots: Slots) -> State:
    """What the keys of a chunk write, relative to the largest gains of all keys, of which those are found again."""
    own = _written(carried, constants, closed, None, given, slots)
    return tuple(x if top is None else _beside(x, top) for x, top in zip(own, tops, strict=True))


def _beside(own: Sums, top: jax.Array) -> Sums:
    """Sums relative to a gain, which is their own if it is as large, so that its gradient is, or else is handed on."""
    assert own.top is not None
    is_largest = own.top >= top - NEAR * (1 + jnp.abs(top))
    return Sums(own.beside(jax.lax.stop_gradient(top)).totals, jnp.where(is_largest, own.top, top))


def _of_largest(sums: Sums, d_sums: Sums) -> Sums:
    """Gradients with that of the largest gain [B, heads], by whose exponential all of the sums are divided."""
    if d_sums.top is None:
        return d_sums
    each = zip(sums.totals, d_sums.totals, strict=True)
    products = [jnp.sum(x * grad, axis=tuple(range(2, x.ndim))) for x, grad in each]
    return d_sums._replace(top=d_sums.top - functools.reduce(jnp.add, products))


def _tops(sums: tuple[Any, ...]) -> Tops:
    return tuple(x.top for x in sums)


def _read(carried: Carried, constants, closed, found: State, given: Sequence, slots: Slots) -> list[jax.Array]:
    """Outputs of the queries of a chunk, of each head that shares a state."""
    recalled = lambda q: state.recall(found, carried.read(constants, closed, q, slots))
    return [carried.finish(constants, closed, recalled(q)) for q in given.q]


def _summed(carried: Carried, interpret: bool) -> State:
    """The state that all keys leave."""
    kernel = Kernel(_keys(carried), carried.own, interpret)
    step, empty = _program(_written, carried, kernel.example(kernel.state)), Program.of(carried.empty)
    (known, of_known), left = kernel.known(step, empty), kernel.left

    def body(run, heads, operands, sums, held):
        given, known = operands

        @pl.when(run == 0)
        def _():
            for head in heads:
                write(left, sums, empty(read(of_known[1], known[1], head)), head, None)

        def one(chunk, head):
            own = read(kernel.lying, given, head, chunk).beside(read(left, sums, head))
            write(left, sums, step(read(of_known[0], known[0], head), *own), head, None)

        kernel.order.over(run, heads, one)

    return kernel.call(body, (kernel.operands, known), (kernel.lying, of_known), left, [], step.products)


def _outputs(carried: Carried, sums: State, interpret: bool) -> jax.Array:
    """Those of all queries."""
    kernel = Kernel(_queries(carried), carried.own, interpret)
    step, out = _program(_read, carried, kernel.example(kernel.state)), _outs(carried, kernel)
    (known, of_known), left = kernel.known(step), kernel.left

    def body(run, heads, operands, written, _):
        given, (known,), sums = operands

        def one(chunk, head):
            own = read(kernel.lying, given, head, chunk).beside(read(left, sums, head))
            out.write(written, head, chunk, step(read(of_known[0], known, head), *own))

        kernel.order.over(run, heads, one)

    arrays, lying = (kernel.operands, known, sums), (kernel.lying, of_known, left)
    return kernel.call(body, arrays, lying, out, [], step.products)


def _queries_pulled(
    carried: Carried, sums: State, d_out: jax.Array, interpret: bool
) -> tuple[list[jax.Array], State, Sequence]:
    """Gradients of what was learned, as queries meet it, of sums, and of queries."""
    kernel = Kernel(_queries(carried), carried.own, interpret)
    d_outs, results = _outs(carried, kernel), (kernel.summed(), kernel.left, kernel.grads_given())
    pulled = _pulled(_read, carried, kernel.example(kernel.state), d_outs.one)
    (known, of_known), left = kernel.known(pulled), kernel.left

    def body(run, heads, operands, grads, _):
        given, (known,), sums, d_out = operands
        _begin(run, grads[:2], kernel.order.own_of(heads))

        def one(chunk, head):
            own = read(kernel.lying, given, head, chunk).beside(read(left, sums, head))
            of_learned, of_sums, of_given = pulled(
                read(of_known[0], known, head), *own, d_outs.read(d_out, head, chunk)
            )
            _add(results[:2], grads[:2], (of_learned, of_sums), head)
            write(results[2], grads[2], of_given, head, chunk)

        kernel.order.over(run, heads, one)

    arrays, lying = (kernel.operands, known, sums, d_out), (kernel.lying, of_known, left, d_outs)
    return kernel.call(body, arrays, lying, results, [], pulled.products)


def _keys_pulled(carried: Carried, sums: State, d_sums: State, interpret: bool) -> tuple[list[jax.Array], Sequence]:
    """Gradients of what was learned, as keys meet it, and of keys, of values, and of what tokens bring."""
    kernel = Kernel(_keys(carried), carried.own, interpret)
    results, of_tops = (kernel.summed(), kernel.grads_given()), _tops(kernel.left)
    pulled = _pulled(_landed, carried, kernel.example(_tops(kernel.state)), kernel.state)
    known, of_known = kernel.known(pulled)

    def body(run, heads, operands, grads, held):
        given, (known,), tops, d_sums = operands
        d_tops = jax.tree.unflatten(jax.tree.structure(of_tops), held)
        _begin(run, grads[0], kernel.order.own_of(heads))

        @pl.when(run == 0)
        def _():
            for head in heads:
                write(of_tops, d_tops, read(of_tops, _tops(d_sums), head), head, None)

        def one(chunk, head):
            own = read(kernel.lying, given, head, chunk).beside(read(of_tops, tops, head))
            each = zip(read(kernel.left, d_sums, head), read(of_tops, d_tops, head), strict=True)
            d_landed = tuple(x._replace(top=top) for x, top in each)
            of_learned, of_others, of_given = pulled(read(of_known[0], known, head), *own, d_landed)
            _add(results[0], grads[0], of_learned, head)
            write(of_tops, d_tops, of_others, head, None)
            write(results[1], grads[1], of_given, head, chunk)

        kernel.order.over(run, heads, one)

    arrays, lying = (kernel.operands, known, _tops(sums), d_sums), (kernel.lying, of_known, of_tops, kernel.left)
    own = kernel.order.turns * kernel.order.fold
    held = [pltpu.VMEM((1, own, 1, 1), x.like.dtype) for x in jax.tree.leaves(of_tops)]
    return kernel.call(body, arrays, lying, results, held, pulled.products)


def _program(function: Callable, carried: Carried, example: tuple[Any, ...]) -> Program:
    """What a chunk of one head does."""
    return Program.of(functools.partial(function, carried), *example)


def _pulled(function: Callable, carried: Carried, example: tuple[Any, ...], pulled: Any) -> Program:
    """Its gradients, of those of what it gives."""
    return Program.of(functools.partial(pulled_by, functools.partial(function, carried)), *example, pulled)


def _outs(carried: Carried, kernel: Kernel) -> Wide:
    """How outputs lie."""
    q, v = carried.given.q, carried.given.v
    like = jax.ShapeDtypeStruct((*q.shape[:3], v.shape[3]), v.dtype)
    return Wide.of(kernel.order, like, end=carried.ends[0], is_list=True)


def _begin(run: Any, sums: Any, own: Any) -> None:
    """Nothing is summed yet of such heads in the first run."""

    @pl.when(run == 0)
    def _():
        for x in jax.tree.leaves(sums):
            x[0, own] = jnp.zeros_like(x[0, own])


def _add(lying: Any, refs: Any, values: Any, head: Head) -> None:
    for how, x, value in zip(*map(jax.tree.leaves, (lying, refs, values)), strict=True):
        x[0, head.number] += how.put(value)
