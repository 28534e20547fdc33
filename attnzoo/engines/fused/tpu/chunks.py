"""Recurrences on a TPU: one Pallas kernel forward, and one for gradients, which goes over chunks from the last.

The grid is (B, folds of what heads share, runs, folds of heads that share it), the last two in order: a step has the
chunks of one run, and finds the state of the run before in VMEM. They were compiled for v4, whose VMEM does not hold
Based's state, v5e, v5p and v6e.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnzoo.contract import varying
from attnzoo.engines import state
from attnzoo.engines.fused.carried import Carried, Gradients, Kept, Learned, Recurrence, in_rows, is_real, states_kept
from attnzoo.engines.fused.tpu import mosaic
from attnzoo.engines.fused.tpu.folding import stored
from attnzoo.engines.fused.tpu.lying import Apart, Order, Rows, Shared, Wide
from attnzoo.engines.fused.tpu.mosaic import Program
from attnzoo.engines.slots import Sequence
from attnzoo.engines.state import State, Write

DTYPES = ("bfloat16", "float32")
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
    return Recurrence(chunk, declined, of_keyword(forward), of_keyword(backward), shares=True)


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
        (q, *others), (queries, keys) = self.given, carried.ends
        of_wide = lambda x: (Shared if x.shape[2] < order.own else Wide).of(order, x, end=keys)
        rest: Any = jax.tree.map(lambda x: Rows.of(order, x) if x.ndim == 3 else of_wide(x), others)
        query: Any = jax.tree.map(lambda x: Wide.of(order, x, end=queries, is_list=True), q)
        slots = jax.tree.map(lambda x, like: Rows.of(order, x, is_one=like.ndim == 2), self.slots, carried.slots)
        return Operands(jax.tree.map(functools.partial(Apart.of, order), self.learned), Sequence(query, *rest), slots)

    def beside(self, found: State) -> tuple[Any, ...]:
        """The arguments of `Carried.head`, of one head."""
        constants, closed, _ = self.learned
        return constants, closed, found, self.given, self.slots


class Kernel:
    """What kernels have that go over all of a sequence, or over what one passes over of it.

    Attributes:
      operands: arrays. lying: how they lie.
      state: that of one head.
      left: how one of each head lies.
    """

    def __init__(self, carried: Carried, own: int, interpret: bool, *, is_backward: bool = False):
        self.carried, self.interpret = carried, interpret
        self.order = order = Order.of(carried, own, is_backward)
        self.batch = len(jax.tree.leaves(carried.given)[0])
        self.operands = Operands.of(carried)
        self.lying = self.operands.lying(order, carried)
        self.state = jax.eval_shape(carried.empty)
        of_each = lambda x: jax.ShapeDtypeStruct((self.batch, own, *x.shape), x.dtype)
        self.left = jax.tree.map(lambda x: Apart.of(order, of_each(x)), self.state)

    def example(self, found: Any) -> tuple[Any, ...]:
        """What a program of a head is given in one chunk, beside a state."""
        return jax.tree.map(lambda how: how.one, self.lying).beside(found)

    def kept(self) -> list[Apart]:
        """How states lie that are kept of each run."""
        like = states_kept(self.state, self.carried.given.q, self.order.own, self.order.runs)
        return [Apart.of(self.order, x, is_kept=True) for x in like]

    def summed(self) -> list[Apart]:
        """How gradients lie of what is real of constants and what is closed over."""
        constants, closed, _ = self.lying.learned
        of_each = lambda x: jax.ShapeDtypeStruct((self.batch, self.order.own, *x.one.shape), jnp.float32)
        return [Apart.of(self.order, of_each(x)) for x in jax.tree.leaves((constants, closed)) if is_real(x.like)]

    def grads_given(self) -> Sequence:
        """How those of the sequence lie."""
        dtype_of = lambda x: jnp.float32 if self.carried.is_summed else x.like.dtype
        of_sequence = lambda x: dataclasses.replace(x, like=x.like.update(dtype=dtype_of(x)))
        return jax.tree.map(of_sequence, self.lying.given)

    def known(self, *given: Program) -> tuple[Any, Any]:
        """Arrays that are known to programs, and how they lie."""
        arrays = [each.known for each in given]
        return arrays, jax.tree.map(functools.partial(Apart.of, self.order), arrays)

    def held(self, *leading: int) -> list[Any]:
        """Memory for so many states."""
        of = lambda x: pltpu.VMEM((*leading, *in_rows(x.shape)), x.dtype)
        return list(map(of, jax.tree.leaves(self.state)))

    def read_state(self, refs: list[Any], *place: Any) -> State:
        """The state of one head in such memory."""
        leaves, structure = jax.tree.flatten(self.left)
        return jax.tree.unflatten(structure, [how.taken(x[place]) for how, x in zip(leaves, refs, strict=True)])

    def write_state(self, refs: list[Any], value: State, *place: Any) -> None:
        for how, x, leaf in zip(*map(jax.tree.leaves, (self.left, refs, value)), strict=True):
            x[place] = how.put(leaf)

    def call(self, body: Callable, arrays: Any, lying: Any, results: Any, held: list[Any], work: int) -> Any:
        """What `body(run, heads, operands, results, held)` writes, step after step of an example and of folds that take
        turns; results that heads share are sums of theirs.
        """
        order, (given, structure) = self.order, jax.tree.flatten(arrays)
        ways, found = jax.tree.leaves(lying), jax.tree.leaves(results)
        given = varying.alike([how.outward(x) for how, x in zip(ways, given, strict=True)])
        of_mesh = jax.typeof(given[0]).manual_axis_type
        like = [jax.ShapeDtypeStruct(x.shape.shape, x.shape.dtype, manual_axis_type=of_mesh) for x in found]

        shared = [place for place, x in enumerate(found) if isinstance(x, Shared)]

        def of_step(*refs):
            inner, outer = refs[: len(given)], list(refs[len(given) : len(given) + len(found)])
            sums, rest = refs[len(given) + len(found) :][: len(shared)], refs[len(given) + len(found) + len(shared) :]
            run, turn, of_all = pl.program_id(2), pl.program_id(3), [outer[place] for place in shared]
            for place, x in zip(shared, sums, strict=True):
                outer[place] = x

            @pl.when(turn == 0)
            def _():
                for x in sums:
                    x[...] = jnp.zeros_like(x)

            outer = jax.tree.unflatten(jax.tree.structure(results), outer)
            body(run, order.heads(turn), jax.tree.unflatten(structure, inner), outer, list(rest))

            @pl.when(turn == order.turns - 1)
            def _():
                for x, whole in zip(of_all, sums, strict=True):
                    x[...] = whole[...].astype(x.dtype)

        batch = self.batch
        moved = batch * order.folds * sum(x.moved() for x in (*ways, *found))
        called = pl.pallas_call(
            of_step,
            out_shape=like,
            grid=(batch, order.folds, order.runs, order.turns),
            in_specs=[x.block for x in ways],
            out_specs=[x.block for x in found],
            scratch_shapes=[*(found[place].sums for place in shared), *held],
            interpret=self.interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=VMEM
            ),
            cost_estimate=pl.CostEstimate(batch * order.own * order.chunks * work, 0, moved),
        )
        written = mosaic.run(called, *given)
        inward = [how.inward(x) for how, x in zip(found, written, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(results), inward)


def forward(carried: Carried, keeps: bool, *, interpret: bool = False):
    """The kernel of `Recurrence.forward`."""
    kernel = Kernel(carried, carried.own, interpret)
    order, empty = kernel.order, Program.of(carried.empty)
    step = Program.of(carried.head, *kernel.example(kernel.state))
    q, v = carried.given.q, carried.given.v
    out = Wide.of(order, jax.ShapeDtypeStruct((*q.shape[:3], v.shape[3]), v.dtype), end=carried.ends[0], is_list=True)
    known, of_known = kernel.known(step, empty)

    def body(run, heads, operands, results, states):
        (given, known), (written, left, kept), own = operands, results, order.own_of(heads)

        @pl.when(run == 0)
        def _():
            for head in heads:
                found = read(kernel.lying.learned.found, given.learned.found, head)
                found = empty(read(of_known[1], known[1], head)) if found is None else found
                kernel.write_state(states, found, head.number)

        for x, held in zip(kept, states, strict=False):
            x[0] = held[own].astype(x.dtype)

        def one(chunk, head):
            own = read(kernel.lying, given, head, chunk).beside(kernel.read_state(states, head.number))
            found, outs = step(read(of_known[0], known[0], head), *own)
            out.write(written, head, chunk, outs)
            kernel.write_state(states, found, head.number)

        order.over(run, heads, one)

        @pl.when(run == order.runs - 1)
        def _():
            for x, held in zip(left, states, strict=True):
                x[0, own] = held[own]

    results = out, jax.tree.leaves(kernel.left), kernel.kept() if keeps else []
    operands = (kernel.operands, known), (kernel.lying, of_known)
    found, left, kept = kernel.call(body, *operands, results, kernel.held(order.turns * order.fold), step.products)
    return found, jax.tree.unflatten(jax.tree.structure(kernel.left), left), Kept(kept)


def backward(carried: Carried, kept: Kept, d_out: jax.Array, d_left: State | None, *, interpret: bool = False):
    """The kernel of `Recurrence.backward`."""
    kernel = Kernel(carried, carried.own, interpret, is_backward=True)
    if d_left is None:
        none = jax.tree.map(lambda x: jnp.zeros((len(d_out), kernel.order.own, *x.shape), x.dtype), kernel.state)
        d_left = varying.as_of(none, d_out)
    order, example = kernel.order, kernel.example(kernel.state)
    d_outs = Wide.of(order, d_out, end=carried.ends[0], is_list=True)
    step = Program.of(carried.head, *example)
    pulled = Program.of(functools.partial(pulled_by, carried.head), *example, (kernel.state, d_outs.one))
    known, of_known = kernel.known(step, pulled)
    d_learned, d_given = kernel.summed(), kernel.grads_given()
    d_found = jax.tree.leaves(kernel.left) if kernel.lying.learned.found is not None else []

    def body(run, heads, operands, results, held):
        (given, known, kept, d_out, d_left), (d_learned_refs, d_found_refs, d_given_refs) = operands, results
        d_states, states, all_own = held[: len(kept)], held[len(kept) :], order.own_of(heads)
        count = order.count(run)
        found_of = lambda chunk, head: kernel.read_state(states, chunk.place, head.place)
        own = lambda chunk, head: read(kernel.lying, given, head, chunk).beside(found_of(chunk, head))

        @pl.when(run == 0)
        def _():
            for x, d_state in zip(d_left, d_states, strict=True):
                d_state[all_own] = x[0, all_own]
            for x in d_learned_refs:
                x[0, all_own] = jnp.zeros_like(x[0, all_own])

        for x, first in zip(kept, states, strict=True):
            first[0] = x[0].astype(first.dtype)

        def ahead(place, _):
            for head in heads:
                found, _outs = step(read(of_known[0], known[0], head), *own(order.chunk(run, place), head))
                kernel.write_state(states, found, place + 1, head.place)

        def behind(turn, _):
            chunk = order.chunk(run, count - 1 - turn)
            for head in heads:
                d_after, d_outs_read = kernel.read_state(d_states, head.number), d_outs.read(d_out, head, chunk)
                grads = pulled(read(of_known[1], known[1], head), *own(chunk, head), (d_after, d_outs_read))
                of_learned, of_state, of_given = grads
                for how, x, grad in zip(d_learned, d_learned_refs, of_learned, strict=True):
                    x[0, head.number] += how.put(grad)
                kernel.write_state(d_states, of_state, head.number)
                write(d_given, d_given_refs, of_given, head, chunk)

        jax.lax.fori_loop(np.int32(0), count - 1, ahead, None)
        jax.lax.fori_loop(np.int32(0), count, behind, None)

        @pl.when(run == order.runs - 1)
        def _():
            for x, d_state in zip(d_found_refs, d_states, strict=False):
                x[0, all_own] = d_state[all_own]

    arrays = kernel.operands, known, kept.states, d_out, jax.tree.leaves(d_left)
    lying = kernel.lying, of_known, kernel.kept(), d_outs, jax.tree.leaves(kernel.left)
    held = [*kernel.held(order.turns * order.fold), *kernel.held(order.run, order.fold)]
    work = step.products + pulled.products
    found_learned, found_found, found_given = kernel.call(
        body, arrays, lying, (d_learned, d_found, d_given), held, work
    )
    return Gradients([*found_learned, *found_found], found_given)


def pulled_by(program: Callable, constants, closed, found, given, slots, pulled: Any):
    """Gradients of what is real of constants and what is closed over, of the state that was found, and of tokens."""
    leaves, structure = jax.tree.flatten((constants, closed))

    def of(real, found, given):
        real = iter(real)
        own = jax.tree.unflatten(structure, [next(real) if is_real(x) else x for x in leaves])
        return program(*own, found, given, slots)

    _, pull = jax.vjp(of, list(filter(is_real, leaves)), found, given)
    return pull(pulled)


def read(lying: Any, refs: Any, *place: Any) -> Any:
    """What one head has, of one chunk."""
    return jax.tree.map(lambda how, ref: how.read(ref, *place), lying, refs)


def write(lying: Any, refs: Any, values: Any, *place: Any) -> None:
    """Such values take their places."""
    jax.tree.map(lambda how, ref, x: how.write(ref, *place, x), lying, refs, values)
