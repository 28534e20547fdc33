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
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.carried import Changed, instantiated
from attnzoo.engines.fused.hopper import skeleton, warpgroups
from attnzoo.engines.fused.hopper.columns import by_columns
from attnzoo.engines.fused.hopper.gradient import of_group, of_shared
from attnzoo.engines.fused.hopper.meeting import BACK, ONWARD, Given, How, Sums, widths
from attnzoo.engines.fused.hopper.recurrence import LOWEST, State
from attnzoo.engines.fused.hopper.rows import Rows
from attnzoo.engines.fused.hopper.walk import Rule
from attnzoo.engines.fused.hopper.warpgroups import (
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
    unclipped,
)
from attnzoo.engines.fused.hopper.whole import grad_found, grads_beside, pulled_left

SQUARE = (ROWS, ROWS)
HALVES = ROWS.bit_length() - 1  # sizes of halves: 1, 2, ... 32


class Kernel(skeleton.Kernel):
    """The kernels of a call, and what they have in common."""

    name = "channels"

    @property
    def operands(self) -> Blocks:
        """What they read."""
        given = self.given
        matrices: Blocks = {"read": Matrix(given.read), "key": Matrix(given.key), "value": Matrix(given.value)}
        return matrices | {"log_decay": Matrix(given.log_decay)} | self.beside("read") | self.beside("key")

    @property
    def writers(self) -> Blocks:
        """The same without what queries read with."""
        return {name: x for name, x in self.operands.items() if name != "read" and name not in self.beside("read")}

    def outputs(self) -> tuple[jax.Array, State]:
        """Those, [B, T, N, `ROWS`], and the state that is left."""
        given = self.given

        def read(piece, told, own):
            self.weigh(piece, "read", True, own.read)
            (out,) = products((own.read, told.state))
            yield added(out, piece.pairs, self.written(ONWARD, piece, told), self.how.interpret) * self.how.scale

        out: Blocks = {"out": Matrix(self.tokens(ROWS, given.value.dtype))}
        made = self.launch(self.name, ONWARD, self.operands, out, read, given.found)
        return made["out"], self.left(made)

    def states(self) -> Blocks:
        """Those before each chunk, [B, chunks * F, N, Hv]."""

        def read(piece, told, own):
            yield loaded(told.state)

        out: Blocks = {"states": self.states_of_chunks()}
        made = self.launch(f"{self.name}_states", ONWARD, self.writers, out, read, self.given.found)
        return {"states": Matrix(made["states"])}

    def gradients(self, states: Blocks, d_out: jax.Array, d_left: State | None, changed: Any) -> dict[str, Any]:
        """Those of operands, by name, and of the state that was found, from the last chunk on."""
        scale, wants_decays = self.how.scale, bool(changed.log_decay)
        out: Blocks = {"value": self.gradient(self.given.value)}
        out |= self.gradients_of_rows(changed)

        def read(piece, told, own):
            self.weigh(piece, "key", False, own.read)
            (d_value,) = products((own.read, told.state))
            yield added(d_value, piece.pairs.T, piece.pulled, self.how.interpret) * scale
            d_read, d_key = self.pulled_at(piece, own)
            if wants_decays:
                self.set_digits(own, loaded(piece.read) * d_read - loaded(piece.key) * d_key)
            yield from self.of_rows("read", piece, d_read, changed)
            yield from self.closing(piece, told, own, d_key, changed)

        return self.launch_back(self.operands | states, d_out, out, read, d_left)

    def gradients_of_rows(self, changed: Any) -> Blocks:
        """Those of queries and keys, of what stands beside them, and of decays, as they are written."""
        given, out = self.given, self.numbers_beside("read", changed.beside_read)
        out = {"read": self.gradient(given.read)} | out | {"key": self.gradient(given.key)}
        out |= self.numbers_beside("key", changed.beside_key)
        if changed.log_decay:
            assert given.log_decay is not None
            out["log_decay"] = self.gradient(given.log_decay)
        return out

    def of_rows(self, name: str, piece, d_made: jax.Array, changed: Any) -> Iterator[jax.Array]:
        """Gradients of queries or keys, and of what stands beside them, of which features took the place."""
        given = SimpleNamespace(**(vars(piece) | {name: getattr(piece.far, name)}))
        are_changed = getattr(changed, f"beside_{name}")
        yield from self.pulled(name, given, None, d_made * self.how.scale, are_changed, None)

    def launch_back(self, operands: Blocks, d_out: jax.Array, out: Blocks, read, d_left: State | None):
        """Their kernel, some of whose rows threads read, too, which know no end of a sequence."""
        names = [name for name in ("read", "key") if getattr(self.how, name) is not None]
        operands = operands | {name: Matrix(unclipped(getattr(self.given, name))) for name in names}
        return self.launch(f"{self.name}_back", BACK, operands | {"pulled": Matrix(d_out)}, out, read, d_left)

    def memory(self, sums: Sums, out: Blocks) -> dict[str, dict[str, Any]]:
        """Shapes of what is told and prepared, and of what a warpgroup has for itself."""
        square = self.rounded(*SQUARE)
        own = dict.fromkeys(("met", "kept", "read", *(["pulled"] if sums is BACK else [])), square)
        return {"told": {"state": square}, "prepared": {"pairs": square}, "own": own}

    def keeping(self, sums: Sums, is_found: bool, keeps: bool, read) -> Rule:
        """What warpgroups do."""
        assert not keeps  # gradients of decays are of what tokens pass, and of no state beside them
        rule = super().keeping(sums, is_found, keeps, read)

        def prepare(piece, prepared, own):
            self.make(piece)
            if hasattr(piece, "read"):
                set_block(prepared.pairs, self.pairs_of_queries(piece, own.met).astype(self.dtype))

        def keep(piece, told, own, carry):
            (state,) = carry
            self.weigh(piece, sums.by, sums.is_backward, own.kept)
            last = jnp.exp(loaded(piece.log_decay.T).sum(axis=1))
            value = self.written(sums, piece, told)
            return (added(state * spread(last, state.shape), own.kept.T, value, self.how.interpret),), ()

        return rule._replace(keep=keep, prepare=prepare)

    def make(self, piece) -> None:
        """Features in the places of queries and keys, which all others read behind this, as it is prepared; and decays
        that leave something, since no product may meet infinities.
        """
        set_block(piece.log_decay, jnp.maximum(loaded(piece.log_decay), LOWEST).astype(self.dtype))
        for name in ("read", "key"):
            program: Rows | None = getattr(self.how, name)
            if program is not None and hasattr(piece, name):
                (rows,) = program(*self._given(name, piece))
                set_block(getattr(piece, name), rows.astype(self.dtype))

    def weigh(self, piece, name: str, is_upto: bool, block) -> None:
        """Writes rows by what is left up to them, or behind them, of a chunk."""
        reset_block(block, (loaded(getattr(piece, name)) * self.left_of(piece, is_upto)).astype(self.dtype))

    def left_of(self, piece, is_upto: bool) -> jax.Array:
        """What is left at each token of what its chunk found, or behind it of what it writes, by channel."""
        row, column = rows_and_columns()
        return self._left(piece, column <= row if is_upto else column > row)

    def _left(self, piece, counted: jax.Array) -> jax.Array:
        """What is left by tokens that are counted, of [t, t]: [t, F]."""
        ones = jnp.where(counted, 1.0, 0.0).astype(self.dtype)
        return jnp.exp(added(filled(0, *SQUARE), ones, piece.log_decay, self.how.interpret))

    def between(self, piece, half) -> jax.Array:
        """What is left up to tokens of later halves of blocks, and behind those of earlier ones, within their half."""
        row, column = rows_and_columns()
        inside = (row >> half) == (column >> half)
        return self._left(piece, inside & jnp.where(is_late(half), column <= row, column > row))

    def met(self, piece, name: str, half) -> jax.Array:
        """Rows that meet: of queries, or of `name`, in later halves, and of keys in earlier ones."""
        if name == "key":
            return loaded(piece.key)
        return jnp.where(is_late(half), loaded(getattr(piece, name)), loaded(piece.key))

    def pairs_of_queries(self, piece, block) -> jax.Array:
        """Pairs of queries and keys that they see, by what is left between them."""
        row, column = rows_and_columns()
        (alone,) = products((piece.read, piece.key.T))
        return self.pairs(piece, "read", block, jnp.where(row == column, alone, 0.0))

    def pairs(self, piece, name: str, block, alone: jax.Array) -> jax.Array:
        """Pairs of tokens and those before them, beside those of tokens with themselves."""
        row, column = rows_and_columns()

        def among(half, pairs):
            reset_block(block, (self.met(piece, name, half) * self.between(piece, half)).astype(self.dtype))
            (met,) = products((block, block.T))
            return jnp.where((row > column) & are_beside(half), met, pairs)

        return jax.lax.fori_loop(jnp.int32(0), jnp.int32(HALVES), among, alone)

    def pulled_at(self, piece, own) -> tuple[jax.Array, jax.Array]:
        """Gradients of queries, and of keys as far as those of their chunk pull at them."""
        row, column = rows_and_columns()
        by_query, by_key = products((piece.pulled, piece.value.T), (piece.value, piece.pulled.T))
        pairs = jnp.where(row >= column, by_query, by_key)
        reset_block(own.pulled, pairs.astype(self.dtype))
        (d_read,) = products((piece.pulled, piece.states.T))
        alone = jnp.where(row == column, pairs, 0.0).astype(self.dtype)
        d_read = added(d_read * self.left_of(piece, True), alone, piece.key, self.how.interpret)
        d_key = added(filled(0, *SQUARE), alone, piece.read, self.how.interpret)
        return self.pulled_by(piece, own, "read", d_read, d_key)

    def pulled_by(self, piece, own, name: str, late: jax.Array, early: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Gradients of rows that meet as later ones, and as earlier ones, beside those of before; by those of pairs,
        which are there in either order.
        """

        def among(half, found):
            late, early = found
            left = self.between(piece, half)
            reset_block(own.read, (self.met(piece, name, half) * left).astype(self.dtype))
            pairs = jnp.where(are_beside(half), loaded(own.pulled), 0.0).astype(self.dtype)
            pulled = left * added(filled(0, *SQUARE), pairs, own.read, self.how.interpret)
            is_later = is_late(half)
            return jnp.where(is_later, late + pulled, late), jnp.where(is_later, early, early + pulled)

        return jax.lax.fori_loop(jnp.int32(0), jnp.int32(HALVES), among, (late, early))

    def closing(self, piece, told, own, d_key: jax.Array, changed: Any) -> Iterator[jax.Array]:
        """Gradients of keys, from those inside the chunk, and of decays, from digits of what pairs pass."""
        (row, column), wants_decays = rows_and_columns(), bool(changed.log_decay)
        (by_state,) = products((piece.value, told.state.T))
        by_state = by_state * self.left_of(piece, False)
        passed: Any = None
        if wants_decays:
            passed = self.summed(filled(0, *SQUARE), column >= row, own)
            self.set_digits(own, loaded(piece.key) * by_state)
        yield from self.of_rows("key", piece, d_key + by_state, changed)
        if wants_decays:
            yield (self.summed(passed, column < row, own) + self.passed_on(piece, told)) * self.how.scale

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


def rows_and_columns() -> tuple[jax.Array, jax.Array]:
    """Numbers of tokens."""
    row, column = (warpgroups.index(SQUARE, axis) + _nothing() for axis in (0, 1))
    return row, column


def is_late(half) -> jax.Array:
    """Which rows stand in the later half of a block of 2^(half + 1)."""
    return spread((warpgroups.numbers(ROWS) + _nothing()) >> half & 1, SQUARE) == 1


def _nothing() -> jax.Array:
    """A 0 that no compiler knows: what is made of numbers that it knows would be held in registers for all chunks."""
    return jax.lax.optimization_barrier(jnp.int32(0))


def are_beside(half) -> jax.Array:
    """Which tokens stand in the two halves of one block."""
    row, column = rows_and_columns()
    return (row >> half) ^ (column >> half) == 1


def differentiable(kernel_of: Callable[[How, Given], Kernel]) -> Callable[[How, Given], tuple[jax.Array, State]]:
    """The recurrence of such kernels: outputs [B, T, N, Hv], Hv a multiple of `ROWS`, and the state that is left."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def recur(how: How, given: Given) -> tuple[jax.Array, State]:
        return kernel_of(how, given).outputs()

    def forward(how: How, given: Any):
        given, changed = Changed.told(given)
        return recur(how, given), (given, changed)

    def backward(how: How, residuals: tuple[Given, Changed], pulled: Any) -> tuple[Given]:
        given, told = residuals
        kernel = kernel_of(how, given)
        d_out, d_left = instantiated(pulled[0], given), pulled_left(kernel, pulled)
        found = kernel.gradients(kernel.states(), d_out, d_left, told.of_each(given))
        names = [name for name in ("read", "key", "value", "log_decay") if name in found]
        grads: dict[str, Any] = {name: of_group(found[name], getattr(given, name)) for name in names}
        for name in ("read", "key"):
            grads[f"beside_{name}"] = grads_beside(name, found, getattr(given, f"beside_{name}"))
        if given.rate is not None:
            grads["rate"] = of_shared(found["rate"][:, :, 0], given.rate)
        return (jax.tree.map(jnp.zeros_like, given)._replace(**grads, found=grad_found(kernel, found)),)

    recur.defvjp(forward, backward, symbolic_zeros=True)
    return functools.partial(by_columns, recur)


recur = differentiable(Kernel)


def fits(given: Given, how: How) -> bool:
    """Whether kernels hold features, of as many channels as rows have, and finish nothing."""
    channels = widths(how.read, given.read)
    is_held = channels == widths(how.key, given.key) == [given.read.shape[3]] == [ROWS]
    return how.finish is None and is_held and given.value.shape[3] % ROWS == 0
