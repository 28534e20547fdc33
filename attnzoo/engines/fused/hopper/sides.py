"""Keys, or queries, as kernels of a Hopper GPU pass over them where all queries see the same keys."""

from __future__ import annotations

from typing import Any

import jax

from attnzoo.engines.fused.hopper import passes, wide
from attnzoo.engines.fused.hopper.blocks import Tiles, numbers
from attnzoo.engines.fused.hopper.meeting import ONWARD, Given, How, counted, recalled
from attnzoo.engines.fused.hopper.passes import Pass, Rule
from attnzoo.engines.fused.hopper.recurrence import State
from attnzoo.engines.fused.hopper.skeleton import Kernel
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
from attnzoo.engines.fused.hopper.wide import SQUARE, block, summed


class Side(Kernel):
    """One of both: all operands of `skeleton.Kernel` are of that side, and values are as wide as are summed."""

    def __init__(self, how: How, given: Given, values: int, has_ones: bool):
        super().__init__(how, given)
        self.values, self.has_ones = values, has_ones

    @property
    def gives_ones(self) -> bool:
        """Whether what is read of counts is an output of its own, since nothing finishes outputs."""
        return self.has_ones and self.how.finish is None

    def passing(
        self, name: str, given: Blocks, out: Blocks, held: State | None, rule: Rule, left: bool = False
    ) -> dict[str, jax.Array]:
        """What a kernel writes, and sums where it has some `left`, beside sums that it reads."""
        made = [x for x in ("read", "key") if x in given and getattr(self.how, x) is not None]
        own = {f"made_{x}": self.rows_made for x in made}
        if "d_out" in given and self.how.finish is not None:
            own |= {"pulled": self.rounded(ROWS, self.values), "pulled_one": self.f32(ROWS)}
        batch, length = self.given.read.shape[:2]
        known = {} if held is None else self.known(held)
        sums = self.sums_shapes if left else {}
        work = Pass((batch, length, self.num_heads), given, out, known, sums, own, fixed=self.fixed)
        return passes.launch(name, work, rule, self.how.interpret)

    @property
    def rows_made(self) -> jax.ShapeDtypeStruct:
        """Where a program writes rows of channels."""
        return self.rounded(ROWS, self.channels)

    @property
    def sums_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of a head."""
        ones: dict[str, tuple[int, ...]] = {"ones": (self.channels,)} if self.has_ones else {}
        return {"sums": (self.channels, self.values)} | ones

    def known(self, held: State) -> dict[str, jax.Array]:
        """Sums, as kernels read them."""
        return {"sums": held.sums.astype(self.dtype)} | ({} if held.ones is None else {"ones": held.ones})

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

    @property
    def rows_made(self) -> jax.ShapeDtypeStruct:
        return self.rounded(self.blocks, *SQUARE)

    @property
    def sums_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.matrices, SQUARE) | dict.fromkeys(self.vectors, (ROWS,))

    def known(self, held: State) -> dict[str, jax.Array]:
        known = super().known(held)
        return known | {"sums": known["sums"].reshape(*held.sums.shape[:2], self.blocks, *SQUARE)}

    def made(self, name: str, piece, own, who: str = "made") -> Any:
        run = self.run()
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


def of_side(how: How, given: Given, values: int, has_ones: bool) -> Side:
    """Keys or queries."""
    return (Wide if wide.are_many(given, how) else Side)(how, given, values, has_ones)
