"""A recurrence on an NVIDIA Hopper GPU: one kernel, which goes along the chunks of each head, and is its own gradient.

    o_i = sum_(j <= i) w_ij (q_i . k_j) v_j,    w_ij = e^(g_(j+1) + ... + g_i)

In a chunk tokens meet as pairs (Hua et al. 2022, arXiv:2202.10447). The state is float32, in registers; a chunk reads
it once, rounded as its operands are. Gradients are such recurrences, too: that of queries has d_o, v and k in the
places of q, k and v; those of keys, with v, d_o and q, and of values, with k, q and d_o, go from the last chunk to the
first. That of g_t is what passes token t: inside its chunk it follows from q . d_q and k . d_k, and what passes the
chunk's end is the state there times its gradient, so that chunks do not take digits from each other.

Nothing is divided by a product of decays. What decays between two tokens of a chunk is a difference of sums over it, of
logarithms of at least `LOWEST`, and wrong by a few times 2^-24 of the larger one: 2e-6 next to common decays, and 4e-4,
a tenth of what rounding to bfloat16 may lose, where half of the tokens forget nearly all.

A block of threads takes a head, or 64 columns of its values, from end to end. So operands are read and outputs written
once, by one launch. One warpgroup keeps the state, which is all that chunks wait for; another reads it. Chunks that do
not wait for each other would leave a state each, which of 64 channels and values is as large as its keys and values in
bfloat16, be written, summed and read, and take three launches. They would occupy a GPU that is given few heads, which
this kernel does not: it wants as many as the GPU has multiprocessors, or half.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnzoo.engines.fused import warpgroups
from attnzoo.engines.fused.warpgroups import (
    ROWS,
    Blocks,
    Matrix,
    Slices,
    Vectors,
    Walk,
    added,
    along,
    filled,
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
    is_backward: bool = False,
    keeps: bool = False,
    states: jax.Array | None = None,
    interpret: Any = None,
) -> Walked:
    """The kernel.

    Args:
      dtype: of the output.
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

    def begin(refs):
        state = filled(0, features, ROWS) if found is None else loaded(refs.sums)
        if not has_values and not has_keys:
            return (state,)
        if found is None:
            return state, filled(0, features if has_values else ROWS, axis=1)
        return state, loaded(refs.ones if has_values else refs.ones.at[0], axis=1)

    def tell(carry, told):
        state, *ones = carry
        for x in ones:
            told.ones[...] = x
        set_block(told.state, state.astype(rounded))

    def keep(piece, own, carry):
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

    def read(piece, told):
        pairs, out = products((piece.read, piece.key.T), (piece.read, told.state))
        if has_keys:
            pairs = pairs + along(piece.read_one.at[0], pairs.shape, 0) * along(piece.key_one.at[1], pairs.shape, 1)
            out = out + along(piece.read_one.at[0], out.shape, 0) * along(told.ones, out.shape, 1)
        if has_decays:
            upto, again = piece.decays.at[0], piece.decays.at[2]
            pairs = pairs * jnp.exp(along(upto, pairs.shape, 0) - along(again, pairs.shape, 1))
            out = out * jnp.exp(along(upto, out.shape, 0))
        i, j = (warpgroups.index(pairs.shape, axis) for axis in (0, 1))
        pairs = jnp.where(i <= j if is_backward else i >= j, pairs, 0.0)
        one = []
        if has_values:
            rows = loaded(piece.read)
            recalled = (rows * along(told.ones, rows.shape, 1)).sum(axis=1)
            recalled = recalled * jnp.exp(loaded(piece.decays.at[0])) if has_decays else recalled
            one = [recalled + (pairs * along(piece.value_one.at[1], pairs.shape, 1)).sum(axis=1)]
        return added(out, pairs.astype(rounded), piece.value, interpret), *one

    f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    by_chunk = jax.ShapeDtypeStruct((batch, length // ROWS * features, num_heads, width), rounded)
    out: Blocks = {"out": Slices(jax.ShapeDtypeStruct((batch, length, num_heads, width), dtype))}
    out |= {"one": Vectors(f32(batch, num_heads, 1, length))} if has_values else {}
    beside: Blocks = {"states": Slices(by_chunk)} if keeps else {}
    beside |= {"passed": Vectors(f32(batch, num_heads, width // ROWS, length))} if states is not None else {}
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
        own={"value": jax.ShapeDtypeStruct((ROWS, ROWS), rounded)} if has_decays else {},
        is_backward=is_backward,
    )
    made = warpgroups.walk("recurrence", work, begin, tell, keep, read, interpret=interpret)
    named = dict(zip([*out, *beside, *left], made, strict=True))
    one = named["one"][:, :, 0] if has_values else None
    state = State(named["sums"], named.get("ones"))
    return Walked(named["out"], one, state, named.get("states"), named.get("passed"))


class Given(NamedTuple):
    """What a recurrence is differentiated by.

    Attributes:
      read: bfloat16 [B, T, N, F], where T, F and Hv are multiples of `ROWS`.
      key: [B, T, K, F].
      value: [B, T, K, Hv].
      value_one: of values that stand by themselves, float32 [B, N, T]; None for none.
      log_decay: of each token before it writes, float32 [B or 1, N or 1, T]; None for none.
      found: the state before the first token; None for none.
    """

    read: jax.Array
    key: jax.Array
    value: jax.Array
    value_one: jax.Array | None = None
    log_decay: jax.Array | None = None
    found: State | None = None


class How(NamedTuple):
    """How a recurrence is run.

    Attributes:
      passes: whether there is a gradient by `log_decay`, in which nothing stands by itself.
      interpret: what a CPU interprets kernels with, or None.
    """

    passes: bool = True
    interpret: Any = None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(how: How, given: Given) -> tuple[jax.Array, jax.Array | None, State]:
    """Outputs, what is read of values that stand by themselves, and the state that is left."""
    sides = Sides(Side(given.read), Side(given.key), Side(given.value, given.value_one), _sums(given.log_decay))
    walked = recurrence(sides, given.found, dtype=given.value.dtype, interpret=how.interpret)
    return walked.out, walked.one, walked.left


def _forward(how: How, given: Given):
    return recur(how, given), given


def _backward(how: How, given: Given, pulled) -> tuple[Given]:
    (d_out, d_one, d_left), dtype = pulled, given.read.dtype
    read, key, value, d_o = Side(given.read), Side(given.key), Side(given.value, given.value_one), Side(d_out, d_one)
    log_decay, passes = given.log_decay, how.passes and given.log_decay is not None
    onward, back = (_sums(log_decay, is_backward) for is_backward in (False, True))
    walk = functools.partial(recurrence, interpret=how.interpret)
    shared = dtype if given.key.shape[2] == given.read.shape[2] else jnp.float32  # until summed over those who share
    walk_back = functools.partial(walk, dtype=shared, is_backward=True)
    found = None if given.found is None else given.found.turned
    d_read = walk(Sides(d_o, value, key, onward), found, dtype=dtype, keeps=passes)
    d_key = walk_back(Sides(value, d_o, read, back), d_left.turned, states=d_read.states)
    d_value = walk_back(Sides(key, read, d_o, back), d_left)
    d_log_decay = None if log_decay is None else jnp.zeros_like(log_decay)
    if log_decay is not None and passes:
        products = _dots(given.read, d_read.out) - _dots(given.key, d_key.out)
        d_log_decay = _of_shared(_passing(products, d_key.passed), log_decay)
    grads = Given(
        d_read.out,
        _of_group(d_key.out, given.key),
        _of_group(d_value.out, given.value),
        d_value.one,
        d_log_decay,
        None if given.found is None else d_value.left,
    )
    return (grads,)


recur.defvjp(_forward, _backward)


def _sums(log_decay: jax.Array | None, is_backward: bool = False) -> jax.Array | None:
    """Of logarithms of decays, as `Sides` has them."""
    if log_decay is None:
        return None
    kept = jnp.maximum(log_decay, LOWEST)
    later = _by_chunk(kept, lambda x: jnp.pad(x[..., 1:], ((0, 0),) * (x.ndim - 1) + ((0, 1),)))
    upto, behind = _by_chunk(kept, _upto), _by_chunk(later, _from)
    return jnp.stack([behind, upto, behind] if is_backward else [upto, behind, upto], axis=2)


def _passing(products: jax.Array, passed: jax.Array | None) -> jax.Array:
    """The gradient of logarithms of decays, from q . d_q - k . d_k and what passes the ends of chunks: [B, N, T]."""
    assert passed is not None
    beyond = passed.reshape(*passed.shape[:3], -1, ROWS).sum(axis=(2, 4))
    return _by_chunk(products, _from) + jnp.repeat(beyond, ROWS, axis=-1)


def _by_chunk(x: jax.Array, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
    return function(x.reshape(*x.shape[:-1], -1, ROWS)).reshape(x.shape)


def _upto(x: jax.Array) -> jax.Array:
    """Sums of each number and all before it."""
    return jnp.cumsum(x, axis=-1)


def _from(x: jax.Array) -> jax.Array:
    """Sums of each number and all behind it."""
    return jnp.flip(_upto(jnp.flip(x, axis=-1)), axis=-1)


def _dots(x: jax.Array, grad: jax.Array) -> jax.Array:
    """Products of operands with their gradients for each head of queries: [B, N, T]."""
    x = jnp.repeat(x, grad.shape[2] // x.shape[2], axis=2)
    return jnp.einsum("btnf,btnf->bnt", x, grad, preferred_element_type=jnp.float32)


def _of_shared(x: jax.Array, like: jax.Array) -> jax.Array:
    """The gradient of what examples or heads share."""
    shared = tuple(axis for axis in (0, 1) if like.shape[axis] == 1 < x.shape[axis])
    return x.sum(axis=shared, keepdims=True)


def _of_group(x: jax.Array, like: jax.Array) -> jax.Array:
    """The gradient of what heads of a group share."""
    return x.reshape(*like.shape[:3], -1, like.shape[3]).sum(axis=3).astype(like.dtype) if x.shape != like.shape else x
