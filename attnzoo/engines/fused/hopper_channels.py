"""Decays by channel on a Hopper GPU: a recurrence whose tokens meet as halves of blocks, one block of threads a head.

    o_i = sum_(j <= i) (sum_f q_if k_jf e^(G_if - G_jf)) v_j,    S <- e^G_last S + (e^(G_last - G) k)^T v

of the tokens of a chunk, G being sums of logarithms of decays in it. Each two tokens stand in the two halves of one
block of 2, 4, ... 64: between them is left what is left up to the later one in its half, of what is left behind the
earlier one in its (Yang et al. 2023, arXiv:2312.06635, divide blocks as well, once). So all exponents are sums of
logarithms of the tokens between, made by a product of these with ones, and nothing overflows, however much is
forgotten. Of each size of halves one product of 64 rows with themselves has all pairs, those of later halves being
queries, and of earlier ones keys. Of their gradients a product has both: rows of later halves are those of queries.

Pairs depend on no state: the warpgroup that copies prepares them. Gradients come from the last chunk, in one launch,
beside states before each chunk, which a launch makes anew that meets no pairs. With Q, what queries of later chunks
have pulled at the state, what passes token t of channel f is

    e^(G_last) S . Q + sum_(i >= t) (q . d_q - k . d_k within the chunk)_i + sum_(j < t) (k . d_k by Q)_j
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.engines.fused import hopper_meeting, warpgroups
from attnzoo.engines.fused.carried import Changed, instantiated, is_used
from attnzoo.engines.fused.hopper_columns import by_columns
from attnzoo.engines.fused.hopper_gradient import of_group
from attnzoo.engines.fused.hopper_meeting import BACK, ONWARD, Given, How, Sums
from attnzoo.engines.fused.hopper_recurrence import LOWEST, State
from attnzoo.engines.fused.hopper_walk import Rule
from attnzoo.engines.fused.warpgroups import (
    ROWS,
    Blocks,
    Matrix,
    added,
    filled,
    loaded,
    products,
    reset_block,
    set_block,
    spread,
)

SQUARE = (ROWS, ROWS)
HALVES = ROWS.bit_length() - 1  # sizes of halves: 1, 2, ... 32


def recur(how: How, given: Given) -> tuple[jax.Array, State]:
    """Outputs [B, T, N, Hv], where Hv is a multiple of `ROWS`, and the state that is left."""
    return by_columns(_recur, how, given)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recur(how: How, given: Given) -> tuple[jax.Array, State]:
    """The same of values of `ROWS`, which may have more heads than queries."""
    kernel = Kernel(how, given)

    def read(piece, told, own):
        kernel.weigh(piece, "read", True, own.read)
        (out,) = products((own.read, told.state))
        yield added(out, piece.pairs, piece.value, how.interpret) * how.scale

    out: Blocks = {"out": Matrix(kernel.tokens(ROWS, given.value.dtype))}
    made = kernel.launch("channels", ONWARD, kernel.operands, out, read, given.found)
    return made["out"], kernel.left(made)


def _forward(how: How, given: Any):
    given, changed = Changed.told(given)
    return _recur(how, given), (given, changed)


def _backward(how: How, residuals: tuple[Given, Changed], pulled: Any) -> tuple[Given]:
    (given, told), scale = residuals, how.scale
    kernel, wants_decays = Kernel(how, given), bool(told.of_each(given).log_decay)
    d_left = instantiated(pulled[1], given) if is_used(pulled[1]) else None
    d_left = jax.tree.map(lambda x: x / scale, d_left)  # who reads it multiplies by the scale, which it lacks
    found = _back(kernel, _states(kernel), instantiated(pulled[0], given), d_left, wants_decays)
    grads = {name: of_group(found[name], getattr(given, name)) for name in kernel.names if name in found}
    d_found = None if given.found is None else jax.tree.map(lambda x: x * scale, kernel.left(found))
    nothing = jax.tree.map(jnp.zeros_like, given)
    return (nothing._replace(**grads, found=d_found),)


_recur.defvjp(_forward, _backward, symbolic_zeros=True)


def _states(kernel: Kernel) -> jax.Array:
    """Those before each chunk: [B, chunks * F, N, Hv]."""

    def read(piece, told, own):
        yield loaded(told.state)

    operands = {name: x for name, x in kernel.operands.items() if name != "read"}
    out: Blocks = {"states": Matrix(kernel.tokens(ROWS, kernel.dtype))}
    return kernel.launch("channels_states", ONWARD, operands, out, read, kernel.given.found)["states"]


def _back(
    kernel: Kernel, states: jax.Array, d_out: jax.Array, d_left: State | None, wants_decays: bool
) -> dict[str, jax.Array]:
    """From the last chunk on: gradients of operands, and of the state that was found."""
    given, scale = kernel.given, kernel.how.scale
    out: Blocks = {name: kernel.gradient(getattr(given, name)) for name in kernel.names[: 3 + wants_decays]}

    def read(piece, told, own):
        row, column = _rows_and_columns()
        kernel.weigh(piece, "key", False, own.read)
        (d_value,) = products((own.read, told.state))
        yield added(d_value, piece.pairs.T, piece.pulled, kernel.how.interpret) * scale
        d_read, d_key = kernel.pulled_at(piece, own)
        if wants_decays:
            kernel.set_digits(own, loaded(piece.read) * d_read - loaded(piece.key) * d_key)
        yield d_read * scale
        (by_state,) = products((piece.value, told.state.T))
        by_state = by_state * kernel.left_of(piece, False)
        passed: Any = None
        if wants_decays:
            passed = kernel.summed(filled(0, *SQUARE), column >= row, own)
            kernel.set_digits(own, loaded(piece.key) * by_state)
        yield (d_key + by_state) * scale
        if wants_decays:
            yield (kernel.summed(passed, column < row, own) + kernel.passed_on(piece, told)) * scale

    operands = kernel.operands | {"pulled": Matrix(d_out), "states": Matrix(states)}
    return kernel.launch("channels_back", BACK, operands, out, read, d_left)


class Kernel(hopper_meeting.Kernel):
    """What these kernels have in common."""

    names = ("value", "read", "key", "log_decay")  # of operands, in the order in which gradients are written

    @property
    def operands(self) -> Blocks:
        """What they read."""
        return {name: Matrix(getattr(self.given, name)) for name in self.names}

    def memory(self, sums: Sums, out: Blocks) -> dict[str, dict[str, Any]]:
        """Shapes of what is told and prepared, and of what a warpgroup has for itself."""
        square = self.rounded(*SQUARE)
        own = dict.fromkeys(("met", "kept", "read", *(["pulled", "left"] if sums is BACK else [])), square)
        return {"told": {"state": square}, "prepared": {"pairs": square}, "own": own}

    def keeping(self, sums: Sums, is_found: bool, keeps: bool, read) -> Rule:
        """What warpgroups do."""
        rule = super().keeping(sums, is_found, False, read)

        def prepare(piece, prepared, own):
            # Where nothing is left at all, no product may meet infinities; all others read it behind this.
            reset_block(piece.log_decay, jnp.maximum(loaded(piece.log_decay), LOWEST).astype(self.dtype))
            if hasattr(piece, "read"):
                set_block(prepared.pairs, self._pairs(piece, own.met).astype(self.dtype))

        def keep(piece, told, own, carry):
            (state,) = carry
            self.weigh(piece, sums.by, sums.is_backward, own.kept)
            last = jnp.exp(loaded(piece.log_decay.T).sum(axis=1))
            state = added(state * spread(last, state.shape), own.kept.T, getattr(piece, sums.value), self.how.interpret)
            return (state,), ()

        return rule._replace(keep=keep, prepare=prepare)

    def weigh(self, piece, name: str, is_upto: bool, block) -> None:
        """Writes rows by what is left up to them, or behind them, of a chunk."""
        reset_block(block, (loaded(getattr(piece, name)) * self.left_of(piece, is_upto)).astype(self.dtype))

    def left_of(self, piece, is_upto: bool) -> jax.Array:
        """What is left at each token of what its chunk found, or behind it of what it writes, by channel."""
        row, column = _rows_and_columns()
        return self._left(piece, column <= row if is_upto else column > row)

    def _left(self, piece, counted: jax.Array) -> jax.Array:
        """What is left by tokens that are counted, of [t, t]: [t, F]."""
        ones = jnp.where(counted, 1.0, 0.0).astype(self.dtype)
        return jnp.exp(added(filled(0, *SQUARE), ones, piece.log_decay, self.how.interpret))

    def _meet(self, piece, half, block) -> jax.Array:
        """Writes queries of later halves and keys of earlier ones, by what is left between them and where these meet,
        which it returns.
        """
        row, column = _rows_and_columns()
        inside, is_late = row >> half == column >> half, _is_late(half)
        left = self._left(piece, inside & jnp.where(is_late, column <= row, column > row))
        rows = jnp.where(is_late, loaded(piece.read), loaded(piece.key))
        reset_block(block, (rows * left).astype(self.dtype))
        return left

    def _pairs(self, piece, block) -> jax.Array:
        """Pairs of queries and keys that they see, by what is left between them."""
        row, column = _rows_and_columns()
        (pairs,) = products((piece.read, piece.key.T))

        def among(half, pairs):
            self._meet(piece, half, block)
            (met,) = products((block, block.T))
            return jnp.where((row > column) & _are_beside(half), met, pairs)

        return jax.lax.fori_loop(jnp.int32(0), jnp.int32(HALVES), among, jnp.where(row == column, pairs, 0.0))

    def pulled_at(self, piece, own) -> tuple[jax.Array, jax.Array]:
        """Gradients of queries, and of keys as far as those of their chunk pull at them."""
        row, column = _rows_and_columns()
        by_query, by_key = products((piece.pulled, piece.value.T), (piece.value, piece.pulled.T))
        pairs = jnp.where(row >= column, by_query, by_key)
        set_block(own.pulled, pairs.astype(self.dtype))
        (d_read,) = products((piece.pulled, piece.states.T))
        alone = jnp.where(row == column, pairs, 0.0).astype(self.dtype)
        d_read = added(d_read * self.left_of(piece, True), alone, piece.key, self.how.interpret)
        d_key = added(filled(0, *SQUARE), alone, piece.read, self.how.interpret)

        def among(half, found):
            d_read, d_key = found
            own.left[...] = self._meet(piece, half, own.read).astype(self.dtype)
            pairs = jnp.where(_are_beside(half), loaded(own.pulled), 0.0).astype(self.dtype)
            pulled = added(filled(0, *SQUARE), pairs, own.read, self.how.interpret) * loaded(own.left)
            is_late = _is_late(half)
            return d_read + jnp.where(is_late, pulled, 0.0), d_key + jnp.where(is_late, 0.0, pulled)

        return jax.lax.fori_loop(jnp.int32(0), jnp.int32(HALVES), among, (d_read, d_key))

    def passed_on(self, piece, told) -> jax.Array:
        """What passes all tokens of a chunk: what is left of the state that was found, times what pulls at it."""
        kept = (loaded(piece.states.T) * loaded(told.state.T)).sum(axis=0)
        return spread(kept * jnp.exp(loaded(piece.log_decay).sum(axis=0)), SQUARE, 1)

    def set_digits(self, own, rows: jax.Array) -> None:
        """Writes rows as two numbers each, which have twice the digits of one."""
        reset_block(own.read, rows.astype(self.dtype))
        set_block(own.pulled, (rows - loaded(own.read)).astype(self.dtype))

    def summed(self, total: jax.Array, counted: jax.Array, own) -> jax.Array:
        """A total [t, F], and sums of such rows that are counted, of [t, t]."""
        ones = jnp.where(counted, 1.0, 0.0).astype(self.dtype)
        total = added(total, ones, own.read, self.how.interpret)
        return added(total, ones, own.pulled, self.how.interpret)


def _rows_and_columns() -> tuple[jax.Array, jax.Array]:
    """Numbers of tokens, or of channels."""
    nothing = jax.lax.optimization_barrier(jnp.int32(0))
    row, column = (warpgroups.index(SQUARE, axis) + nothing for axis in (0, 1))
    return row, column


def _is_late(half) -> jax.Array:
    """Which rows stand in the later half of a block of 2^(half + 1)."""
    return (_rows_and_columns()[0] >> half & 1) == 1


def _are_beside(half) -> jax.Array:
    """Which tokens stand in the two halves of one block."""
    row, column = _rows_and_columns()
    return (row >> half) ^ (column >> half) == 1
