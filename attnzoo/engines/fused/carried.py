"""What the kernels of a device are given of a recurrence: a sequence in whole chunks, and what one of them does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from attnzoo.contract import varying
from attnzoo.engines.slots import Sequence, Slots
from attnzoo.engines.state import State, Write


class Learned(NamedTuple):
    """What a recurrence is differentiated by, beside its sequence.

    Attributes:
      constants: leaves lead with N, or with 1 where heads share.
      closed: traced arrays that rules close over, the same for all heads.
      found: the state before the first token: leaves lead with [B, heads that have one]; None for an empty one.
    """

    constants: Any
    closed: list[jax.Array]
    found: State | None


class Carried(NamedTuple):
    """What a kernel is given, in whole chunks.

    Attributes:
      learned: as above.
      given: leaves are [B, chunks * t, heads, ...]: queries of N heads, all else of those that have a state, or, where
        the device takes them so, of fewer. Those that share one stand beside each other.
      own: heads that have a state.
      slots: leaves are [B or 1, chunks, t], or [B or 1, chunks], of integers and bools.
      chunk: t, which divides `run`.
      run: tokens from one state that is kept to the next.
      runs: how many states are kept.
      ends: how many slots of queries, and of keys, come before those that fill up the last chunk.
      is_summed: whether gradients are summed over heads, and so are wanted in float32.
      changed: whether there is a gradient by each of the leaves of (learned, given), which may be zeros elsewhere.
      head: `head(constants, closed, found, given, slots)` of one chunk of one head that has a state, in float32, where
        queries and outputs are lists, [t, H] and [t, Hv] of each that shares it: (the state that is left, outputs).
      write: `write(constants, closed, given, slots)`: what the tokens of one head write, any number of them.
      read: `read(constants, closed, q, slots)`: what its queries [t, H] read the channels with.
      finish: `finish(constants, closed, read)`: outputs [t, Hv], from what was read of each of the values.
      powers: coefficients of what a pair weighs as a polynomial of q . k, or None.
      empty: `empty()`, the state of one head before the first token.
    """

    learned: Learned
    given: Sequence
    own: int
    slots: Slots
    chunk: int
    run: int
    runs: int
    ends: tuple[int, int]
    is_summed: bool
    changed: tuple[bool, ...]
    head: Callable
    write: Callable
    read: Callable
    finish: Callable
    powers: tuple[float, ...] | None
    empty: Callable[[], State]


class Gradients(NamedTuple):
    """Those of what a kernel was given.

    Attributes:
      learned: of each leaf of real numbers, for each example and head that has a state: float32 [B, heads, ...].
    """

    learned: list[jax.Array]
    given: Sequence


class Kept(NamedTuple):
    """What gradients are made of beside operands.

    Attributes:
      states: leaves [B, heads, runs, ...] of those before each run, of two axes at least.
      counts: what each slot has read of ones, [B, N, slots] in float32, where pairs are known to weigh powers of
        q . k, of a kernel that makes gradients by them; else nothing.
      out: outputs beside counts, [B, T', N, Hv]; None without these.
    """

    states: list[Any]
    counts: list[Any] = []
    out: jax.Array | None = None


class Recurrence(NamedTuple):
    """The kernels of a device for recurrences.

    Attributes:
      chunk: tokens that meet as pairs.
      declined: `declined(given, write)`: why it cannot take a sequence of such types, and what one token of it writes.
      apart: whether it tells segments apart where keys have gains.
      shares: whether heads that have states may share keys, values, and what of several numbers tokens bring.
      forward: `forward(carried, keeps)`: outputs [B, T', N, Hv], the state that is left, [B, heads, ...], and what is
        kept, if anything is, without outputs.
      backward: `backward(carried, kept, d_out, d_left)`, where `d_left` is None if nobody has used the state.
    """

    chunk: int
    declined: Callable[[Sequence, Write], list[str]]
    forward: Callable[..., tuple[jax.Array, State, Kept]]
    backward: Callable[..., Gradients]
    apart: bool = True
    shares: bool = False


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Changed:
    """By which leaves of a rule's operands there is a gradient."""

    leaves: tuple[bool, ...] = ()

    @staticmethod
    def told(operands: Any) -> tuple[Any, Changed]:
        """Operands from what comes to a rule that is told of zeros, and by which of them there is a gradient."""
        return jax.tree.map(lambda x: x.value, operands), Changed(tuple(x.perturbed for x in jax.tree.leaves(operands)))

    def of_each(self, operands: Any) -> Any:
        """Whether there is a gradient by each leaf of the operands, in their places."""
        return jax.tree.unflatten(jax.tree.structure(operands), self.leaves)


def is_used(gradients: Any) -> bool:
    """Whether somebody has used something of what they are of."""
    return not all(map(is_symbolic_zero, jax.tree.leaves(gradients, is_leaf=is_symbolic_zero)))


def is_symbolic_zero(x: Any) -> bool:
    """Whether a gradient is that of something unused, as rules are told that are told of zeros."""
    return isinstance(x, SymbolicZero)


def instantiated(gradients: Any, operands: Any) -> Any:
    """Gradients of what was made of operands as arrays, also of what nobody has used."""
    array = lambda x: varying.as_of(jnp.zeros(x.shape, x.dtype), operands) if is_symbolic_zero(x) else x
    return jax.tree.map(array, gradients, is_leaf=is_symbolic_zero)


def states_kept(of_one: State, q: jax.Array, own: int, runs: int) -> list[jax.ShapeDtypeStruct]:
    """States before each run [B, heads, runs, ...], matrices as precise as they are beside queries."""
    rounded = lambda x: jnp.bfloat16 if x.ndim > 1 and q.dtype == jnp.bfloat16 else x.dtype
    wide = lambda x: jax.ShapeDtypeStruct((len(q), own, runs, *in_rows(x.shape)), rounded(x))
    return list(map(wide, jax.tree.leaves(of_one)))


def kept_of(carried: Carried, left: State) -> Kept:
    """The state that all keys leave, as the only one that is kept."""
    like = states_kept(carried.empty(), carried.given.q, carried.own, 1)
    return Kept([x.reshape(one.shape).astype(one.dtype) for x, one in zip(jax.tree.leaves(left), like, strict=True)])


def unkept(carried: Carried, kept: Kept) -> State:
    """The inverse."""
    leaves, structure = jax.tree.flatten(carried.empty())
    each = zip(kept.states, leaves, strict=True)
    whole = [x.reshape(*x.shape[:2], *one.shape).astype(one.dtype) for x, one in each]
    return jax.tree.unflatten(structure, whole)


def in_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of two axes at least."""
    return (1,) * (2 - len(shape)) + tuple(shape)


def is_real(x: Any) -> bool:
    """Whether there is a gradient by it."""
    return jnp.issubdtype(x.dtype, jnp.floating)
