"""The fused route of `recurrence.attend`: which calls it takes, and one chunk of one head as a program.

A kernel of a device goes over chunks one after another and holds the state meanwhile. What a chunk does it is told by
the engine, as a program of jax that has been traced for one head: so each recurrence has the kernel at once. Backward
it goes over chunks from the last to the first, each of which is differentiated beside the state that it found, made
again from one that is kept of every `RUN` tokens or more. Where all queries see the same keys nothing has an order: one
kernel sums what keys write, and another one reads that for queries.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from attnzoo.contract import programs, varying
from attnzoo.contract.mask import Mask
from attnzoo.engines import heads, slots
from attnzoo.engines.fused import choice
from attnzoo.engines.fused.carried import (
    Carried,
    Changed,
    Kept,
    Learned,
    Recurrence,
    instantiated,
    is_real,
    is_used,
    states_kept,
)
from attnzoo.engines.fused.way import Asked
from attnzoo.engines.slots import Sequence, Slots
from attnzoo.engines.state import State, Write

if TYPE_CHECKING:
    from attnzoo.engines.fused.device import Device
    from attnzoo.engines.recurrence import Chunks

# Tokens between two states that are kept for gradients. Of 64 channels and 64 values, a state in bfloat16 is a 24th of
# the queries, keys and values between them. One that is larger than these, in float32, is kept less often, up to where
# a TPU would have no room for those of all chunks between.
RUN, LONGEST_RUN = 512, 2048


def attend(asked: Asked, run: Chunks, given: Sequence, mask: Mask, found: State | None, reasons: list[str]):
    """All heads: outputs [B, T, N, Hv], and the state that is left.

    Args:
      run: says what a chunk does.
      reasons: why the call cannot be taken, whatever the device.

    Raises:
      NotImplementedError: no kernel takes the call; all reasons are listed.
    """
    asked.is_met = True
    way, run = asked.way, run._replace(constants=jax.tree.map(_rounded, run.constants))
    if given.q.dtype == jnp.float64:
        reasons = [*reasons, "float64: it sums in float32"]
    declined = functools.partial(_declined, given, run.write, mask)
    reasons = reasons + choice.reasons_everywhere(declined)
    if reasons:
        raise asked.declined(reasons)
    apart = _apart(given, run) if way.interpreted is None else 2 * way.interpreted.largest
    # Here, where what the rule closes over may be traced: where devices' programs are, it may not.
    powers = run.powers(given.q.shape[3])
    route = Route(asked, declined, run, _closed_over(run, given), apart, powers, {})

    @jax.custom_vjp
    def attend(operands, mask):
        return route.found(operands, mask, False)[:2]

    def forward(operands, mask):
        (operands, changed), (mask, _) = Changed.told(operands), Changed.told(mask)
        out, left, kept = route.found(operands, mask, True)
        kept = kept._replace(out=out) if kept.counts else kept
        return (out, left), (operands, mask, kept, changed)

    def backward(residuals, cotangents):
        operands, mask, kept, changed = residuals
        d_out, d_left = cotangents
        d_left = instantiated(d_left, operands) if is_used(d_left) else None
        learned, given = route.gradients(operands, mask, kept, changed, instantiated(d_out, operands), d_left)
        learned, rounded = iter(learned), lambda grad, x: grad.astype(x.dtype)
        own = jax.tree.map(lambda x: rounded(next(learned), x) if is_real(x) else None, operands[0])
        return (own, jax.tree.map(rounded, given, operands[1])), None

    attend.defvjp(forward, backward, symbolic_zeros=True)
    return attend((Learned(run.constants, route.closed, found), given), mask)


def _rounded(x: jax.Array) -> jax.Array:
    """What is learned or drawn as kernels take it, in which sums have 32 bits."""
    return x.astype(jnp.float32) if x.dtype == jnp.float64 else x


def _apart(given: Sequence, run: Chunks) -> int:
    """Tokens from one state that is kept to the next."""
    token = sum(math.prod(x.shape[3:]) * x.dtype.itemsize for x in given[:3])
    state, apart = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(run.empty))), RUN
    while apart < min(LONGEST_RUN, state / token):
        apart *= 2
    return apart


def _declined(given: Sequence, write: Write, mask: Mask, device: Device) -> list[str]:
    kernel = _kernel(device, mask)
    if kernel is None:
        return ["it has no kernel for recurrences"]
    has_segments = mask.segments is not None or not mask.is_placed  # as which events are laid out
    is_mixed = not kernel.apart and has_segments and any(x.log_gain is not None for x in write.channels)
    reasons = ["segments, or queries of whose positions the program learns, beside gains, of which it knows nothing"]
    return kernel.declined(given, write) + reasons * is_mixed


def _kernel(device: Device, mask: Mask) -> Recurrence | None:
    """Where segments are, queries that see all keys of theirs stand behind them."""
    return device.sums if slots.sees_all(mask) else device.recurrence


class Route(NamedTuple):
    """Forward and backward, by the device that the program is lowered for.

    Attributes:
      closed: what rules close over that is traced.
      apart: tokens from one state that is kept to the next.
      powers: of q . k that pairs weigh, by their coefficients, or None.
      traced: programs of rules that close over something traced, by what they are of.
    """

    asked: Asked
    declined: Callable[[Device], list[str]]
    run: Chunks
    closed: list[jax.Array]
    apart: int
    powers: tuple[float, ...] | None
    traced: dict[Any, tuple[core.ClosedJaxpr, Any]]

    def found(self, operands, mask: Mask, keeps: bool) -> tuple[jax.Array, State, Kept]:
        """Outputs, the state that is left, and what is kept."""
        (_, given), own = operands, self.run.own
        batch, runs = len(given.q), self._runs(given, mask)
        out = jax.ShapeDtypeStruct((*given.q.shape[:3], given.v.shape[3]), given.v.dtype)
        of_one = jax.eval_shape(self.run.empty)
        left = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, own, *x.shape), x.dtype), of_one)
        kept = Kept(states_kept(of_one, given.q, own, runs), self._counts(given, mask)) if keeps else Kept([])
        return self._by_platform(functools.partial(self._found, keeps), (out, left, kept), operands, mask)

    def gradients(self, operands, mask: Mask, kept: Kept, changed: Changed, d_out, d_left):
        """Those of operands, in float32 at least; where there is none, they may be zeros."""
        precise = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.promote_types(x.dtype, jnp.float32))
        learned, given = operands
        like = list(map(precise, filter(is_real, jax.tree.leaves(learned)))), jax.tree.map(precise, given)
        of_device = functools.partial(self._gradients, changed)
        return self._by_platform(of_device, like, operands, mask, kept, d_out, d_left)

    def _by_platform(self, function: Callable, like: Any, *operands):
        return choice.by_platform(self.asked, self.declined, function, like, *operands)

    def _runs(self, given: Sequence, mask: Mask) -> int:
        """How many states are kept of the sequence as it is laid out, one before each run, or that of all keys; no
        chunk is filled up.
        """
        if slots.sees_all(mask):
            return 1
        return -(-self._slots(given, mask) // self.apart)

    def _slots(self, given, mask: Mask) -> int:
        """Of the sequence as it is laid out."""
        laid = jax.eval_shape(lambda given, mask: slots.laid_out(given, mask, 1, fills=True).given.q, given, mask)
        return laid.shape[0]

    def _counts(self, given, mask: Mask) -> list[jax.ShapeDtypeStruct]:
        """Shapes of what kernels that make gradients by powers of q . k count of them, where these are known."""
        batch, _, num_heads, _ = given.q.shape
        if slots.sees_all(mask) or self.powers is None:
            return []
        return [jax.ShapeDtypeStruct((batch, num_heads, self._slots(given, mask)), jnp.float32)]

    def _found(self, keeps: bool, device: Device, operands, mask: Mask):
        kernel = _kernel(device, mask)
        assert kernel is not None
        carried, restored = self._carried(kernel, operands, mask, Changed())
        out, left, kept = kernel.forward(carried, keeps)
        if keeps and not kept.counts:
            nothing = [jnp.zeros(x.shape, x.dtype) for x in self._counts(operands[1], mask)]
            kept = kept._replace(counts=varying.as_of(nothing, out))
        return restored(out), left, kept

    def _gradients(self, changed: Changed, device: Device, operands, mask: Mask, kept: Kept, d_out, d_left):
        kernel, (learned, given) = _kernel(device, mask), operands
        assert kernel is not None
        carried, restored = self._carried(kernel, operands, mask, changed)
        like = jnp.zeros((*carried.given.q.shape[:3], d_out.shape[3]), d_out.dtype)
        _, pull = jax.vjp(restored, varying.as_of(like, d_out))
        (d_out,) = pull(d_out)
        kept = kept if kept.out is None else kept._replace(out=pull(kept.out)[0])
        found = kernel.backward(carried, kept, d_out, d_left)
        _, pull = jax.vjp(lambda given: self._whole(kernel, given, mask)[0], jax.tree.map(heads.precise, given))
        (d_given,) = pull(jax.tree.map(heads.precise, found.given))
        learned = filter(is_real, jax.tree.leaves(learned))
        return list(map(_summed, found.learned, learned)), d_given

    def _carried(self, kernel: Recurrence, operands, mask: Mask, changed: Changed) -> tuple[Carried, Callable]:
        """What a kernel is given, and outputs of queries from those of whole chunks."""
        learned, given = operands
        whole, laid = self._whole(kernel, given, mask)
        chunks, batch, size = laid.given.q.shape[:3]
        by_example = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), laid.slots)
        program = functools.partial(self._program, self.run._replace(standing_of=laid.standing_of))
        is_summed = any(_is_spread(kernel, x) and x.shape[2] != self.run.own for x in jax.tree.leaves(given[1:]))
        carried = Carried(
            learned,
            whole,
            self.run.own,
            by_example,
            size,
            self.apart,
            self._runs(given, mask),
            laid.ends,
            is_summed,
            changed.leaves,
            head=program("of_head"),
            write=program("written"),
            read=program("readers"),
            finish=program("finished"),
            powers=self.powers,
            empty=self.run.empty,
        )
        cut = lambda out: jnp.moveaxis(out.reshape(batch, chunks, size, *out.shape[2:]), 1, 0)
        return carried, lambda out: laid.restored(cut(out))

    def _whole(self, kernel: Recurrence, given: Sequence, mask: Mask) -> tuple[Sequence, slots.Laid]:
        """A sequence in whole chunks, of heads that have a state, if it is not shared, and how it was laid out."""
        laid = slots.laid_out(given, mask, min(kernel.chunk, self.apart), fills=True)
        whole = lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])
        spread = lambda x: jnp.repeat(x, self.run.own // x.shape[2], axis=2) if _is_spread(kernel, x) else x
        q, *rest = jax.tree.map(whole, laid.given)
        return Sequence(q, *jax.tree.map(spread, rest)), laid

    def _program(self, run: Chunks, name: str) -> Callable:
        """`run.name(constants, ...)`, to which what rules close over is handed, too, behind the constants."""

        def program(constants, closed, *operands):
            if not self.closed:
                return getattr(run, name)(constants, *operands)
            closed_jaxpr, out = self._traced(run, name, constants, *operands)
            consts = [self._of(x, closed) for x in closed_jaxpr.consts]
            jaxpr = core.ClosedJaxpr(closed_jaxpr.jaxpr, consts)
            leaves = jax.tree.leaves((constants, operands))
            return jax.tree.unflatten(out, programs.run(jaxpr, leaves, _of_one_device))

        return program

    def _traced(self, run: Chunks, name: str, *example: Any) -> tuple[core.ClosedJaxpr, Any]:
        """The program for operands like these: backward, where what the rule closes over is no longer traced, the one
        that was traced forward.
        """
        leaves, structure = jax.tree.flatten(example)
        types = tuple((x.shape, jnp.dtype(x.dtype)) for x in leaves)
        key = name, run.standing_of, structure, types, jnp.result_type(float)  # which tells x64
        if key not in self.traced:
            self.traced[key] = _traced(getattr(run, name), *example)
        return self.traced[key]

    def _of(self, x: Any, closed: list[jax.Array]) -> Any:
        """What stands for something that the rule closes over."""
        return next((own for own, outer in zip(closed, self.closed, strict=True) if x is outer), x)


def _is_spread(kernel: Recurrence, x: jax.Array) -> bool:
    """Whether each head that has a state is given its own of what heads share: one number of a token is little."""
    return x.ndim == 3 or not kernel.shares


def _traced(of_head: Callable, *example: Any) -> tuple[core.ClosedJaxpr, Any]:
    """The program of one head, for operands like these, and the structure of what it gives."""
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), example)
    again = lambda *operands: of_head(*operands)  # jax remembers what it traced, and what was closed over then
    closed, out = jax.make_jaxpr(again, return_shape=True)(*like)
    return closed, jax.tree.structure(out)


def _of_one_device(equation: Any, operands: list[Any]) -> list[Any]:
    """An operation where nothing differs between devices, whatever the types of what was closed over have told."""
    return operands if equation.primitive.name in ("pvary", "pcast") else programs.usual(equation, operands)


def _closed_over(run: Chunks, given: Sequence) -> list[jax.Array]:
    """What the rule closes over that is traced."""
    shape = lambda *sizes, dtype: jax.ShapeDtypeStruct(sizes, dtype)
    precise = lambda x: shape(1, *x.shape[3:], dtype=jnp.promote_types(x.dtype, jnp.float32))
    token: Any = jax.tree.map(precise, given)
    at = shape(1, dtype=jnp.int32)
    constants = jax.tree.map(lambda x: shape(*x.shape[1:], dtype=x.dtype), run.constants)
    closed, _ = _traced(run.of_head, constants, jax.eval_shape(run.empty), token._replace(q=[token.q]), Slots(at, at))
    return [x for x in closed.consts if isinstance(x, jax.core.Tracer)]


def _summed(x: jax.Array, like: jax.Array) -> jax.Array:
    """The gradient of what lacks the axis of examples, or of heads, too, or of what heads share."""
    x = x.sum(axis=tuple(range(x.ndim - like.ndim)))
    shared = tuple(axis for axis in range(like.ndim) if like.shape[axis] == 1 < x.shape[axis])
    return x.sum(axis=shared, keepdims=True)
