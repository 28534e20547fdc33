"""Keys with gains on a Hopper GPU, of many channels: sums of exponentials, relative to the largest that came so far.

    o_i = finish(sum_(j <= i) (e^(b_j - M_i) phi(q_i) . psi(k_j) + floor(q_i) c_j) v_j),    M_i = max_(j <= i) b_j

psi within [0, 1], of up to 256 channels, which kernels make themselves, by blocks (`blocks`), as they do b and
the floor; c are numbers. Features of a chunk depend on no state: the warpgroup that copies prepares them, and M with
them, which it carries along. States are relative to e^M of the last token of each chunk, so all exponents are at most
0, and all are differences of b and M, not of sums over them.

Gradients are kernels of the same chunks, as in `whole`: one goes onward, which writes M, and one comes back with
sum_i e^(M_end - M_i) phi(q_i) d_i^T. Gradients of M, by which floors count more or less beside features, are pulled at
by all that read until another key is the largest, and handed to the key that was.
"""

from __future__ import annotations

import functools
from typing import Any

import jax

from attnzoo.engines.fused.carried import Changed, instantiated, is_used
from attnzoo.engines.fused.hopper.blocks import Tiles
from attnzoo.engines.fused.hopper.gained import Found
from attnzoo.engines.fused.hopper.gaining import Kernel
from attnzoo.engines.fused.hopper.gradient import of_group
from attnzoo.engines.fused.hopper.meeting import BACK, ONWARD, Given, How
from attnzoo.engines.fused.hopper.skeleton import both
from attnzoo.engines.fused.hopper.warpgroups import ROWS, Blocks, Matrix, Vectors, loaded, set_block
from attnzoo.engines.fused.hopper.whole import grads_beside


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(how: How, given: Given) -> tuple[jax.Array, Found]:
    """Outputs [B, T, N, `ROWS`], and the state that is left."""
    kernel = Kernel(how, given)

    def read(piece, told, own):
        return kernel.finished(*kernel.chunk(ONWARD, piece, told).read(piece.made_read))

    out: Blocks = {"out": Matrix(kernel.tokens(ROWS, given.value.dtype))}
    made = kernel.launch("gains", ONWARD, kernel.operands_onward, out, read, given.found)
    return made["out"], kernel.left(made)


def _forward(how: How, given: Any):
    given, changed = Changed.told(given)
    return recur(how, given), (given, changed)


def _backward(how: How, residuals: tuple[Given, Changed], pulled: Any) -> tuple[Given]:
    given, told = residuals
    changed, kernel = told.of_each(given), Kernel(how, given)
    if any(changed.matrices):
        raise NotImplementedError("gradients by matrices of keys with gains: kernels of a Hopper GPU have none")
    onward = _onward(kernel, instantiated(pulled[0], given), changed.beside_read)
    d_left = _pulled_left(instantiated(pulled[1], given), kernel.left(onward)) if is_used(pulled[1]) else None
    back = _back(kernel, onward, d_left, changed.beside_key)
    grads = Given(
        of_group(onward["read"], given.read),
        of_group(back["key"], given.key),
        of_group(back["value"], given.value),
        grads_beside("read", onward, given.beside_read),
        grads_beside("key", back, given.beside_key),
        found=None if given.found is None else _grad_found(kernel.left(back), given.found),
        matrices=[None] * len(given.matrices),
    )
    return (grads,)


recur.defvjp(_forward, _backward, symbolic_zeros=True)


def _pulled_left(d_left: Found, left: Found) -> Found:
    """What pulls at a state, and at M by sums that stand for themselves times e^M."""
    return d_left._replace(top=d_left.top - d_left.dots(left))


def _grad_found(grads: Found, found: Found) -> Found:
    """The inverse."""
    return grads._replace(top=grads.top + grads.dots(found))


def _onward(kernel: Kernel, d_out: jax.Array, changed: list[bool]) -> dict[str, jax.Array]:
    """From the first chunk on: gradients of queries, and of what was read, and M at and before each chunk's tokens."""
    given = kernel.given
    out: Blocks = {"pulled": Matrix(kernel.tokens(ROWS, d_out.dtype)), "pulled_one": kernel.numbers()}
    out |= dict.fromkeys(("largest", "before", "d_largest"), kernel.numbers())
    out |= {"read": kernel.gradient(given.read)} | kernel.numbers_beside("read", changed)

    def read(piece, told, own):
        met = kernel.chunk(ONWARD, piece, told)
        found, one = met.read(piece.made_read)
        d_found, d_one = kernel.unfinished(found, one, loaded(piece.d_out))
        with_floor = (d_found * found).sum(axis=1) + d_one * one
        set_block(own.pulled, d_found.astype(d_out.dtype))
        yield d_found
        yield d_one
        yield -met.row
        yield loaded(kernel.vector(piece, "base"))
        d_made, d_floor = met.pulled(own.pulled, d_one)
        yield met.floor * d_floor - with_floor
        yield from kernel.pulled_rows("read", piece, own, kernel.run(own), [d_made, d_floor], changed)

    operands = kernel.operands_onward | {"d_out": Matrix(d_out)}
    return kernel.launch("gains_onward", ONWARD, operands, out, read, given.found)


def _back(kernel: Kernel, onward: dict, d_left: Found | None, changed: list[bool]) -> dict[str, jax.Array]:
    """From the last chunk on: gradients of keys and values, and of the state that was found."""
    given = kernel.given
    out: Blocks = {"value": kernel.gradient(given.value), "key": kernel.gradient(given.key)}
    out |= kernel.numbers_beside("key", changed)

    def read(piece, told, own):
        met = kernel.chunk(BACK, piece, told)
        (d_value,) = met.read(piece.made_key, counts=False)
        yield d_value
        d_made, _ = met.pulled(piece.value, loaded(piece.one_rows.at[0]))
        run, d_largest = kernel.run(own), kernel.d_largest(piece, told)
        by_own = run.summed(d_made, Tiles(0, lambda number, made: loaded(piece.made_key.at[number])))
        d_gain = run.later(by_own.level, lambda: by_own.made() + d_largest)
        yield from kernel.pulled_rows("key", piece, own, run, [d_made, d_gain], changed)

    names = {"d_largest_columns": "d_largest", "before": "before"}
    operands = kernel.operands | {
        "one_rows": Vectors(given.one[:, :, None]),
        "plain_rows": Vectors(given.plain[:, :, None]),
    }
    operands |= {"pulled": Matrix(onward["pulled"])} | both("pulled_one", onward["pulled_one"])
    operands |= both("largest", onward["largest"])
    operands |= {name: Vectors(onward[x]) for name, x in names.items()}
    return kernel.launch("gains_back", BACK, operands, out, read, d_left)
