"""Keys, or queries, as kernels of a Hopper GPU pass over them where all queries see the same keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.hopper import passes, wide
from attnzoo.engines.fused.hopper.blocks import Later, Run, Tiles, numbers
from attnzoo.engines.fused.hopper.gained import Found
from attnzoo.engines.fused.hopper.gaining import in_rows
from attnzoo.engines.fused.hopper.meeting import ONWARD, Given, How, counted, recalled
from attnzoo.engines.fused.hopper.passes import Pass, Rule
from attnzoo.engines.fused.hopper.skeleton import Kernel, shares
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    Blocks,
    Matrix,
    added,
    along,
    filled,
    loaded,
    plgpu,
    products,
    spread,
)
from attnzoo.engines.fused.hopper.wide import SQUARE, block, summed


class Side(Kernel):
    """One of both: all operands of `skeleton.Kernel` are of that side, and values are as wide as are summed.

    Attributes:
      grows: whether a kernel that reads sums has room for others.
    """

    grows = True

    def __init__(self, how: How, given: Given, values: int, has_ones: bool):
        super().__init__(how, given)
        self.values, self.has_ones = values, has_ones

    def passing(
        self, name: str, given: Blocks, out: Blocks, held: Any, rule: Rule, left: bool = False
    ) -> dict[str, jax.Array]:
        """What a kernel writes, and sums where it has some `left`, beside sums that it reads."""
        meets = left or held is not None
        made = [x for x in ("read", "key") if meets and x in given and getattr(self.how, x) is not None]
        own = {x: y for name in made for x, y in self.places(name).items()}
        if "d_out" in given and self.how.finish is not None:
            own |= {"pulled": self.rounded(ROWS, self.values), "pulled_one": self.f32(ROWS)}
        batch, length = self.given.read.shape[:2]
        known = {} if held is None else self.known(held)
        sums = self.sums_shapes if left else {}
        work = self.work(Pass((batch, length, self.num_heads), given, out, known, sums, own))
        return passes.launch(name, work, rule, self.how.interpret)

    def work(self, work: Pass) -> Pass:
        """The same with what is fixed."""
        return work._replace(fixed=self.fixed)

    def places(self, name: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Where the program of queries or keys writes what it makes."""
        return {f"made_{name}": self.rounded(ROWS, self.channels)}

    @property
    def sums_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of a head."""
        ones: dict[str, tuple[int, ...]] = {"ones": (self.channels,)} if self.has_ones else {}
        return {"sums": (self.channels, self.values)} | ones

    def known(self, held: Any) -> dict[str, jax.Array]:
        """Sums, as kernels read them."""
        return {"sums": held.sums.astype(self.dtype)} | ({} if held.ones is None else {"ones": held.ones})

    def pulled_apart(self, d_out: jax.Array) -> Blocks:
        """Gradients of what is read, of that of outputs, where another kernel sums them."""
        ones = {"pulled_one": self.numbers()} if self.has_ones else {}
        return {"pulled": Matrix(self.tokens(self.values, d_out.dtype))} | ones

    def begin(self) -> tuple[jax.Array, ...]:
        """Empty sums."""
        return tuple(filled(0, *shape) for shape in self.sums_shapes.values())

    def grown(self, sums: tuple[jax.Array, ...], by, value, one: Any) -> tuple[jax.Array, ...]:
        """Sums with those of rows of channels times others, and times numbers that stand beside these in a block."""
        total, *ones = sums
        ones = [counted(x, by, loaded(one, axis=1)) for x in ones]
        return (added(total, by.T, value, self.how.interpret), *ones)

    def recalled(self, held, by, counts: bool = True) -> tuple[jax.Array, ...]:
        """What rows of channels read of sums."""
        ones = [recalled(by, held.ones)] if self.has_ones and counts else []  # before registers hold products
        return (*products((by, held.sums)), *ones)

    def against(self, held, value, one: jax.Array | None) -> Any:
        """What rows of values, and numbers beside them, read of sums: the gradient of rows of channels."""
        (out,) = products((value, held.sums.T))
        return out if one is None else out + spread(one, out.shape) * along(held.ones, out.shape, 1)


class Wide(Side, wide.Kernel):
    """The same of many channels, by blocks of them, and of sums likewise."""

    def places(self, name: str) -> dict[str, jax.ShapeDtypeStruct]:
        return {f"made_{name}": self.rounded(self.blocks, *SQUARE)}

    @property
    def sums_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.matrices, SQUARE) | dict.fromkeys(self.vectors, (ROWS,))

    def known(self, held: Any) -> dict[str, jax.Array]:
        known = super().known(held)
        return known | {"sums": known["sums"].reshape(*known["sums"].shape[:2], self.blocks, *SQUARE)}

    def made(self, name: str, piece, own, who: str = "made") -> Any:
        run = self.run(own)
        (rows,) = run.made(getattr(self.how, name), self.of_program(name, piece, own))
        run.run()
        self.write(ONWARD, own, {name: rows}, None)
        plgpu.commit_smem()
        return getattr(own, f"made_{name}")

    def grown(self, sums: tuple[jax.Array, ...], by, value, one: Any) -> tuple[jax.Array, ...]:
        blocks, totals, ones = [by.at[i] for i in numbers(self.blocks)], sums[: self.blocks], sums[self.blocks :]
        ones = tuple(counted(x, rows, loaded(one, axis=1)) for x, rows in zip(ones, blocks, strict=False))
        pairs = zip(totals, blocks, strict=True)
        return *(added(x, rows.T, value, self.how.interpret) for x, rows in pairs), *ones

    def recalled(self, held, by, counts: bool = True) -> tuple[jax.Array, ...]:
        ones = [wide.recalled(by, held.ones)] if self.has_ones and counts else []
        return (*summed([(by.at[i], held.sums.at[i]) for i in range(self.blocks)]), *ones)

    def against(self, held, value, one: jax.Array | None) -> Any:
        def tile(number, made: dict) -> jax.Array:
            (out,) = products((value, held.sums.at[number].T))
            return out if one is None else out + spread(one, SQUARE) * along(block(held.ones, number), SQUARE, 1)

        return Tiles(0, tile)


class Brought(Wide):
    """One that reads sums of so many channels that their blocks are brought one after another, again for each piece,
    and with them what makes them: rows of channels are `Tiles` of a run over blocks.
    """

    grows = False

    def __init__(self, how: How, given: Given, values: int, has_ones: bool):
        super().__init__(how, given, values, has_ones)
        self.channels, self.num_heads = self.channels * self.shares, self.num_heads // self.shares
        self.blocks, self.shares = self.channels // ROWS, 1

    def work(self, work: Pass) -> Pass:
        apart = lambda x: x if x.ndim == 5 else x.reshape(*x.shape[:2], self.blocks, ROWS)
        return work._replace(held={}, brought={name: apart(x) for name, x in (work.held | self.fixed).items()})

    def places(self, name: str) -> dict[str, jax.ShapeDtypeStruct]:
        return {}

    def run(self, own) -> Run:
        return Run(self.dtype, self.how.interpret, own.over)

    def made(self, name: str, piece, own, who: str = "made") -> Any:
        run = self.run(own)
        (rows,) = run.made(getattr(self.how, name), self.of_program(name, piece, own))
        return run, Tiles(rows.level, lambda number, made: rows.tile(number, made).astype(self.dtype))

    def recalled(self, held, by, counts: bool = True) -> tuple[jax.Array, ...]:
        run, rows = by
        ones = Tiles(0, lambda number, made: along(block(held.ones, number), SQUARE, 1))
        read = [run.product(rows, held.sums), *([run.summed(rows, ones)] if self.has_ones and counts else [])]
        run.run()
        return tuple(x.made() for x in read)


@dataclasses.dataclass(frozen=True)
class Leveled:
    """Rows of channels with gains, and by what they read or write the one without, along rows, and in a block along
    columns; or gradients of both.
    """

    rows: Any
    level: jax.Array
    columns: Any = None

    def __mul__(self, factor: float) -> Leveled:
        return Leveled(self.rows * factor, self.level * factor)


class Gained(Wide):
    """The same of keys with gains, whose features weigh e^(b - M), which is known. Beside sums of these are those
    of the channel without gains, to which each key brings a number, and which queries read by floors.
    """

    @property
    def sums_shapes(self) -> dict[str, tuple[int, ...]]:
        return super().sums_shapes | dict.fromkeys(("plain", "number"), (ROWS,))

    def places(self, name: str) -> dict[str, jax.ShapeDtypeStruct]:
        return super().places(name) | ({"floor": self.f32(ROWS)} if name == "read" else {})

    def known(self, held: Found) -> dict[str, jax.Array]:
        return super().known(held) | {"plain": held.plain, "number": in_rows(held.number)}

    def left(self, made: dict[str, jax.Array]) -> Found:
        """With nothing of M, which others know."""
        sums, ones = super().left(made)
        number = made["number"][..., 0]
        return Found(sums, ones, made["plain"], number, jnp.zeros_like(number))

    def gain(self, piece, own) -> jax.Array:
        """b of keys."""
        run = self.run(own)
        program: Any = self.how.key
        _, gain = run.made(program, self.of_program("key", piece, own))
        run.run()
        return gain.made()

    def made(self, name: str, piece, own, who: str = "made") -> Leveled:
        run = self.run(own)
        rows, number = run.made(getattr(self.how, name), self.of_program(name, piece, own))
        run.run()
        if name == "key":
            rows, level, columns = _weighed(rows, piece), loaded(piece.plain_rows.at[0]), piece.plain_columns.at[0]
        else:
            level, columns = number.made().astype(jnp.float32), own.floor
            columns[...] = level
        self.write(ONWARD, own, {name: rows}, None)
        plgpu.commit_smem()
        return Leveled(getattr(own, f"made_{name}"), level, columns)

    def grown(self, sums: tuple[jax.Array, ...], by: Leveled, value, one: Any) -> tuple[jax.Array, ...]:
        *sums_of_gains, plain, number = sums
        level = loaded(by.columns, axis=1)
        plain = counted(plain, value, level)
        number = number + spread(loaded(one, axis=1) * level, SQUARE, 1).sum(axis=1)
        return *super().grown(tuple(sums_of_gains), by.rows, value, one), plain, number

    def recalled(self, held, by: Leveled, counts: bool = True) -> tuple[jax.Array, ...]:
        out, *ones = super().recalled(held, by.rows, counts)
        out = out + spread(by.level, SQUARE) * along(held.plain, SQUARE, 1)
        return out, *(x + by.level * loaded(held.number) for x in ones)

    def against(self, held, value, one: Any) -> Leveled:
        d_level = (loaded(value) * along(held.plain, SQUARE, 1)).sum(axis=1) + one * loaded(held.number)
        return Leveled(super().against(held, value, one), d_level)

    def pulled(self, name: str, piece, own, d_made: Leveled, changed: list[bool], told: Any) -> Iterator[jax.Array]:
        run, rows = self.run(own), d_made.rows
        number: Any = d_made.level
        if name == "key":
            by_own = run.summed(rows, Tiles(0, lambda number, made: loaded(own.made_key.at[number])))
            number = run.later(by_own.level, lambda: by_own.made() + loaded(piece.d_gain.at[0]))
            rows = _weighed(rows, piece)
        return self.pulled_rows(name, piece, own, run, [rows, number], changed)


def _weighed(rows: Any, piece) -> Tiles:
    """Rows of channels of keys, or their gradients, by what these weigh beside the largest."""
    whole = lambda number, made: rows.made() if isinstance(rows, Later) else rows.tile(number, made)
    return Tiles(rows.level, lambda number, made: whole(number, made) * spread(loaded(piece.weight.at[0]), SQUARE))


def of_side(how: How, given: Given, values: int, has_ones: bool, has_gains: bool, grows: bool = False) -> Side:
    """Keys or queries, which may read sums, or of which some grow where they read none."""
    kind = Gained if has_gains else Wide if wide.are_many(given, how) else Side
    if not grows and shares(given, how) > 1:
        kind = Brought
    return kind(how, given, values, has_ones)
