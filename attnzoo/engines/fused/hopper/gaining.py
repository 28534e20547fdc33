"""What warpgroups of a Hopper GPU do along chunks of tokens whose keys have gains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from attnzoo.engines.fused.hopper import meeting
from attnzoo.engines.fused.hopper import walk as hopper_walk
from attnzoo.engines.fused.hopper.blocks import Fixed, Run, Tiles, numbers
from attnzoo.engines.fused.hopper.gained import (
    ALONE,
    SQUARE,
    VECTORS,
    Found,
    Given,
    How,
    Meeting,
    block,
)
from attnzoo.engines.fused.hopper.meeting import BACK, ONWARD, Sums, both
from attnzoo.engines.fused.hopper.rows import Rows
from attnzoo.engines.fused.hopper.walk import Rule, Walk
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    Blocks,
    Matrix,
    added,
    along,
    filled,
    loaded,
    plgpu,
    rows_and_columns,
    spread,
)
from attnzoo.engines.state import LOWEST


class Kernel(meeting.Kernel):
    """What the kernels of a call have in common."""

    how: Any
    given: Any

    def __init__(self, how: How, given: Given):
        self.how, self.given = how, given
        self.channels, self.dtype = how.key.made.jaxpr.outvars[0].aval.shape[1], given.read.dtype
        self.blocks, self.num_heads = self.channels // ROWS, max(x.shape[2] for x in given[:3])

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

    def walk(self, name: str, sums: Sums, operands: Blocks, out: Blocks, read: Callable, found: Found | None):
        """What a kernel writes, by name, and the state that it leaves."""
        batch, num_heads = len(self.given.read), self.num_heads
        by_blocks = lambda x: x.reshape(*x.shape[:2], self.blocks, *SQUARE)
        fixed = {f"matrix_{i}": by_blocks(x) for i, x in enumerate(self.given.matrices)}
        begun = {} if found is None else self._begun(found)
        if begun and not sums.is_backward:
            fixed["top_found"] = begun.pop("top")
        wide, vector = self.rounded(self.blocks, *SQUARE), self.f32(ROWS)
        sums_of, vectors = (
            dict.fromkeys(x, self.f32(batch, num_heads, *y)) for x, y in zip(self.names, (SQUARE, (ROWS,)), strict=True)
        )
        work = Walk(
            given=operands,
            out=out,
            beside={},
            found=begun,
            left=sums_of | vectors,
            told={"state": wide, "ones": self.f32(self.channels)} | dict.fromkeys(ALONE, vector),
            prepared={"made_read": wide, "made_key": wide, "faded": self.rounded(*SQUARE)}
            | {"ones": self.f32(self.channels), "vectors": self.f32(len(VECTORS) * ROWS)},
            own=({"pulled": self.rounded(*SQUARE)} if "pulled" in out else {})
            | ({} if sums.is_backward else {"top": vector}),
            is_backward=sums.is_backward,
            fixed=fixed,
        )
        made = hopper_walk.launch(name, work, self.rule(sums, found is not None, read), self.how.interpret)
        return dict(zip([*out, *work.left], made, strict=True))

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Of the matrices of a state, and of its vectors."""
        each = range(self.blocks)
        return [f"sums_{i}" for i in each], [*(f"ones_{i}" for i in each), *ALONE]

    def _begun(self, found: Found) -> dict[str, jax.Array]:
        """What was found, as kernels read it."""
        wide = lambda x: jnp.broadcast_to(x[..., None], (*x.shape, ROWS))
        parts = [part for x in (found.sums, found.ones) for part in jnp.split(x, self.blocks, axis=2)]
        each = [*parts, found.plain, wide(found.number), wide(found.top)]
        return dict(zip([*self.names[0], *self.names[1]], each, strict=True))

    def state(self, made: dict[str, jax.Array]) -> Found:
        """The state."""
        joined = lambda name: jnp.concatenate([made[f"{name}_{i}"] for i in range(self.blocks)], axis=2)
        return Found(joined("sums"), joined("ones"), made["plain"], made["number"][..., 0], made["top"][..., 0])

    def rule(self, sums: Sums, is_found: bool, read: Callable) -> Rule:
        """What warpgroups do, of which one keeps the state, and one prepares features."""
        count, is_backward = self.blocks, sums.is_backward

        def begin(found):
            names = [(x, shape) for own, shape in zip(self.names, (SQUARE, (ROWS,)), strict=True) for x in own]
            has = lambda name: is_found and (is_backward or name != "top")
            return tuple(loaded(found(name)) if has(name) else filled(0, *shape) for name, shape in names)

        def tell(piece, told, own, carry):
            for i, number in enumerate(numbers(count)):
                told.state.at[number][...] = carry[i].astype(self.dtype)
                block(told.ones, i)[...] = carry[count + i]
            for name, x in zip(ALONE, carry[2 * count :], strict=True):
                getattr(told, name)[...] = x
            plgpu.commit_smem()

        def keep(piece, told, own, carry):
            by, kept = getattr(piece, f"made_{sums.by}"), loaded(self.vector(piece, "kept"))
            plain, number, top = carry[2 * count :]
            plain, number = plain + loaded(self.vector(piece, "plain")), number + loaded(self.vector(piece, "number"))
            top = self._pending(piece, top) if is_backward else loaded(self.vector(piece, "last"))
            ones = [kept * carry[count + i] + loaded(block(piece.ones, i)) for i in range(count)]
            faded = [x * spread(kept, SQUARE) for x in carry[:count]]
            pairs = zip(faded, numbers(count), strict=True)
            state = [added(x, by.at[i].T, piece.faded, self.how.interpret) for x, i in pairs]
            return (*state, *ones, plain, number, top), ()

        def ready(own):
            if not is_backward:
                own.top[...] = loaded(own.top_found) if is_found else filled(LOWEST, ROWS)
                plgpu.commit_smem()

        prepare = self._prepare_back if is_backward else self._prepare_onward
        return Rule(begin, tell, keep, read, prepare, ready)

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
        weight = one * faded

        @pl.loop(jnp.int32(0), jnp.int32(self.blocks))
        def _(number):
            for name, tiles in made.items():
                tile = tiles.tile(number, {}) if isinstance(tiles, Tiles) else tiles.made()
                getattr(prepared, f"made_{name}").at[number][...] = tile.astype(self.dtype)
                if name == sums.by:
                    block(prepared.ones, number)[...] = (tile * spread(weight, SQUARE)).astype(jnp.float32).sum(axis=0)

    def run(self) -> Run:
        """Passes over channels."""
        return Run(self.blocks, self.dtype, self.how.interpret)

    def _made(self, piece, own) -> list[tuple[Any, jax.Array]]:
        """Features of keys and of queries, and the number beside them."""
        run = self.run()
        each = [run.made(getattr(self.how, x), self._of_program(x, piece, own)) for x in ("key", "read")]
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

    def _of_program(self, name: str, piece, own) -> list[Any]:
        """The operands of the program of queries or keys."""
        matrices = [Fixed(getattr(own, f"matrix_{i}")) for i in getattr(self.how, f"matrices_{name}")]
        return [*self._given(name, piece), *matrices]

    def pulled_rows(self, name: str, piece, own, run: Run, pulled: list[Any], changed: list[bool]):
        """Gradients of queries or keys, and of what their program needs beside them."""
        program: Rows = getattr(self.how, name)
        if self.blocks == 1:
            pulled = [pulled[0].tile(numbers(1)[0], {}), *pulled[1:]]
        d_rows, *d_beside = run.gradients(program, self._of_program(name, piece, own), pulled)
        run.run()
        yield d_rows.made()
        yield from (x.made() for x, is_changed in zip(d_beside, changed, strict=True) if is_changed)

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
