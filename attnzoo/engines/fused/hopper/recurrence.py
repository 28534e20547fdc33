"""A recurrence on an NVIDIA Hopper GPU: one kernel, which goes along the chunks of each head, and is its own gradient.

    o_i = sum_(j <= i) w_ij (q_i . k_j) v_j,    w_ij = e^(g_(j+1) + ... + g_i)

In a chunk tokens meet as pairs (Hua et al. 2022, arXiv:2202.10447). The state is float32, in registers; a chunk reads
it once, rounded as its operands are. Gradients are such recurrences, too (`gradient`). Where a block of threads
holds all of a state, and makes features itself, there are others (`whole`).

Nothing is divided by a product of decays. What decays between two tokens of a chunk is a difference of sums over it, of
logarithms of at least `LOWEST`, and wrong by a few times 2^-24 of the larger one: 2e-6 next to common decays, and 4e-4,
a tenth of what rounding to bfloat16 may lose, where half of the tokens forget nearly all.

A block of threads takes a head, or 64 columns of its values, from end to end. So operands are read and outputs written
once, by one launch. One warpgroup keeps the state, which is all that chunks wait for; another reads it. Chunks that do
not wait for each other would leave a state each, which of 64 channels and values is as large as its keys and values in
bfloat16, be written, summed and read. Where heads are few, parts of many chunks do (`parts`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.engines.fused.hopper import walk
from attnzoo.engines.fused.hopper.walk import Rule, Walk
from attnzoo.engines.fused.hopper.warpgroups import (
    ROWS,
    Blocks,
    Matrix,
    Slices,
    Vectors,
    added,
    all_slots,
    along,
    filled,
    in_order,
    loaded,
    products,
    set_block,
)

LOWEST = -104.0  # of the logarithm of a token's decay: in float32 nothing is left of it


class Side(NamedTuple):
    """What tokens read, or write: numbers that meet those of others, and one more that stands by itself.

    Attributes:
      rows: bfloat16 [B, T, N or K, W].
      one: float32 [B, N, T]; None for none.
    """

    rows: jax.Array
    one: jax.Array | None = None


class Sides(NamedTuple):
    """Operands of a recurrence, T being a multiple of `ROWS`: o_i = sum_j w_ij (read_i . key_j) value_j.

    Attributes:
      read: by [B, T, N, F].
      key: by [B, T, K, F].
      value: [B, T, K, Hv].
      decays: sums of logarithms in each chunk, up to a token, it included, behind it, and the first ones again, float32
        [B or 1, N or 1, 3, T]; None for none.
    """

    read: Side
    key: Side
    value: Side
    decays: jax.Array | None = None

    @property
    def vectors(self) -> Blocks:
        """What stands by itself, and decays."""
        found = {"read_one": self.read.one, "key_one": self.key.one, "value_one": self.value.one}
        wide = {name: _twice(x) for name, x in found.items() if x is not None} | {"decays": self.decays}
        return {name: Vectors(x) for name, x in wide.items() if x is not None}


def _twice(x: jax.Array) -> jax.Array:
    """A vector for rows and one for columns, which the compiler does not read from one."""
    return jnp.stack([x, x], axis=2)


class State(NamedTuple):
    """What is left of keys and values, in float32.

    Attributes:
      sums: [B, N, F, Hv].
      ones: of values that stand by themselves, [B, N, F], or of keys that do, [B, N, 1, Hv]; None for none.
    """

    sums: jax.Array
    ones: jax.Array | None = None

    @property
    def turned(self) -> State:
        """The same where keys are in the place of values: [B, N, Hv, F], and [B, N, 1, F]."""
        return State(self.sums.swapaxes(2, 3), None if self.ones is None else self.ones[:, :, None])


class Walked(NamedTuple):
    """What a recurrence gives.

    Attributes:
      out: [B, T, N, Hv].
      one: what is read of values that stand by themselves, float32 [B, N, T], or None.
      left: the state after the last chunk.
      states: those after each chunk, [B, chunks * F, N, Hv], where they are asked for.
      passed: the products of the states that were asked for before with what each chunk finds, summed over F: float32
        [B, N, Hv / ROWS, T], or None.
    """

    out: jax.Array
    one: jax.Array | None
    left: State
    states: jax.Array | None = None
    passed: jax.Array | None = None


def recurrence(
    given: Sides,
    found: State | None,
    *,
    dtype: Any,
    scale: float = 1.0,
    is_backward: bool = False,
    keeps: bool = False,
    states: jax.Array | None = None,
    interpret: Any = None,
) -> Walked:
    """The kernel.

    Args:
      dtype: of the output.
      scale: of what is read.
      is_backward: whether tokens see those behind them, which come first, in place of those before them.
      keeps: whether states are asked for.
      states: those that another recurrence has kept.
    """
    (batch, length, _, features), width = given.read.rows.shape, given.value.rows.shape[3]
    num_heads = max(side.rows.shape[2] for side in given[:3])
    rounded, has_decays = given.read.rows.dtype, given.decays is not None
    has_values, has_keys = given.value.one is not None, given.key.one is not None

    def faded(piece, block):
        """Rows of which is left what decays behind them."""
        rows = loaded(block)
        return rows * jnp.exp(along(piece.decays.at[1], rows.shape, 0)) if has_decays else rows

    def begin(begun):
        state = filled(0, features, ROWS) if found is None else loaded(begun("sums"))
        if not has_values and not has_keys:
            return (state,)
        if found is None:
            return state, filled(0, features if has_values else ROWS, axis=1)
        return state, loaded(begun("ones") if has_values else begun("ones").at[0], axis=1)

    def tell(piece, told, own, carry):
        state, *ones = carry
        for x in ones:
            told.ones[...] = x
        set_block(told.state, state.astype(rounded))

    def keep(piece, told, own, carry):
        state, *ones = carry
        passed = [] if states is None else [(state * loaded(piece.states)).sum(axis=0)]
        value = piece.value
        if has_decays:
            value, last = own.value, jnp.exp(piece.decays[int(is_backward), ROWS - 1])
            set_block(value, faded(piece, piece.value).astype(rounded))
            state, ones = state * last, [x * last for x in ones]
        if has_values or has_keys:
            block, weight = (piece.key, piece.value_one) if has_values else (piece.value, piece.key_one)
            rows = faded(piece, block)
            ones = [ones[0] + (rows * along(weight.at[0], rows.shape, 0)).sum(axis=0)]
        state = added(state, piece.key.T, value, interpret)
        return (state, *ones), (*[state] * keeps, *passed)

    def read(piece, told, _):
        pairs, out = products((piece.read, piece.key.T), (piece.read, told.state))
        if has_keys:
            pairs = pairs + along(piece.read_one.at[0], pairs.shape, 0) * along(piece.key_one.at[1], pairs.shape, 1)
            out = out + along(piece.read_one.at[0], out.shape, 0) * along(told.ones, out.shape, 1)
        if has_decays:
            upto, again = piece.decays.at[0], piece.decays.at[2]
            pairs = pairs * jnp.exp(along(upto, pairs.shape, 0) - along(again, pairs.shape, 1))
            out = out * jnp.exp(along(upto, out.shape, 0))
        pairs = in_order(pairs, is_backward)
        one = []
        if has_values:
            rows = loaded(piece.read)
            recalled = (rows * along(told.ones, rows.shape, 1)).sum(axis=1)
            recalled = recalled * jnp.exp(loaded(piece.decays.at[0])) if has_decays else recalled
            one = [(recalled + (pairs * along(piece.value_one.at[1], pairs.shape, 1)).sum(axis=1)) * scale]
        return added(out, pairs.astype(rounded), piece.value, interpret) * scale, *one

    f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    slots = all_slots(length)
    by_chunk = jax.ShapeDtypeStruct((batch, slots // ROWS * features, num_heads, width), rounded)
    out: Blocks = {"out": Slices(jax.ShapeDtypeStruct((batch, length, num_heads, width), dtype))}
    out |= {"one": Vectors(f32(batch, num_heads, 1, slots))} if has_values else {}
    beside: Blocks = {"states": Slices(by_chunk)} if keeps else {}
    beside |= {"passed": Vectors(f32(batch, num_heads, width // ROWS, slots))} if states is not None else {}
    left = {"sums": f32(batch, num_heads, features, width)}
    left |= {"ones": f32(batch, num_heads, features)} if has_values else {}
    left |= {"ones": f32(batch, num_heads, 1, width)} if has_keys else {}
    matrices: Blocks = {"read": Matrix(given.read.rows), "key": Matrix(given.key.rows)}
    matrices |= {"value": Slices(given.value.rows)}
    matrices |= {} if states is None else {"states": Slices(states)}
    work = Walk(
        given=matrices | given.vectors,
        out=out,
        beside=beside,
        found={} if found is None else {name: x for name, x in found._asdict().items() if x is not None},
        left=left,
        told={"state": jax.ShapeDtypeStruct((features, ROWS), rounded)}
        | ({"ones": f32(features if has_values else ROWS)} if has_values or has_keys else {}),
        prepared={},
        own={"value": jax.ShapeDtypeStruct((ROWS, ROWS), rounded)} if has_decays else {},
        is_backward=is_backward,
    )
    made = walk.launch("recurrence", work, Rule(begin, tell, keep, read), interpret)
    named = dict(zip([*out, *beside, *left], made, strict=True))
    one = named["one"][:, :, 0] if has_values else None
    state = State(named["sums"], named.get("ones"))
    return Walked(named["out"], one, state, named.get("states"), named.get("passed"))
