"""What the kernels of a recurrence on a Hopper GPU are told that make features themselves, and a chunk as they meet it.

Tokens of a chunk meet as pairs, and the state that they find once. What they read is a product of pairs, and its
gradients are such products, too, in whichever direction a kernel goes: so one chunk serves all of them. Logarithms of
decays are summed in registers, from one for each token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from attnzoo.engines.fused.hopper import warpgroups
from attnzoo.engines.fused.hopper.rows import Rows
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    added,
    along,
    in_order,
    loaded,
    products,
    spread,
)


class Given(NamedTuple):
    """What a recurrence is differentiated by.

    Attributes:
      read: bfloat16 [B, T, N, W], where T is a multiple of `ROWS`.
      key: [B, T, K, W].
      value: [B, T, K, `ROWS`].
      beside_read: what the program of queries needs beside them, float32 [B or 1, N or 1, T] each. beside_key: of keys.
      one: what stands beside values and is summed as they are, likewise, which has no gradient; None for none.
      log_decay: of each token before it writes, likewise, or by channel, as `channels` takes them, rounded as
        keys are [B, T, K, W]; None for none.
      found: the state before the first token; None for none.
      rate: of the delta rule, likewise, by which `delta` goes; None without it.
      matrices: bfloat16 [1, N or 1, F, W], which programs multiply with, and float32 [1, N or 1, F], vectors of
        channels; without gradients.
      plain: what tokens write a channel without gains by, beside those with, likewise as `one`.
    """

    read: jax.Array
    key: jax.Array
    value: jax.Array
    beside_read: list[Any]
    beside_key: list[Any]
    one: Any = None
    log_decay: jax.Array | None = None
    found: Any = None
    rate: jax.Array | None = None
    matrices: list[Any] = []
    plain: Any = None


class How(NamedTuple):
    """How a recurrence is run.

    Attributes:
      read: features of queries, in groups of channels beside each other; None for themselves. key: of keys.
      finish: outputs from what was read, and what was read of ones; None for what was read.
      scale: of what is read.
      interpret: what a CPU interprets kernels with, or None.
      matrices_read: which of the matrices the program of queries needs. matrices_key: that of keys.
    """

    read: Rows | None
    key: Rows | None
    finish: Rows | None
    scale: float = 1.0
    interpret: Any = None
    matrices_read: tuple[int, ...] = ()
    matrices_key: tuple[int, ...] = ()


def widths(program: Rows | None, rows: jax.Array) -> list[int]:
    """Of groups of channels."""
    return [rows.shape[3]] if program is None else program.widths


class Sums(NamedTuple):
    """What a state is summed of: names of blocks, rows by rows, and of what stands beside values."""

    by: str
    value: str
    one: str
    is_backward: bool


ONWARD = Sums("key", "value", "one", is_backward=False)
BACK = Sums("read", "pulled", "pulled_one", is_backward=True)


class Meeting(NamedTuple):
    """A chunk of tokens, which write `value` [t, Hv], and one number more, by rows of channels.

    Attributes:
      by: a block of these.
      one: that number, along columns; None for none.
      state, ones: what those before the chunk have written.
      upto, again: logarithms of what is left at each token of what those before the chunk have written, along rows and
        columns; None where nothing decays.
      is_backward: whether those before it are those behind it.
    """

    by: Any
    value: Any
    one: Any
    state: Any
    ones: Any
    upto: Any
    again: Any
    is_backward: bool
    interpret: Any

    def read(self, of, counts: bool = True) -> tuple[jax.Array, ...]:
        """What rows read of values, and of what stands beside them."""
        is_counted = self.one is not None and counts
        found: Any = self._recalled(of) if is_counted else None  # before registers hold products
        pairs, out = self._products(of)
        pairs, out = self._met(pairs), self._left(out)
        one = [found + (pairs * along(self.one, pairs.shape, 1)).sum(axis=1)] if is_counted else []
        return added(out, pairs.astype(self.value.dtype), self.value, self.interpret), *one

    def _products(self, of) -> tuple[jax.Array, ...]:
        """Rows with those that write, and with the state."""
        return products((of, self.by.T), (of, self.state))

    def _counts(self, of) -> jax.Array:
        """Rows with sums of what stands beside values."""
        return recalled(of, self.ones)

    def _recalled(self, of) -> jax.Array:
        """What is read of what those before the chunk have written beside values."""
        found = self._counts(of)
        return found if self.upto is None else found * jnp.exp(self.upto)

    def pulled(self, value, one: jax.Array | None = None) -> jax.Array:
        """The gradient of what reads so, for one of what was read."""
        pairs, out = products((value, self.value.T), (value, self.state.T))
        if one is not None:
            pairs = pairs + spread(one, pairs.shape) * along(self.one, pairs.shape, 1)
            out = out + spread(one, out.shape) * along(self.ones, out.shape, 1)
        pairs = self._met(pairs).astype(self.value.dtype)
        return added(self._left(out), pairs, self.by, self.interpret)

    def _met(self, pairs: jax.Array) -> jax.Array:
        """Pairs of tokens, of which one sees the other, weighted by what decays between them."""
        if self.upto is not None:
            pairs = pairs * jnp.exp(spread(self.upto, pairs.shape) - along(self.again, pairs.shape, 1))
        return in_order(pairs, self.is_backward)

    def _left(self, out: jax.Array) -> jax.Array:
        """What is left of what was read of the state."""
        return out if self.upto is None else out * jnp.exp(spread(self.upto, out.shape, 0))


def recalled(of, ones) -> jax.Array:
    """What rows of channels read of sums of what stands beside values."""
    parts = [pl.ds(start, ROWS) for start in range(0, of.shape[1], ROWS)]
    each = [loaded(of.at[:, x]) * along(ones.at[x], (ROWS, ROWS), 1) for x in parts]
    total: Any = sum(x.sum(axis=1) for x in each)
    return total


def counted(ones: jax.Array, by, one: jax.Array) -> jax.Array:
    """Such sums with those of a block of rows, beside which `one` stands along columns."""
    columns = loaded(by.T)  # of whose sums each thread has an eighth of those that sums of rows would take
    return ones + (columns * spread(one, columns.shape, 1)).sum(axis=1)


def decayed(piece, axis: int, is_upto: bool) -> jax.Array:
    """Sums of the logarithms of decays in a chunk up to each token, it included, or behind it, along an axis."""
    shape = (ROWS, ROWS)
    own, other = (warpgroups.index(shape, x) for x in (axis, 1 - axis))
    block = piece.log_decay_columns if axis == 0 else piece.log_decay_rows
    decays = along(block.at[0], shape, 1 - axis)
    return jnp.where(other <= own if is_upto else other > own, decays, 0.0).sum(axis=1 - axis)


def all_left(piece, channels: int) -> jax.Array:
    """What all tokens of a chunk leave of what was found, for each channel."""
    return jnp.exp(along(piece.log_decay_columns.at[0], (channels, ROWS), 1).sum(axis=1))
