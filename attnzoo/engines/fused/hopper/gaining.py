"""What warpgroups of a Hopper GPU do along chunks of tokens whose keys have gains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.hopper import wide
from attnzoo.engines.fused.hopper.gained import ALONE, VECTORS, Found, Meeting
from attnzoo.engines.fused.hopper.meeting import BACK, ONWARD, Sums
from attnzoo.engines.fused.hopper.skeleton import both
from attnzoo.engines.fused.hopper.walk import Rule
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    Blocks,
    Matrix,
    along,
    filled,
    loaded,
    plgpu,
    rows_and_columns,
    spread,
)
from attnzoo.engines.fused.hopper.wide import SQUARE, block
from attnzoo.engines.state import LOWEST


class Kernel(wide.Kernel):
    """What the kernels of a call have in common."""

    @property
    def operands(self) -> Blocks:
        """What all of them read."""
        given = self.given
        matrices: Blocks = {"read": Matrix(given.read), "key": Matrix(given.key), "value": Matrix(given.value)}
        return matrices | self.beside("read") | self.beside("key")

    @property
    def operands_onward(self) -> Blocks:
        """What those read that go onward."""
        return self.operands | both("one", self.given.one[:, :, None]) | both("plain", self.given.plain[:, :, None])

    @property
    def vectors(self) -> list[str]:
        return [*super().vectors, *ALONE]

    def begun(self, found: Found) -> dict[str, jax.Array]:
        beside = found.plain, in_rows(found.number), in_rows(found.top)
        return super().begun(found) | dict(zip(ALONE, beside, strict=True))

    def left(self, made: dict[str, jax.Array]) -> Found:
        alone = made["plain"], made["number"][..., 0], made["top"][..., 0]
        return Found(self.joined(made, "sums"), self.joined(made, "ones"), *alone)

    def memory(self, sums: Sums, out: Blocks) -> dict[str, dict[str, Any]]:
        memory, vector = super().memory(sums, out), self.f32(ROWS)
        memory["told"] |= dict.fromkeys(ALONE, vector)
        memory["prepared"] |= {"faded": self.rounded(*SQUARE), "vectors": self.f32(len(VECTORS) * ROWS)}
        if not sums.is_backward:
            memory["own"] |= {"top": vector}
            memory["fixed"] |= {} if self.given.found is None else {"top_found": in_rows(self.given.found.top)}
        return memory

    def keeping(self, sums: Sums, is_found: bool, keeps: bool, read: Callable) -> Rule:
        is_backward = sums.is_backward

        def tell(piece, told, own, carry):
            self.tell(told, carry)
            for name, x in zip(ALONE, carry[-len(ALONE) :], strict=True):
                getattr(told, name)[...] = x
            plgpu.commit_smem()

        def keep(piece, told, own, carry):
            plain, number, top = carry[-len(ALONE) :]
            plain, number = plain + loaded(self.vector(piece, "plain")), number + loaded(self.vector(piece, "number"))
            top = self._pending(piece, top) if is_backward else loaded(self.vector(piece, "last"))
            kept = loaded(self.vector(piece, "kept"))
            return (*self.with_chunk(sums, piece, carry[: -len(ALONE)], piece.faded, kept), plain, number, top), ()

        def ready(own):
            if not is_backward:
                own.top[...] = loaded(own.top_found) if is_found else filled(LOWEST, ROWS)
                plgpu.commit_smem()

        prepare = self._prepare_back if is_backward else self._prepare_onward
        rule = super().keeping(sums, is_found, keeps, read)
        return rule._replace(tell=tell, keep=keep, prepare=prepare, ready=ready)

    def _prepare_onward(self, piece, prepared, own) -> None:
        (psi, gain), (phi, floor) = self._made(piece, own)
        before = loaded(own.top)
        self.vector(prepared, "column")[...] = -gain
        plgpu.commit_smem()
        gains = -along(self.vector(prepared, "column"), SQUARE, 1)
        row, column = rows_and_columns()
        top = jnp.maximum(before, jnp.where(row >= column, gains, LOWEST).max(axis=1))
        last = jnp.maximum(before, gains.max(axis=1))
        own.top[...] = last
        self._prepare(prepared, row=-top, base=before, last=last, floor=floor, kept=jnp.exp(before - last))
        level = loaded(piece.plain_rows.at[0])
        self._write(ONWARD, piece, prepared, {"key": psi, "read": phi}, jnp.exp(gain - last), level)

    def _prepare_back(self, piece, prepared, own) -> None:
        (psi, gain), (phi, floor) = self._made(piece, own)
        before, top = loaded(piece.before.at[0]), loaded(piece.largest_rows.at[0])
        last = along(piece.largest_columns.at[0], SQUARE, 1).max(axis=1)
        self._prepare(prepared, row=gain, base=-last, last=last, floor=floor, kept=jnp.exp(before - last))
        self._write(BACK, piece, prepared, {"key": psi, "read": phi}, jnp.exp(before - top), floor)

    def _prepare(self, prepared, **vectors: jax.Array) -> None:
        for name, x in vectors.items():
            self.vector(prepared, name)[...] = x

    def _write(self, sums: Sums, piece, prepared, made: dict[str, Any], faded: jax.Array, level: jax.Array) -> None:
        """Writes features, and what a chunk writes into the state: rows of which so much is left behind it."""
        one, rows = loaded(getattr(piece, f"{sums.one}_rows").at[0]), loaded(getattr(piece, sums.value))
        prepared.faded[...] = (rows * spread(faded, SQUARE)).astype(self.dtype)
        plain, number = (rows * spread(level, SQUARE)).sum(axis=0), spread(one * level, SQUARE).sum(axis=0)
        self._prepare(prepared, plain=plain, number=number)
        self.write(sums, prepared, made, one * faded)

    def _made(self, piece, own) -> list[tuple[Any, jax.Array]]:
        """Features of keys and of queries, and the number beside them."""
        run = self.run(own)
        each = [run.made(getattr(self.how, x), self.of_program(x, piece, own)) for x in ("key", "read")]
        run.run()
        return [(rows, number.made().astype(jnp.float32)) for rows, number in each]

    def vector(self, of, name: str):
        """One of those that are prepared of a chunk."""
        return block(of.vectors, VECTORS.index(name))

    def _pending(self, piece, pending: jax.Array) -> jax.Array:
        """The gradient of M before a chunk by all that read behind it, from the same behind the chunk."""
        before = loaded(piece.before.at[0])
        is_same = along(piece.largest_columns.at[0], SQUARE, 1) == spread(before, SQUARE)
        own = jnp.where(is_same, along(piece.d_largest_columns.at[0], SQUARE, 1), 0.0).sum(axis=1)
        return own + jnp.where(loaded(self.vector(piece, "last")) == before, pending, 0.0)

    def d_largest(self, piece, told) -> jax.Array:
        """The gradient of M by all that read until another key is the largest, for the keys that are."""
        row, column = rows_and_columns()
        largest, largest_of_all = loaded(piece.largest_rows.at[0]), along(piece.largest_columns.at[0], SQUARE, 1)
        earlier = jnp.where(column < row, largest_of_all, LOWEST).max(axis=1)
        is_same = (column >= row) & (largest_of_all == spread(largest, SQUARE))
        own = jnp.where(is_same, along(piece.d_largest_columns.at[0], SQUARE, 1), 0.0).sum(axis=1)
        own = own + jnp.where(loaded(self.vector(piece, "last")) == largest, loaded(told.top), 0.0)
        return jnp.where(largest > jnp.maximum(earlier, loaded(piece.before.at[0])), own, 0.0)

    def one(self, sums: Sums, piece) -> Any:
        """A block of what stands beside what columns write."""
        return getattr(piece, f"{sums.one}_columns").at[0]

    def level(self, sums: Sums, piece) -> Any:
        """A block of what columns write the plain channel by."""
        return self.vector(piece, "floor") if sums.is_backward else piece.plain_columns.at[0]

    def chunk(self, sums: Sums, piece, told) -> Meeting:
        """A chunk, and what those before it have written."""
        row, is_backward = loaded(self.vector(piece, "row")), sums.is_backward
        return Meeting(
            getattr(piece, f"made_{sums.by}"),
            getattr(piece, sums.value),
            self.one(sums, piece),
            *(told.state, told.ones, told.plain, told.number),
            row,
            piece.largest_columns.at[0] if is_backward else self.vector(piece, "column"),
            jnp.exp(row + loaded(self.vector(piece, "base"))),
            loaded(piece.plain_rows.at[0] if is_backward else self.vector(piece, "floor")),
            self.level(sums, piece),
            is_backward,
            self.how.interpret,
        )


def in_rows(x: jax.Array) -> jax.Array:
    """A number as often as a vector has some."""
    return jnp.broadcast_to(x[..., None], (*x.shape, ROWS))
