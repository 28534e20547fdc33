"""The delta rule with decays by channel on a Hopper GPU: halves of blocks as in `channels`, T as in
`delta`.

    u = T (v - (e^G k) S),    o = (e^G q) S + A u,    S <- e^G_last S + (e^(G_last - G) k)^T u

where T solves for pairs of keys, which meet as pairs A of queries and keys do.

The launch that makes states anew leaves u as well, in whose place gradients need no values. With Q, what later chunks
have pulled at the state,

    d_u = A^T d_o + (e^(G_last - G) k) Q,    d_v = T^T d_u,    Q <- e^G_last Q + (e^G q)^T d_o - (e^G k)^T d_v

Keys are read with, too, where they recall: by them pairs are pulled at with -d_v in the place of d_o, and what passes
token t has k . d_k of these beside q . d_q.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.hopper import channels, delta
from attnzoo.engines.fused.hopper.channels import SQUARE, differentiable, rows_and_columns
from attnzoo.engines.fused.hopper.meeting import BACK, ONWARD, Sums
from attnzoo.engines.fused.hopper.recurrence import State
from attnzoo.engines.fused.hopper.walk import Rule
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    Blocks,
    Matrix,
    added,
    filled,
    loaded,
    plgpu,
    products,
    reset_block,
    set_block,
)


class Kernel(channels.Kernel):
    """The kernels of a call, and what they have in common."""

    name = "channels_delta"

    @property
    def operands(self) -> Blocks:
        """What they read."""
        assert self.given.rate is not None
        return super().operands | delta.rates(self.given.rate)

    def states(self) -> Blocks:
        """Those before each chunk, and what tokens write."""

        def read(piece, told, own):
            yield loaded(told.state)
            yield loaded(told.value)

        out: Blocks = {"states": self.states_of_chunks(), "value": Matrix(self.tokens(ROWS, self.dtype))}
        made = self.launch(f"{self.name}_states", ONWARD, self.writers, out, read, self.given.found)
        return {name: Matrix(made[name]) for name in out}

    def gradients(self, states: Blocks, d_out: jax.Array, d_left: State | None, changed: Any) -> dict[str, Any]:
        """Those of operands, by name, and of the state that was found, from the last chunk on."""
        scale, wants_decays = self.how.scale, bool(changed.log_decay)
        out: Blocks = {"value": self.gradient(self.given.value), "rate": self.numbers()}
        out |= self.gradients_of_rows(changed)

        def read(piece, told, own):
            yield loaded(told.d_value) * scale
            rate = loaded(piece.rate_rows.at[0])
            yield (loaded(told.d_value) * loaded(piece.value)).sum(axis=1) * scale / (rate * rate)
            d_read, d_key = self.pulled_at(piece, own)
            if wants_decays:
                set_block(own.passed, (loaded(piece.read) * d_read).astype(self.dtype))
            yield from self.of_rows("read", piece, d_read, changed)
            d_recalled, d_key = self._recalled_at(piece, told, own, d_key)
            if wants_decays:
                self.set_digits(own, loaded(own.passed) + loaded(piece.key) * (d_recalled - d_key))
            yield from self.closing(piece, told, own, d_recalled + d_key, changed)

        return self.launch_back(self.operands | states, d_out, out, read, d_left)

    def memory(self, sums: Sums, out: Blocks) -> dict[str, dict[str, Any]]:
        """Shapes of what is told and prepared, and of what a warpgroup has for itself."""
        square = self.rounded(*SQUARE)
        own = ["pairs", "rest", "kept", "read", *(["pulled", "passed"] if sums is BACK else [])]
        told, prepared = ("state", "d_value" if sums is BACK else "value"), ("solved", "pairs")
        names = {"told": told, "prepared": prepared, "own": own}
        return {where: dict.fromkeys(each, square) for where, each in names.items()}

    def written(self, sums: Sums, piece, told) -> Any:
        """A block of what a chunk writes into the state."""
        return told.value if sums is ONWARD else super().written(sums, piece, told)

    def keeping(self, sums: Sums, is_found: bool, keeps: bool, read) -> Rule:
        """What warpgroups do."""
        rule = super().keeping(sums, is_found, keeps, read)

        def prepare(piece, prepared, own):
            self.make(piece)
            if hasattr(piece, "read"):
                set_block(prepared.pairs, self.pairs_of_queries(piece, own.pairs).astype(self.dtype))
            pairs = self.pairs(piece, "key", own.pairs, filled(0, *SQUARE))
            plgpu.commit_smem()
            delta.solve(SimpleNamespace(**(vars(piece) | vars(prepared))), own, pairs, self.how.interpret)

        def tell(piece, told, own, carry):
            rule.tell(piece, told, own, carry)
            self.weigh(piece, "key", True, own.kept)
            (recalled,) = products((own.kept, told.state))
            set_block(told.value, (loaded(piece.value) - recalled).astype(self.dtype))
            (written,) = products((piece.solved, told.value))
            reset_block(told.value, written.astype(self.dtype))

        def tell_back(piece, told, own, carry):
            rule.tell(piece, told, own, carry)
            self.weigh(piece, "key", False, own.kept)
            (d_written,) = products((own.kept, told.state))
            d_written = added(d_written, piece.pairs.T, piece.pulled, self.how.interpret)
            set_block(told.d_value, d_written.astype(self.dtype))
            (d_value,) = products((piece.solved.T, told.d_value))
            reset_block(told.d_value, d_value.astype(self.dtype))

        def keep_back(piece, told, own, carry):
            (state,), _ = rule.keep(piece, told, own, carry)
            self.weigh(piece, "key", True, own.kept)
            reset_block(own.kept, (-loaded(own.kept)).astype(self.dtype))
            return (added(state, own.kept.T, told.d_value, self.how.interpret),), ()

        if sums is BACK:
            return rule._replace(tell=tell_back, keep=keep_back, prepare=prepare)
        return rule._replace(tell=tell, prepare=prepare)

    def _recalled_at(self, piece, told, own, d_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Gradients of keys where they recall, and where they are recalled, beside `d_key`."""
        row, column = rows_and_columns()
        later, earlier = products((told.d_value, piece.value.T), (piece.value, told.d_value.T))
        reset_block(own.pulled, (-jnp.where(row > column, later, earlier)).astype(self.dtype))
        (d_recalled,) = products((told.d_value, piece.states.T))
        return self.pulled_by(piece, own, "key", -d_recalled * self.left_of(piece, True), d_key)


fits = channels.fits
recur = differentiable(Kernel)
