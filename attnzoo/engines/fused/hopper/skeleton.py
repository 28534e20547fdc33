"""What the kernels of a recurrence on a Hopper GPU have in common that make features themselves: operands, memory,
and what is done along chunks.

A warpgroup makes rows of features for itself, in shared memory: they are made twice, and waited for by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from attnzoo.engines.fused.hopper import walk
from attnzoo.engines.fused.hopper.meeting import Given, How, Meeting, Sums, all_left, counted, decayed, widths
from attnzoo.engines.fused.hopper.recurrence import LOWEST, State
from attnzoo.engines.fused.hopper.rows import Rows
from attnzoo.engines.fused.hopper.walk import Rule, Walk
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    Blocks,
    Matrix,
    Vectors,
    added,
    all_slots,
    filled,
    loaded,
    rows_and_columns,
    set_block,
    spread,
)


class Kernel:
    """What the kernels of a recurrence have in common."""

    meets: Any = Meeting

    def __init__(self, how: How, given: Given):
        self.how, self.given, self.channels = how, given, sum(widths(how.key, given.key))
        self.has_ones, self.has_decays = given.one is not None, given.log_decay is not None
        self.dtype, self.shares = given.read.dtype, shares(given, how)
        self.num_heads = max(x.shape[2] for x in given[:3]) * self.shares  # a block of threads each

    def tokens(self, width: int, dtype: Any) -> jax.ShapeDtypeStruct:
        """So many numbers for each token of each head."""
        return jax.ShapeDtypeStruct((*self.given.read.shape[:2], self.num_heads, width), dtype)

    def gradient(self, x: jax.Array) -> Matrix:
        """That of rows."""
        return self.of_heads(x.shape[3], x.shape[2])

    def of_heads(self, width: int, num_heads: int) -> Matrix:
        """What so many heads are to have of each token, in float32 until those of heads that share one are summed."""
        return Matrix(self.tokens(width, self.dtype if num_heads * self.shares == self.num_heads else jnp.float32))

    @property
    def reads_ones(self) -> bool:
        """Whether what is read of counts is an output of its own, since nothing finishes outputs."""
        return self.has_ones and self.how.finish is None

    @property
    def chunks(self) -> int:
        """Of the sequence."""
        return all_slots(self.given.read.shape[1]) // ROWS

    def numbers(self) -> Vectors:
        """One of them for each position of all chunks, in float32."""
        return Vectors(self.f32(len(self.given.read), self.num_heads, 1, self.chunks * ROWS))

    def states_of_chunks(self) -> Matrix:
        """A state for each chunk, [B, chunks * F, N, `ROWS`]."""
        return Matrix(self.rounded(len(self.given.read), self.chunks * self.channels, self.num_heads, ROWS))

    def numbers_beside(self, name: str, changed: list[bool]) -> Blocks:
        """Gradients of what the program of queries or keys needs beside them."""
        return {f"{name}_{i}": self.numbers() for i, is_changed in enumerate(changed) if is_changed}

    @property
    def fixed(self) -> dict[str, jax.Array]:
        """What shared memory holds for all pieces."""
        return {}

    @property
    def sums_left(self) -> dict[str, Any]:
        """Shapes of what is left of a state, by name."""
        left = {"sums": self.f32(len(self.given.read), self.num_heads, self.channels, ROWS)}
        return left | ({"ones": self.f32(*left["sums"].shape[:3])} if self.has_ones else {})

    def left(self, made: dict[str, jax.Array]) -> Any:
        """The state."""
        return State(made["sums"], made.get("ones"))

    def begun(self, found: Any) -> dict[str, jax.Array]:
        """What was found of one, by name."""
        return {name: x for name, x in found._asdict().items() if x is not None}

    def launch(
        self,
        name: str,
        sums: Sums,
        operands: Blocks,
        out: Blocks,
        read: Callable,
        found: Any,
        keeps: bool = False,
    ) -> dict[str, jax.Array]:
        """What a kernel writes, by name, and the state that it leaves, and the states that it `keeps`."""
        states: Blocks = {"states": self.states_of_chunks()} if keeps else {}
        work = Walk(
            given=operands,
            out=out,
            beside=states,
            found={} if found is None else self.begun(found),
            left=self.sums_left,
            **self.memory(sums, out),
            is_backward=sums.is_backward,
        )
        rule = self.keeping(sums, found is not None, keeps, read)
        written = walk.launch(name, work, rule, self.how.interpret)
        return dict(zip([*out, *work.beside, *work.left], written, strict=True))

    def f32(self, *shape: int) -> jax.ShapeDtypeStruct:
        """Numbers that are summed, or sums of decays."""
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def rounded(self, *shape: int) -> jax.ShapeDtypeStruct:
        """Numbers that are multiplied."""
        return jax.ShapeDtypeStruct(shape, self.dtype)

    def memory(self, sums: Sums, out: Blocks) -> dict[str, dict[str, Any]]:
        """Shapes of what is told and prepared, and of what a warpgroup has for itself, and what is fixed."""
        told = {"state": self.rounded(self.channels, ROWS)}
        told |= {"ones": self.f32(self.channels)} if self.has_ones else {}
        sides = (("kept", sums.by), ("made", "read"), ("made", "key"))
        made = [f"{who}_{x}" for who, x in sides if getattr(self.how, x) is not None]
        own = dict.fromkeys(made, self.rounded(ROWS, self.channels))
        own |= {"value": self.rounded(ROWS, ROWS), "again": self.f32(ROWS)} if self.has_decays else {}
        own |= {"pulled": self.rounded(ROWS, ROWS)} if "pulled" in out else {}
        return {"told": told, "prepared": {}, "own": own}

    @property
    def operands(self) -> Blocks:
        """What all of them read."""
        given = self.given
        matrices: Blocks = {"read": Matrix(given.read), "key": Matrix(given.key), "value": Matrix(given.value)}
        one = both("one", given.one if given.one is None else given.one[:, :, None])
        decays = None if given.log_decay is None else jnp.maximum(given.log_decay, LOWEST)[:, :, None]
        return matrices | self.beside("read") | self.beside("key") | one | both("log_decay", decays)

    def beside(self, name: str) -> Blocks:
        """What the program of queries or keys needs beside them."""
        beside = getattr(self.given, f"beside_{name}")
        return {f"{name}_{i}": Vectors(x[:, :, None]) for i, x in enumerate(beside)}

    def keeping(self, sums: Sums, is_found: bool, keeps: bool, read: Callable) -> Rule:
        """What warpgroups do, of which one keeps the state."""

        def begin(found):
            if is_found:
                return (loaded(found("sums")), *([loaded(found("ones"))] if self.has_ones else []))
            return (filled(0, self.channels, ROWS), *([filled(0, self.channels)] if self.has_ones else []))

        def tell(piece, told, own, carry):
            state, *ones = carry
            for x in ones:
                told.ones[...] = x
            set_block(told.state, state.astype(self.dtype))

        def keep(piece, told, own, carry):
            state, *ones = carry
            by, value = self.made(sums.by, piece, own, "kept"), self.written(sums, piece, told)
            if self.has_decays:
                rows, value, last = loaded(value), own.value, all_left(piece, self.channels)
                set_block(
                    value,
                    (rows * spread(jnp.exp(self.decayed(piece, sums.is_backward)), rows.shape)).astype(self.dtype),
                )
                state, ones = state * spread(last, state.shape), [x * last for x in ones]
            if ones:
                one = loaded(getattr(piece, f"{sums.one}_columns").at[0], axis=1)
                one = one * jnp.exp(decayed(piece, 1, sums.is_backward)) if self.has_decays else one
                ones = [counted(x, by, one) for x in ones]
            state = added(state, by.T, value, self.how.interpret)
            return (state, *ones), (*[state] * keeps,)

        return Rule(begin, tell, keep, read)

    def decayed(self, piece, is_upto: bool) -> jax.Array:
        """Sums of the logarithms of decays in a chunk, along rows: up to each token, it included, or behind it."""
        return decayed(piece, 0, is_upto)

    def decayed_again(self, piece, own, is_upto: bool) -> Any:
        """The same along columns, in a block: registers hold one of both."""
        set_block(own.again, decayed(piece, 1, is_upto))
        return own.again

    def written(self, sums: Sums, piece, told) -> Any:
        """A block of what a chunk writes into the state."""
        return getattr(piece, sums.value)

    def made(self, name: str, piece, own, who: str = "made") -> Any:
        """A block of what the program of queries or keys makes of them."""
        program: Rows | None = getattr(self.how, name)
        if program is None:
            return getattr(piece, name)
        block = getattr(own, f"{who}_{name}")
        for group, rows in zip(_groups(block, program), program(*self._given(name, piece)), strict=True):
            set_block(group, rows)
        return block

    def _given(self, name: str, piece) -> list[jax.Array]:
        """The operands of that program."""
        beside = getattr(self.given, f"beside_{name}")
        return [
            loaded(getattr(piece, name)),
            *(loaded(getattr(piece, f"{name}_{i}").at[0]) for i in range(len(beside))),
        ]

    def meeting(self, sums: Sums, piece, told, own) -> Meeting:
        """A chunk, and what those before it have written."""
        again = self.decayed_again(piece, own, not sums.is_backward) if self.has_decays else None
        return self.meets(
            self.made(sums.by, piece, own),
            self.written(sums, piece, told),
            getattr(piece, f"{sums.one}_columns").at[0] if self.has_ones else None,
            told.state,
            told.ones if self.has_ones else None,
            self.decayed(piece, not sums.is_backward) if self.has_decays else None,
            again,
            sums.is_backward,
            self.how.interpret,
        )

    def finished(self, *read: jax.Array) -> tuple[jax.Array, ...]:
        """Outputs of what was read, or that where nothing finishes them."""
        read = tuple(x * self.how.scale for x in read)
        return read if self.how.finish is None else tuple(self.how.finish(*read))

    def unfinished(self, *read_and_pulled: jax.Array) -> list[jax.Array]:
        """Gradients of what was read, of one of outputs."""
        *read, d_out = read_and_pulled
        assert self.how.finish is not None
        return self.how.finish.gradients([x * self.how.scale for x in read], [d_out])

    def pulled(
        self, name: str, piece, own, d_made: Any, changed: list[bool], told: Callable | None
    ) -> Iterator[jax.Array]:
        """Gradients of queries or keys, of that of what was made of them, and of what the program needs beside them.

        Where several groups of channels are made, their gradients take the place of what was made. What is `told` of
        the products of what was made with its gradient comes last, if anything is.
        """
        program: Rows | None = getattr(self.how, name)
        block = getattr(own, f"made_{name}", None) if program else getattr(piece, name, None)
        dots = None if told is None else (d_made * loaded(block)).sum(axis=1)
        d_rows, d_beside = d_made, []
        if program is not None:
            d_groups = [d_made]
            if len(program.widths) > 1:
                set_block(block, d_made.astype(self.dtype))
                d_groups = list(map(loaded, _groups(block, program)))
            d_rows, *d_beside = program.gradients(self._given(name, piece), d_groups)
        yield d_rows
        yield from (x for x, is_changed in zip(d_beside, changed, strict=True) if is_changed)
        if told is not None:
            yield told(dots)

    def passed(self, dots: jax.Array, piece, told) -> jax.Array:
        """The gradient of logarithms of decays: what passes each token, in its chunk and to those behind it."""
        products, shape = loaded(piece.dots.at[0]) - dots, (ROWS, ROWS)
        row, column = rows_and_columns(shape)
        inside = jnp.where(row >= column, spread(products, shape), 0.0)
        blocks = [pl.ds(start, ROWS) for start in range(0, self.channels, ROWS)]
        beyond = [(loaded(told.state.at[x]) * loaded(piece.states.at[x])).sum(axis=1) * self.how.scale for x in blocks]
        return inside.sum(axis=0) + sum(spread(x, shape).sum(axis=0) for x in beyond)


def shares(given: Given, how: How) -> int:
    """Blocks of threads that share the channels of a head, of which each has its own rows of matrices."""
    return given.matrices[0].shape[2] // sum(widths(how.key, given.key)) if given.matrices else 1


def _groups(block, program: Rows) -> list[Any]:
    """The groups of channels that a program makes, in a block of all of them."""
    ends = np.cumsum(program.widths)
    return [block.at[:, pl.ds(int(end) - width, width)] for end, width in zip(ends, program.widths, strict=True)]


def both(name: str, x: jax.Array | None) -> Blocks:
    """Numbers along rows, and along columns: the compiler does not read both from one block."""
    return {} if x is None else {f"{name}_rows": Vectors(x), f"{name}_columns": Vectors(x)}
