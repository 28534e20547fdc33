"""The delta rule on a Hopper GPU: chunks of a head in order, where tokens write what the state lacks of their values.

    u = T (v - e^G (k S)),    o = e^G (q S) + (w q k^T) u,    S <- e^G_last S + k^T (e^(G_last - G) u)
    T = (1 + beta w k k^T)^-1 beta,    w_ij = e^(G_i - G_j)

of the tokens of a chunk, G being sums of logarithms of decays in it; k k^T has pairs below its diagonal alone (WY form:
Yang et al. 2024, arXiv:2406.06484). T depends on no state: the warpgroup that copies prepares it of the next chunk,
while the one that keeps the state is at this one. So one launch reads operands and writes outputs, once each.

Gradients come from the last chunk. With Q, what queries and keys of later chunks have pulled at the state,

    d_u = (w q k^T)^T d_o + e^(G_last - G) (k Q),    d_v = T^T d_u,    Q <- e^G_last Q + (e^G q)^T d_o - (e^G k)^T d_v

All else is made of u and d_v, as of values and gradients without the delta rule; u is made again of states of each
chunk, which the kernel of d_q leaves. What passes token t is that of t + 1 and q . d_q - v . d_v.

T is found by halves: that of [[A, 0], [C, B]] is [[A', 0], [-B' C A', B']]. Its entries are what states of keys of norm
1 lose and keep, and stay as small as rates; a series of powers of k k^T would not. Pairs have twice the digits of other
operands, since T is as wrong as they are, and more so where keys are alike.
"""

from __future__ import annotations

import functools
import itertools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from attnzoo.engines.fused.carried import Changed
from attnzoo.engines.fused.hopper import skeleton
from attnzoo.engines.fused.hopper.columns import by_columns
from attnzoo.engines.fused.hopper.meeting import BACK, ONWARD, Given, How, Sums, all_left, decayed, widths
from attnzoo.engines.fused.hopper.recurrence import State
from attnzoo.engines.fused.hopper.skeleton import both
from attnzoo.engines.fused.hopper.walk import Rule
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    Blocks,
    Matrix,
    Vectors,
    added,
    along,
    filled,
    loaded,
    plgpu,
    products,
    reset_block,
    rows_and_columns,
    set_block,
    spread,
)
from attnzoo.engines.fused.hopper.whole import gradients

LEAST = 2.0**-32  # of a rate, by whose square its gradient is divided: what is written so is nothing beside the rest
SQUARE = (ROWS, ROWS)
SUMMED, ALONG = ("behind", "upto"), ("rows", "columns")  # decays behind and up to a token, and along what they vary


def fits(given: Given, how: How) -> bool:
    """Whether shared memory holds features beside what they are made of."""
    channels = widths(how.read, given.read)
    return how.finish is None and channels == widths(how.key, given.key) == [given.read.shape[3]] == [ROWS]


def recur(how: How, given: Given) -> tuple[jax.Array, State]:
    """Outputs [B, T, N, Hv], where Hv is a multiple of `ROWS`, and the state that is left."""
    return by_columns(_recur, how, given)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recur(how: How, given: Given) -> tuple[jax.Array, State]:
    """The same of values of `ROWS`, which may have more heads than queries."""
    kernel = Kernel(how, given)

    def read(piece, told, own):
        (out,) = kernel.meeting(ONWARD, piece, told, own).read(kernel.made("read", piece, own))
        yield out * how.scale

    out: Blocks = {"out": Matrix(kernel.tokens(ROWS, given.value.dtype))}
    made = kernel.launch("delta", ONWARD, kernel.operands, out, read, given.found)
    return made["out"], kernel.left(made)


def _forward(how: How, given: Any):
    given, changed = Changed.told(given)
    return _recur(how, given), (given, changed)


def _backward(how: How, residuals: tuple[Given, Changed], pulled: Any) -> tuple[Given]:
    return (gradients(Kernel(how, residuals[0]), _onward, _back, residuals, pulled),)


_recur.defvjp(_forward, _backward, symbolic_zeros=True)


def _onward(kernel: Kernel, d_out: jax.Array, changed: list[bool], wants_decays: bool) -> dict[str, jax.Array]:
    """From the first chunk on: gradients of queries, and states, of which the other kernel makes values again."""
    given = kernel.given
    out: Blocks = {"read": kernel.gradient(given.read)}
    out |= kernel.numbers_beside("read", changed) | ({"dots": kernel.numbers()} if wants_decays else {})

    def read(piece, told, own):
        kernel.made("read", piece, own)
        d_read = kernel.meeting(ONWARD, piece, told, own).pulled(piece.d_out) * kernel.how.scale
        yield from kernel.pulled("read", piece, own, d_read, changed, (lambda dots: dots) if wants_decays else None)

    operands = kernel.operands | {"d_out": Matrix(d_out)}
    made = kernel.launch("delta_onward", ONWARD, operands, out, read, given.found, keeps=True)
    return {"pulled": d_out} | made


def _back(
    kernel: Kernel, onward: dict, d_left: State | None, changed: list[bool], wants_decays: bool
) -> dict[str, jax.Array]:
    """From the last chunk on: gradients of keys, values and rates, and of the state that was found."""
    how, given = kernel.how, kernel.given
    out: Blocks = {"value": kernel.gradient(given.value), "rate": kernel.numbers()}
    out |= {"passed": kernel.numbers()} if wants_decays else {}
    out |= {"key": kernel.gradient(given.key)} | kernel.numbers_beside("key", changed)

    def read(piece, told, own):
        yield loaded(told.d_value) * how.scale
        kernel.write_again(piece, own)
        rate = loaded(piece.rate_rows.at[0])
        yield (loaded(told.d_value) * loaded(own.written)).sum(axis=1) * how.scale / (rate * rate)
        if wants_decays:
            yield kernel.passed_on(piece, told, own)
        d_key = kernel.d_key(piece, told, own) * how.scale
        kernel.made("key", piece, own)
        yield from kernel.pulled("key", piece, own, d_key, changed, None)

    operands = kernel.operands | {"pulled": Matrix(onward["pulled"]), "states": Matrix(onward["states"])}
    operands |= {"dots": Vectors(onward["dots"])} if wants_decays else {}
    return kernel.launch("delta_back", BACK, operands, out, read, d_left)


def rates(rate: jax.Array) -> Blocks:
    """Those of all tokens, as kernels read them."""
    rate = jnp.where(jnp.abs(rate) < LEAST, LEAST, rate)
    return both("rate", rate[:, :, None])


def solve(piece, own, pairs: jax.Array, interpret: Any) -> None:
    """Writes T of weighted pairs of keys below the diagonal; 0 is elsewhere."""
    dtype = piece.solved.dtype
    set_block(own.pairs, pairs.astype(dtype))
    set_block(own.rest, (pairs - loaded(own.pairs)).astype(dtype))
    row, column = rows_and_columns()
    later, earlier = along(piece.rate_rows.at[0], SQUARE, 0), along(piece.rate_columns.at[0], SQUARE, 1)
    # Pairs of the two halves of a block of 2^(half + 1); those of tokens with later ones are 0.
    between = lambda half, x, other: jnp.where((row >> half) ^ 1 == column >> half, x, other)
    solved = between(0, -pairs * later * earlier, jnp.where(row == column, later, 0.0))
    set_block(piece.solved, solved.astype(dtype))

    @pl.loop(jnp.int32(1), jnp.int32(ROWS.bit_length() - 1))
    def _(half):
        (read,) = products((piece.solved, own.pairs))
        read = added(read, piece.solved, own.rest, interpret)
        across = added(filled(0, *SQUARE), read.astype(dtype), piece.solved, interpret)
        reset_block(piece.solved, between(half, -across, loaded(piece.solved)).astype(dtype))


class Kernel(skeleton.Kernel):
    """What the kernels of the delta rule have in common."""

    @property
    def operands(self) -> Blocks:
        """What all of them read."""
        assert self.given.rate is not None
        return super().operands | rates(self.given.rate)

    def memory(self, sums: Sums, out: Blocks) -> dict[str, dict[str, Any]]:
        """Shapes of what is told and prepared, and of what a warpgroup has for itself."""
        square, rows = self.rounded(*SQUARE), self.rounded(ROWS, self.channels)
        told = {"state": self.rounded(self.channels, ROWS), "d_value" if sums is BACK else "value": square}
        prepared = {"solved": square} | {f"made_{x}": rows for x in self._programs(sums)}
        own = dict.fromkeys(("pairs", "rest", "missing"), square)
        if self.has_decays:
            prepared |= dict.fromkeys((f"{x}_{y}" for x in SUMMED for y in ALONG), self.f32(ROWS))
        if sums is BACK:
            own |= {"written": square}
        else:
            own |= {"made_read": rows} if self.how.read is not None else {}
            own |= {"value": square} if self.has_decays else {}
        return {"told": told, "prepared": prepared, "own": own}

    def _programs(self, sums: Sums) -> list[str]:
        """Those whose features are prepared, of which states are sums."""
        return [x for x in dict.fromkeys(("key", sums.by)) if getattr(self.how, x) is not None]

    def made(self, name: str, piece, own, who: str = "made") -> Any:
        """A block of what the program of queries or keys makes of them, where it was not prepared."""
        prepared = getattr(piece, f"made_{name}", None)
        return super().made(name, piece, own, who) if prepared is None else prepared

    def written(self, sums: Sums, piece, told) -> Any:
        """A block of what a chunk writes into the state."""
        return told.value if sums is ONWARD else super().written(sums, piece, told)

    def keeping(self, sums: Sums, is_found: bool, keeps: bool, read) -> Rule:
        """What warpgroups do."""
        rule = super().keeping(sums, is_found, False, read)

        def prepare(piece, prepared, own):
            for name in self._programs(sums):
                super(Kernel, self).made(name, piece, prepared)
            if self.has_decays:
                for is_upto, axis in itertools.product((False, True), (0, 1)):
                    block = getattr(prepared, f"{SUMMED[is_upto]}_{ALONG[axis]}")
                    block[...] = decayed(piece, axis, is_upto)
                plgpu.commit_smem()
            self._solve(SimpleNamespace(**(vars(piece) | vars(prepared))), own)

        def tell(piece, told, own, carry):
            rule.tell(piece, told, own, carry)
            self._correct(piece, told.state, own.missing, told.value)

        def keep(piece, told, own, carry):
            carry, _ = rule.keep(piece, told, own, carry)
            return carry, (loaded(told.state),) * keeps

        def tell_back(piece, told, own, carry):
            rule.tell(piece, told, own, carry)
            key = self.made("key", piece, own)
            (pairs,) = products((key, self.made("read", piece, own).T))
            pairs = self._seen_later(piece, pairs)
            (d_written,) = products((key, told.state))
            d_written = added(self._left(piece, d_written), pairs, piece.pulled, self.how.interpret)
            set_block(own.missing, d_written.astype(self.dtype))
            (d_value,) = products((piece.solved.T, own.missing))
            set_block(told.d_value, d_value.astype(self.dtype))

        def keep_back(piece, told, own, carry):
            (state,) = carry
            state = state * spread(all_left(piece, self.channels), state.shape) if self.has_decays else state
            for name, block, sign in (("read", piece.pulled, 1.0), ("key", told.d_value, -1.0)):
                reset_block(own.missing, (self._faded(piece, loaded(block)) * sign).astype(self.dtype))
                state = added(state, self.made(name, piece, own).T, own.missing, self.how.interpret)
            return (state,), ()

        if sums is BACK:
            return rule._replace(tell=tell_back, keep=keep_back, prepare=prepare)
        return rule._replace(tell=tell, keep=keep, prepare=prepare)

    def _solve(self, piece, own) -> None:
        """Prepares T."""
        key = self.made("key", piece, own)
        (pairs,) = products((key, key.T))
        row, column = rows_and_columns()
        solve(piece, own, jnp.where(row > column, self._between(piece, pairs), 0.0), self.how.interpret)

    def decayed(self, piece, is_upto: bool) -> jax.Array:
        """Sums of the logarithms of decays in a chunk, along rows, which are prepared."""
        return loaded(getattr(piece, f"{SUMMED[is_upto]}_rows"))

    def decayed_again(self, piece, own, is_upto: bool) -> Any:
        """The same along columns."""
        return getattr(piece, f"{SUMMED[is_upto]}_columns")

    def _between(self, piece, pairs: jax.Array) -> jax.Array:
        """Pairs of tokens in any order, weighted by what decays between them."""
        if not self.has_decays:
            return pairs
        between = along(piece.upto_rows, SQUARE, 0) - along(piece.upto_columns, SQUARE, 1)
        return pairs * jnp.exp(-jnp.abs(between))

    def _seen_later(self, piece, pairs: jax.Array) -> jax.Array:
        """Pairs of tokens and those that see them, so weighted, as operands of a product."""
        row, column = rows_and_columns()
        return self._between(piece, jnp.where(row <= column, pairs, 0.0)).astype(self.dtype)

    def _left(self, piece, rows: jax.Array) -> jax.Array:
        """What tokens write, of which so much is left behind the chunk."""
        return rows * spread(jnp.exp(self.decayed(piece, False)), rows.shape) if self.has_decays else rows

    def _faded(self, piece, rows: jax.Array) -> jax.Array:
        """What tokens read of the state that was found, of which so much is left."""
        return rows * spread(jnp.exp(self.decayed(piece, True)), rows.shape) if self.has_decays else rows

    def _correct(self, piece, state, missing, value) -> None:
        """Writes values that lack what keys recall, and what tokens write in their place, into a block each."""
        (recalled,) = products((self.made("key", piece, None), state))
        reset_block(missing, (loaded(piece.value) - self._faded(piece, recalled)).astype(self.dtype))
        (written,) = products((piece.solved, missing))
        reset_block(value, written.astype(self.dtype))

    def write_again(self, piece, own) -> None:
        """What tokens have written, from the state that was found."""
        self._correct(piece, piece.states, own.written, own.written)

    def d_key(self, piece, told, own) -> jax.Array:
        """The gradient of what keys have written and recalled, from the state and inside the chunk."""
        (by_query,) = products((own.written, piece.pulled.T))
        by_query = self._seen_later(piece, by_query)
        earlier, later = products((own.written, told.d_value.T), (told.d_value, own.written.T))
        row, column = rows_and_columns()
        by_key = jnp.where(row < column, -earlier, jnp.where(row > column, -later, 0.0))
        by_key = self._between(piece, by_key).astype(self.dtype)
        if self.has_decays:
            reset_block(own.written, self._left(piece, loaded(own.written)).astype(self.dtype))
        (d_key,) = products((own.written, told.state.T))
        d_key = added(d_key, by_query, self.made("read", piece, own), self.how.interpret)
        d_key = added(d_key, by_key, self.made("key", piece, own), self.how.interpret)
        reset_block(own.written, -self._faded(piece, loaded(told.d_value)).astype(self.dtype))
        return added(d_key, own.written, piece.states.T, self.how.interpret)

    def passed_on(self, piece, told, own) -> jax.Array:
        """The gradient of logarithms of decays: what passes each token, in its chunk and to those behind it."""
        read = (loaded(told.d_value) * loaded(piece.value)).sum(axis=1) * self.how.scale
        row, column = rows_and_columns()
        inside = jnp.where(row >= column, spread(loaded(piece.dots.at[0]) - read, SQUARE), 0.0)
        (recalled,) = products((self.made("key", piece, own), told.state))
        beyond = (recalled * loaded(own.written)).sum(axis=1) * jnp.exp(self.decayed(piece, False))
        for start in range(0, self.channels, ROWS):
            block = pl.ds(start, ROWS)
            kept = (loaded(told.state.at[block]) * loaded(piece.states.at[block])).sum(axis=1)
            beyond = beyond + kept * all_left(piece, ROWS)
        return inside.sum(axis=0) + spread(beyond * self.how.scale, SQUARE).sum(axis=0)
