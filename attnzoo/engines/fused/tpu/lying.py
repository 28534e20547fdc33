"""How arrays of a recurrence lie in the memory of a TPU, and what one head has of them in one chunk.

Heads whose numbers together fill registers are a fold, and lie side by side. Folds that share keys take turns: these
stay where they are meanwhile, and gradients of them are summed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnzoo.engines import heads
from attnzoo.engines.fused.carried import Carried, in_rows, is_real
from attnzoo.engines.fused.operands import filled_up
from attnzoo.engines.fused.tpu.folding import LANES, among, before, picked, stored

MOST = 8  # heads of a fold, each of which is a program of its own in the kernel


class Head(NamedTuple):
    """One that has a state: its place in its fold, and its number among those of all folds that take turns."""

    place: int
    number: Any


class Chunk(NamedTuple):
    """One of a step: its place among those of that, and its number in the sequence."""

    place: Any
    number: Any


class Order(NamedTuple):
    """How a kernel goes over heads and chunks.

    Attributes:
      own: heads that have a state.
      fold: of them, in a step.
      turns: folds that share keys, one after another.
      size: tokens in a chunk.
      chunks: of the sequence.
      run: chunks in a step, of which the last one may have fewer.
      runs: steps.
      is_backward: whether it begins at the end.
    """

    own: int
    fold: int
    turns: int
    size: int
    chunks: int
    run: int
    runs: int
    is_backward: bool

    @staticmethod
    def of(carried: Carried, own: int, is_backward: bool) -> Order:
        """As few heads in a step as fill registers, of those that have a state."""
        given, size = jax.tree.leaves(carried.given), carried.chunk
        widths = [math.prod(x.shape[3:]) for x in given if x.ndim > 3]
        fewest = min((x.shape[2] for x in given if x.ndim > 3), default=own)
        fills = lambda fold: all(fold * width % LANES == 0 for width in widths)
        fold = next((x for x in range(1, MOST + 1) if own % x == 0 and fills(x)), 1)
        chunks = given[0].shape[1] // size
        run = min(chunks, carried.run // size)
        turns = math.gcd(fewest, fold) * own // fewest // fold if fewest < own else 1
        return Order(own, fold, turns, size, chunks, run, -(-chunks // run), is_backward)

    @property
    def folds(self) -> int:
        """Of what is shared."""
        return self.own // self.fold // self.turns

    def heads(self, turn: Any) -> list[Head]:
        """Those of a step."""
        return [Head(place, turn * self.fold + place if self.turns > 1 else place) for place in range(self.fold)]

    def own_of(self, heads: list[Head]) -> Any:
        """Those of a step, among all of folds that take turns."""
        return pl.ds(heads[0].number, self.fold)

    def at(self, step: Any) -> Any:
        """The run of a step."""
        return self.runs - 1 - step if self.is_backward else step

    def count(self, step: Any) -> Any:
        """Chunks of a step."""
        return jnp.minimum(self.run, self.chunks - self.at(step) * self.run)

    def chunk(self, step: Any, place: Any) -> Chunk:
        """The one at a place of a step."""
        return Chunk(place, self.at(step) * self.run + place)

    def over(self, step: Any, heads: list[Head], function: Callable[[Chunk, Head], None]) -> None:
        """`function(chunk, head)` of each chunk of a step, and of each of its heads."""

        def one(place, _):
            for head in heads:
                function(self.chunk(step, place), head)

        jax.lax.fori_loop(np.int32(0), self.count(step), one, None)


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
    def of(cls, order: Order, x: Any, **how: Any) -> Self:
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

    def read(self, ref: Any, head: Head, chunk: Chunk) -> Any:
        raise NotImplementedError

    def write(self, ref: Any, head: Head, chunk: Chunk, value: Any) -> None:
        raise NotImplementedError

    @property
    def one(self) -> Any:
        """What one head has in one chunk."""
        raise NotImplementedError

    @property
    def turns(self) -> int:
        """How often a step of an example and folds that take turns has another block than the step before."""
        return self.order.runs * self.order.turns

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

    Memory ends where the sequence ends, not with the last chunk: XLA makes nothing of rows that it has filled up and
    cuts off again. What a step reads behind the end may be no number, and what it writes there is dropped.

    Attributes:
      end: tokens before those that fill up the last chunk.
      is_list: whether a head that has a state has those of several, that share it.
    """

    end: int
    is_list: bool = False

    @property
    def blocks(self) -> int:
        return self.order.folds * self.order.turns

    def which(self, fold: Any, turn: Any) -> Any:
        """The block of a step."""
        return fold * self.order.turns + turn

    @property
    def lanes(self) -> int:
        """Of one block."""
        return math.prod(self.like.shape[2:]) // self.blocks

    @property
    def is_beside(self) -> bool:
        return self.blocks == 1 or self.lanes % LANES == 0

    def outward(self, x):
        x = x[:, : self.end]
        if self.is_beside:
            return x.reshape(*x.shape[:2], -1)
        return x.reshape(*x.shape[:2], self.blocks, -1).transpose(0, 2, 1, 3)

    def inward(self, x):
        x = x if self.is_beside else x.transpose(0, 2, 1, 3)
        return filled_up(x.reshape(len(x), self.end, *self.like.shape[2:]), self.like.shape[1])

    @property
    def block(self):
        rows, at = self.order.run * self.order.size, self.order.at
        which = self.which
        if self.is_beside:
            return pl.BlockSpec((1, rows, self.lanes), lambda b, h, i, turn: (b, at(i), which(h, turn)))
        return pl.BlockSpec((1, None, rows, self.lanes), lambda b, h, i, turn: (b, which(h, turn), at(i), 0))

    @property
    def one(self):
        precise = jnp.promote_types(self.like.dtype, jnp.float32)
        found = jax.ShapeDtypeStruct((self.order.size, *self.like.shape[3:]), precise)
        return [found] * (self.like.shape[2] // self.order.own) if self.is_list else found

    def _rows(self, chunk: Chunk) -> Any:
        return pl.ds(pl.multiple_of(chunk.place * self.order.size, self.order.size), self.order.size)

    def _there(self, x: jax.Array, chunk: Chunk) -> jax.Array:
        """Rows of a chunk, with zeros behind the end."""
        if self.end == self.like.shape[1]:
            return x
        return before(self.end - chunk.number * self.order.size, x, 0)

    def _places(self, head: Head, chunk: Chunk):
        """Where numbers of all heads that share a state lie in a block."""
        width, group = math.prod(self.like.shape[3:]), self.like.shape[2] // self.order.own
        return [(0, self._rows(chunk), pl.ds((head.place * group + n) * width, width)) for n in range(group)]

    def read(self, ref, head, chunk):
        found = [self._there(heads.precise(ref[place]), chunk) for place in self._places(head, chunk)]
        return found if self.is_list else found[0]

    def write(self, ref, head, chunk, value):
        for place, x in zip(self._places(head, chunk), value if self.is_list else [value], strict=True):
            ref[place] = x.astype(ref.dtype)


@dataclasses.dataclass(frozen=True)
class Shared(Wide):
    """The same of fewer heads than have a state: it stays while folds take turns, and its gradients are summed."""

    @property
    def turns(self):
        return self.order.runs

    @property
    def blocks(self):
        return self.order.folds

    def which(self, fold, turn):
        return fold

    @property
    def sums(self) -> Any:
        """Memory for those of a block, as `write` has them."""
        return pltpu.VMEM((1, self.order.run * self.order.size, self.lanes), jnp.float32)

    def _place(self, head: Head) -> tuple[int, Any]:
        """How many stand side by side, and which of them is that of a head."""
        count, share = self.like.shape[2] // self.blocks, self.order.own // self.like.shape[2]
        if count == 1 or isinstance(head.number, int):
            return count, 0 if count == 1 else head.number // share
        return count, jax.lax.div(head.number, np.int32(share))

    def read(self, ref, head, chunk):
        width = math.prod(self.like.shape[3:])
        of_place = lambda n: heads.precise(ref[0, self._rows(chunk), pl.ds(n * width, width)])
        return self._there(picked(of_place, *self._place(head)), chunk)

    def write(self, ref, head, chunk, value):
        ref[0, self._rows(chunk)] += among(value, *self._place(head))


@dataclasses.dataclass(frozen=True)
class Rows(Lying):
    """One number of each token, [B or 1, L, heads or 1]: along lanes, heads one below the other.

    Attributes:
      is_one: whether all tokens of a chunk have the same.
    """

    is_one: bool = False

    def outward(self, x):
        batch, _, count = x.shape
        order = self.order
        folds = 1 if count == 1 else order.folds * order.turns
        x = x.astype(jnp.int32) if not is_real(x) else x
        x = x.reshape(batch, order.chunks, order.size, folds, count // folds)
        return x.transpose(0, 3, 1, 4, 2)

    def inward(self, x):
        return x.transpose(0, 2, 4, 1, 3).reshape(self.like.shape)

    @property
    def block(self):
        (batch, _, count), order = self.like.shape, self.order
        fold = lambda h, turn: h * order.turns + turn if count > 1 else 0
        index = lambda b, h, i, turn: (b if batch > 1 else 0, fold(h, turn), order.at(i), 0, 0)
        return pl.BlockSpec((1, 1, order.run, order.fold if count > 1 else 1, order.size), index)

    @property
    def one(self):
        precise = jnp.promote_types(self.like.dtype, jnp.float32)
        dtype = precise if is_real(self.like) else bool if self.like.dtype == bool else jnp.int32
        return jax.ShapeDtypeStruct(() if self.is_one else (self.order.size,), dtype)

    def read(self, ref, head, chunk):
        found = ref[0, 0, chunk.place, head.place if self.like.shape[2] > 1 else 0]
        found = found[0] if self.is_one else found
        return heads.precise(found) if is_real(self.like) else found != 0 if self.like.dtype == bool else found

    def write(self, ref, head, chunk, value):
        ref[0, 0, chunk.place, head.place] = value.astype(ref.dtype)


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
        (batch, count, *_), own, order = self.like.shape, in_rows(self._own), self.order
        place = lambda b, h: (b if batch > 1 else 0, h if count > 1 else 0)
        rest = (0,) * len(own)
        if self.is_kept:
            of_run = lambda b, h, i, turn: (*place(b, h * order.turns + turn), order.at(i), *rest)
            return pl.BlockSpec((1, order.fold, None, *own), of_run)
        all_turns = order.turns * order.fold if count > 1 else 1
        return pl.BlockSpec((1, all_turns, *own), lambda b, h, i, turn: (*place(b, h), *rest))

    @property
    def one(self):
        dtype = self.like.dtype if is_real(self.like) or self.like.dtype == bool else jnp.int32
        return jax.ShapeDtypeStruct(self._own, dtype)

    @property
    def turns(self):
        return self.order.runs * self.order.turns if self.is_kept else 1

    def read(self, ref, head, chunk=None):
        return self.taken(ref[0, head.number if self.like.shape[1] > 1 else 0])

    def taken(self, x: jax.Array) -> jax.Array:
        """What a head has, of how it lies."""
        x = x != 0 if self.like.dtype == bool else x
        return x[0, 0] if not self._own else x.reshape(self._own) if len(self._own) == 1 else x

    def write(self, ref, head, chunk, value):
        ref[0, head.number] = self.put(value)

    def put(self, value: jax.Array) -> jax.Array:
        """The inverse of `taken`."""
        return jnp.broadcast_to(value, in_rows(self._own))
