"""Features of many channels on a Hopper GPU, such as all pairs of 16 numbers, which kernels make by blocks of channels.

They depend on no state: the warpgroup that copies prepares those of both sides, and what a chunk adds to counts, while
the others are at the chunk before. So the one that keeps the state has registers for 256 channels. Gradients of rows of
channels are never there at once: each block is made where features are differentiated, and left.

More channels, such as all pairs of 64 numbers, are shared by blocks of threads, each with the rows of matrices that
make its own. What is read along chunks, and gradients, are sums of what each has of them, which it writes rounded, half
as much as in float32. XLA adds them up, and finishes outputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from attnzoo.engines.fused.hopper import meeting, skeleton
from attnzoo.engines.fused.hopper.blocks import Fixed, Loaded, Run, Tiles, numbers
from attnzoo.engines.fused.hopper.meeting import Given, How, Sums, all_left
from attnzoo.engines.fused.hopper.recurrence import State
from attnzoo.engines.fused.hopper.rows import WIDEST, Rows
from attnzoo.engines.fused.hopper.walk import Rule
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    Blocks,
    added,
    along,
    filled,
    loaded,
    plgpu,
    products,
    spread,
)

MOST = 16 * WIDEST  # channels that blocks of threads share
WHOLE = 128  # channels of which a warpgroup has whole rows
SQUARE = (ROWS, ROWS)


def fits(given: Given, how: How) -> bool:
    """Whether kernels make such features, and hold the state."""
    if how.read is None or how.key is None or len(how.key.widths) > 1 or given.rate is not None:
        return False
    (channels,), widths = how.key.widths, (given.read.shape[3], given.key.shape[3], given.value.shape[3])
    is_held = channels % ROWS == 0 and channels <= WIDEST and how.read.widths == [channels]
    return is_held and widths == (how.read.width, how.key.width, ROWS) and max(widths) <= ROWS


def are_many(given: Given, how: How) -> bool:
    """Whether a warpgroup cannot have whole rows of channels, or they are made by matrices."""
    return bool(given.matrices) or sum(meeting.widths(how.key, given.key)) > WHOLE


class Meeting(meeting.Meeting):
    """A chunk whose rows of channels stand in blocks [blocks, `ROWS`, `ROWS`], and a state likewise."""

    def pulled(self, value, one: jax.Array | None = None) -> Any:
        """The gradient of what reads so, for one of what was read, as `Tiles`."""
        (pairs,) = products((value, self.value.T))
        if one is not None:
            pairs = pairs + spread(one, SQUARE) * along(self.one, SQUARE, 1)
        return tiles(self, value, one, self._met(pairs).astype(self.value.dtype), self._left)

    def _products(self, of) -> tuple[jax.Array, ...]:
        return met(of, self.by, self.state)

    def _counts(self, of) -> jax.Array:
        return recalled(of, self.ones)


def met(of, by, state) -> tuple[jax.Array, ...]:
    """Rows of channels times others, and times a state."""
    blocks = range(of.shape[0])
    return summed([(of.at[i], by.at[i].T) for i in blocks], [(of.at[i], state.at[i]) for i in blocks])


def summed(*pairs: list[tuple[Any, Any]]) -> tuple[jax.Array, ...]:
    """Sums of products of blocks in shared memory, in float32."""

    def made(*into):
        for ref, each in zip(into, pairs, strict=True):
            for a, b in each:
                plgpu.wgmma(ref, a, b)
        return tuple(ref[...] for ref in into)

    return pl.run_scoped(made, *[plgpu.ACC(SQUARE, jnp.float32)] * len(pairs))


def recalled(of, ones) -> jax.Array:
    """What rows of channels read of sums of what stands beside values."""

    def of_block(number, total):
        return total + (loaded(of.at[number]) * along(block(ones, number), SQUARE, 1)).sum(axis=1)

    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(of.shape[0]), of_block, filled(0, ROWS))


def tiles(chunk: Any, value, one: jax.Array | None, pairs: jax.Array, left: Callable) -> Tiles:
    """Rows of channels by `pairs` of tokens, and what is `left` of those by the state of a chunk."""

    def tile(number, made: dict) -> jax.Array:
        (out,) = products((value, chunk.state.at[number].T))
        if one is not None:
            out = out + spread(one, SQUARE) * along(block(chunk.ones, number), SQUARE, 1)
        return added(left(out), pairs, chunk.by.at[number], chunk.interpret)

    return Tiles(0, tile)


def block(of, number):
    """One of the blocks of `ROWS` of a vector, which may stand apart."""
    return of.at[number] if len(of.shape) > 1 else of.at[pl.ds(number * ROWS, ROWS)]


class Kernel(skeleton.Kernel):
    """What kernels have in common that make features by blocks."""

    meets: Any = Meeting

    def __init__(self, how: How, given: Given):
        super().__init__(how, given)
        self.blocks = self.channels // ROWS

    @property
    def matrices(self) -> list[str]:
        """Those of a state, by name."""
        return [f"sums_{i}" for i in range(self.blocks)]

    @property
    def vectors(self) -> list[str]:
        """Its vectors."""
        return [f"ones_{i}" for i in range(self.blocks)] if self.has_ones else []

    @property
    def sums_left(self) -> dict[str, Any]:
        of_heads = lambda *shape: self.f32(len(self.given.read), self.num_heads, *shape)
        return dict.fromkeys(self.matrices, of_heads(*SQUARE)) | dict.fromkeys(self.vectors, of_heads(ROWS))

    def begun(self, found: Any) -> dict[str, jax.Array]:
        apart = lambda x: x.reshape(len(x), self.num_heads, self.channels, *x.shape[3:])
        parts = [part for x in found[: 1 + self.has_ones] for part in jnp.split(apart(x), self.blocks, axis=2)]
        return dict(zip([*self.matrices, *self.vectors], parts, strict=False))

    def left(self, made: dict[str, jax.Array]) -> Any:
        return State(self.joined(made, "sums"), self.joined(made, "ones") if self.has_ones else None)

    def joined(self, made: dict[str, jax.Array], name: str) -> jax.Array:
        """All blocks, of all shares."""
        joined = jnp.concatenate([made[f"{name}_{i}"] for i in range(self.blocks)], axis=2)
        return joined.reshape(len(joined), -1, self.shares * self.channels, *joined.shape[3:])

    def memory(self, sums: Sums, out: Blocks) -> dict[str, dict[str, Any]]:
        rows, square = self.rounded(self.blocks, *SQUARE), self.rounded(*SQUARE)
        ones = {"ones": self.f32(self.channels)} if self.has_ones else {}
        prepared = {"made_read": rows, "made_key": rows} | ones
        own = {"pulled": square} if "pulled" in out else {}
        if self.has_decays:
            prepared, own = prepared | {"faded": square}, own | {"again": self.f32(ROWS)}
        return {"told": {"state": rows} | ones, "prepared": prepared, "own": own, "fixed": self.fixed}

    @property
    def fixed(self) -> dict[str, jax.Array]:
        """Matrices by blocks of their rows, and vectors, of each share."""
        apart = lambda x: (1, x.shape[1] * self.shares, *((self.blocks, ROWS) if x.ndim > 3 else (self.channels,)))
        return {f"matrix_{i}": x.reshape(*apart(x), *x.shape[3:]) for i, x in enumerate(self.given.matrices)}

    def keeping(self, sums: Sums, is_found: bool, keeps: bool, read: Callable) -> Rule:
        assert not keeps, "gradients by decays of many channels"
        shapes = dict.fromkeys(self.matrices, SQUARE) | dict.fromkeys(self.vectors, (ROWS,))

        def begin(found):
            return tuple(loaded(found(name)) if is_found else filled(0, *shape) for name, shape in shapes.items())

        def tell(piece, told, own, carry):
            self.tell(told, carry)
            plgpu.commit_smem()

        def keep(piece, told, own, carry):
            if self.has_decays:
                return tuple(self.with_chunk(sums, piece, carry, piece.faded, all_left(piece, ROWS))), ()
            return tuple(self.with_chunk(sums, piece, carry, getattr(piece, sums.value))), ()

        def prepare(piece, prepared, own):
            self.prepare(sums, piece, prepared, own)

        return Rule(begin, tell, keep, read, prepare)

    def tell(self, told, carry: tuple) -> None:
        """Writes sums of channels."""
        for i, number in enumerate(numbers(self.blocks)):
            told.state.at[number][...] = carry[i].astype(self.dtype)
            if self.has_ones:
                block(told.ones, i)[...] = carry[self.blocks + i]

    def with_chunk(self, sums: Sums, piece, carry: tuple, value, kept: jax.Array | None = None) -> list[jax.Array]:
        """These with those of a chunk that writes `value`, where so much is `kept` of what they were."""
        by, states, ones = getattr(piece, f"made_{sums.by}"), [*carry[: self.blocks]], [*carry[self.blocks :]]
        if kept is not None:
            states, ones = [x * spread(kept, SQUARE) for x in states], [x * kept for x in ones]
        pairs = zip(states, numbers(self.blocks), strict=True)
        states = [added(x, by.at[i].T, value, self.how.interpret) for x, i in pairs]
        return [*states, *(x + loaded(block(piece.ones, i)) for i, x in enumerate(ones))]

    def prepare(self, sums: Sums, piece, prepared, own) -> None:
        """Writes features, and what a chunk writes into the state."""
        run = self.run(own)
        made = {x: run.made(getattr(self.how, x), self.of_program(x, piece, own))[0] for x in ("key", "read")}
        run.run()
        weight = loaded(getattr(piece, f"{sums.one}_rows").at[0]) if self.has_ones else None
        if self.has_decays:
            left, rows = jnp.exp(self.decayed(piece, sums.is_backward)), loaded(getattr(piece, sums.value))
            prepared.faded[...] = (rows * spread(left, SQUARE)).astype(self.dtype)
            weight = None if weight is None else weight * left
        self.write(sums, prepared, made, weight)

    def write(self, sums: Sums, prepared, made: dict[str, Any], weight: jax.Array | None) -> None:
        """Writes features, and what a chunk adds to sums of what stands beside values, where that has a weight."""

        @pl.loop(jnp.int32(0), jnp.int32(self.blocks))
        def _(number):
            for name, rows in made.items():
                tile = rows.tile(number, {}) if isinstance(rows, Tiles) else rows.made()
                getattr(prepared, f"made_{name}").at[number][...] = tile.astype(self.dtype)
                if name == sums.by and weight is not None:
                    total = (tile * spread(weight, SQUARE)).astype(jnp.float32).sum(axis=0)
                    block(prepared.ones, number)[...] = total

    def run(self, own) -> Run:
        """Passes over channels."""
        over = functools.partial(jax.lax.fori_loop, jnp.int32(0), jnp.int32(self.blocks))
        return Run(self.dtype, self.how.interpret, over)

    def made(self, name: str, piece, own, who: str = "made") -> Any:
        return getattr(piece, f"made_{name}")

    def of_program(self, name: str, piece, own) -> list[Any]:
        """The operands of the program of queries or keys."""
        given = getattr(self.how, f"matrices_{name}")
        _, *beside = self._given(name, piece)
        return [Loaded(getattr(piece, name)), *beside, *(self._held(own, i) for i in given)]

    def _held(self, own, number: int) -> Any:
        """A matrix, or a vector of channels."""
        held = getattr(own, f"matrix_{number}")
        if len(held.shape) > 2:
            return Fixed(held)
        of_channels = Tiles(0, lambda number, made: along(block(held, number), SQUARE, 1))
        return of_channels.tile(numbers(1)[0], {}) if self.blocks == 1 else of_channels

    def pulled(
        self, name: str, piece, own, d_made: Any, changed: list[bool], told: Callable | None
    ) -> Iterator[jax.Array]:
        assert told is None, "gradients by decays of many channels"
        return self.pulled_rows(name, piece, own, self.run(own), [d_made], changed)

    def pulled_rows(self, name: str, piece, own, run: Run, pulled: list[Any], changed: list[bool]):
        """Gradients of queries or keys, and of what their program needs beside them."""
        program: Rows = getattr(self.how, name)
        if self.blocks == 1:
            pulled = [pulled[0].tile(numbers(1)[0], {}), *pulled[1:]]
        d_rows, *d_beside = run.gradients(program, self.of_program(name, piece, own), pulled)
        run.run()
        yield d_rows.made()
        yield from (x.made() for x, is_changed in zip(d_beside, changed, strict=True) if is_changed)
