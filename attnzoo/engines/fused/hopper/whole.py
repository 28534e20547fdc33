"""A recurrence of a Hopper GPU, one block of threads a head, by kernels that are told features and normalisers.

    o_i = finish(sum_(j <= i) w_ij (phi(q_i) . psi(k_j)) v_j),    w_ij = e^(g_(j+1) + ... + g_i)

Forward one kernel goes along the chunks of each head, as `recurrence` does, and makes phi, psi and `finish` of
what it has loaded. Of gradients one kernel goes the same way and makes sums anew: of them those of what was read, and
with the state of keys and values those of queries. Another one comes from the last chunk to the first, with the state
S = sum_i phi(q_i) d_i^T, of which both others are read: that of psi(k_j) is S v_j, and that of v_j is S^T psi(k_j).
So nothing is kept between both passes but operands, and operands, outputs and gradients are all that is moved, beside
what was read's, where outputs are finished, and states of each chunk where decays have gradients. Features of many
channels are made by blocks of these (`wide`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from attnzoo.engines.fused.carried import Changed, instantiated, is_used
from attnzoo.engines.fused.hopper import parts as hopper_parts
from attnzoo.engines.fused.hopper import wide as hopper_wide
from attnzoo.engines.fused.hopper.gradient import of_group, of_shared
from attnzoo.engines.fused.hopper.meeting import BACK, ONWARD, Given, How, widths
from attnzoo.engines.fused.hopper.recurrence import State
from attnzoo.engines.fused.hopper.skeleton import Kernel, both
from attnzoo.engines.fused.hopper.warpgroups import ROWS, Blocks, Matrix, Vectors, all_slots, loaded, set_block


def fits(given: Given, how: How) -> bool:
    """Whether a block of threads holds the state of a head, and heads are as many as occupy the device."""
    batch, length, num_heads, width = given.read.shape
    parts, channels = hopper_parts.best(batch * num_heads, all_slots(length) // ROWS), widths(how.read, given.read)
    if parts > 1 and sum(channels) <= hopper_wide.WHOLE:
        return False
    if hopper_wide.are_many(given, how):
        return hopper_wide.fits(given, how)
    are_rows = all(x % ROWS == 0 for x in (width, *channels)) and channels == widths(how.key, given.key)
    return are_rows and given.value.shape[3] == ROWS


def _kernel(how: How, given: Given) -> Kernel:
    return (hopper_wide.Kernel if hopper_wide.are_many(given, how) else Kernel)(how, given)


def recur(how: How, given: Given) -> tuple[jax.Array, State]:
    """Outputs [B, T, N, `ROWS`], and the state that is left."""
    out, _, left = read(how, given)
    return out, left


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def read(how: How, given: Given) -> tuple[jax.Array, jax.Array | None, State]:
    """The same, and what is read of what stands beside values, float32 [B, N, T], where nothing finishes outputs."""
    kernel = _kernel(how, given)

    def read(piece, told, own):
        return kernel.finished(*kernel.meeting(ONWARD, piece, told, own).read(kernel.made("read", piece, own)))

    batch, length, num_heads = *given.read.shape[:2], kernel.num_heads // kernel.shares
    out: Blocks = {"out": kernel.of_heads(ROWS, num_heads)}
    out |= {"one": kernel.numbers()} if kernel.reads_ones else {}
    made = kernel.launch("recurrence", ONWARD, kernel.operands, out, read, given.found)
    like: Any = jax.ShapeDtypeStruct((batch, length, num_heads, ROWS), kernel.dtype)
    one = made["one"].reshape(batch, num_heads, kernel.shares, -1).sum(axis=2) if kernel.reads_ones else None
    return of_group(made["out"], like), one, kernel.left(made)


def _forward(how: How, given: Any):
    given, changed = Changed.told(given)
    return read(how, given), (given, changed)


def _backward(how: How, residuals: tuple[Given, Changed], pulled: Any) -> tuple[Given]:
    (given, _), (d_out, d_one, d_left) = residuals, pulled
    onward = functools.partial(_onward, d_one=instantiated(d_one, given))
    return (gradients(_kernel(how, given), onward, _back, residuals, (d_out, d_left)),)


def gradients(kernel: Kernel, onward: Callable, back: Callable, residuals: tuple[Given, Changed], pulled: Any) -> Given:
    """Those of a call, by what is made on the way onward and on the way back."""
    given, told = residuals
    changed = told.of_each(given)
    if any(changed.matrices):
        raise NotImplementedError("gradients by matrices of features: kernels of a Hopper GPU have none")
    d_out, wants_decays = instantiated(pulled[0], given), bool(changed.log_decay)
    made = onward(kernel, d_out, changed.beside_read, wants_decays)
    found = back(kernel, made, pulled_left(kernel, pulled), changed.beside_key, wants_decays)
    by_token = lambda name, like: of_shared(found[name][:, :, 0], like)
    return Given(
        of_group(made["read"], given.read),
        of_group(found["key"], given.key),
        of_group(found["value"], given.value),
        grads_beside("read", made, given.beside_read),
        grads_beside("key", found, given.beside_key),
        None,
        by_token("passed", given.log_decay) if given.log_decay is not None and wants_decays else None,
        grad_found(kernel, found),
        None if given.rate is None else by_token("rate", given.rate),
        [None] * len(given.matrices),
    )


read.defvjp(_forward, _backward, symbolic_zeros=True)


def pulled_left(kernel: Kernel, pulled: Any) -> State | None:
    """What pulls at the state that is left, without the scale, by which who reads it multiplies; None for nothing."""
    d_left = instantiated(pulled[1], kernel.given) if is_used(pulled[1]) else None
    return jax.tree.map(lambda x: x / kernel.how.scale, d_left)


def grad_found(kernel: Kernel, made: dict[str, jax.Array]) -> State | None:
    """That of the state that was found, if one was, which a kernel leaves that goes back."""
    return None if kernel.given.found is None else jax.tree.map(lambda x: x * kernel.how.scale, kernel.left(made))


def grads_beside(name: str, made: dict[str, jax.Array], like: list[jax.Array]) -> list[jax.Array | None]:
    """Gradients of what the program of queries or keys needs beside them."""
    found = [made.get(f"{name}_{i}") for i in range(len(like))]
    return [None if x is None else of_shared(x[:, :, 0], y) for x, y in zip(found, like, strict=True)]


def _onward(
    kernel: Kernel, d_out: jax.Array, changed: list[bool], wants_decays: bool, d_one: jax.Array | None
) -> dict[str, jax.Array]:
    """From the first chunk on: gradients of queries, and of what was read, and what else the other kernel needs."""
    how, given = kernel.how, kernel.given
    out: Blocks = {}
    reads = wants_decays or how.read is not None or how.finish is not None
    if how.finish is not None:
        out |= {"pulled": Matrix(kernel.tokens(ROWS, d_out.dtype))}
        out |= {} if given.one is None else {"pulled_one": kernel.numbers()}
    out |= {"read": kernel.gradient(given.read)} | kernel.numbers_beside("read", changed)
    out |= {"dots": kernel.numbers()} if wants_decays else {}

    def read(piece, told, own):
        met, by = kernel.meeting(ONWARD, piece, told, own), kernel.made("read", piece, own) if reads else None
        block, d_ones = piece.d_out, [loaded(piece.d_one.at[0])] if kernel.reads_ones else []
        if how.finish is not None:
            (d_read, *d_ones), block = kernel.unfinished(*met.read(by), loaded(piece.d_out)), own.pulled
            set_block(block, d_read.astype(d_out.dtype))
            yield d_read
            yield from d_ones
        dots = (lambda x: x) if wants_decays else None
        yield from kernel.pulled("read", piece, own, met.pulled(block, *d_ones) * how.scale, changed, dots)

    operands = {name: x for name, x in kernel.operands.items() if reads or name != "read"} | {"d_out": Matrix(d_out)}
    pulled = {"pulled": d_out} | ({} if d_one is None else {"pulled_one": d_one[:, :, None]})
    operands |= {"d_one": Vectors(pulled["pulled_one"])} if kernel.reads_ones else {}
    made = kernel.launch("recurrence_onward", ONWARD, operands, out, read, given.found, keeps=wants_decays)
    return pulled | made


def _back(
    kernel: Kernel, onward: dict, d_left: State | None, changed: list[bool], wants_decays: bool
) -> dict[str, jax.Array]:
    """From the last chunk on: gradients of keys and values, and of the state that was found."""
    how, given = kernel.how, kernel.given
    out: Blocks = {"value": kernel.gradient(given.value), "key": kernel.gradient(given.key)}
    out |= kernel.numbers_beside("key", changed) | ({"passed": kernel.numbers()} if wants_decays else {})

    def read(piece, told, own):
        met, by = kernel.meeting(BACK, piece, told, own), kernel.made("key", piece, own)
        (d_value,) = met.read(by, counts=False)
        yield d_value * how.scale
        one = None if given.one is None else loaded(piece.one_rows.at[0])
        passed = (lambda dots: kernel.passed(dots, piece, told)) if wants_decays else None
        yield from kernel.pulled("key", piece, own, met.pulled(piece.value, one) * how.scale, changed, passed)

    operands = kernel.operands | {"pulled": Matrix(onward["pulled"])} | both("pulled_one", onward.get("pulled_one"))
    operands |= {"states": Matrix(onward["states"]), "dots": Vectors(onward["dots"])} if wants_decays else {}
    return kernel.launch("recurrence_back", BACK, operands, out, read, d_left)
