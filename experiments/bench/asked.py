"""The program of a kernel of one's own that is timed is asked itself: at its own batch, heads, widths, length and pass.

What is right in a small probe may be wrong, and fast, in any other program. So outputs of one head are held to its
equation, what is given of the past to be the same whatever follows, and gradients to differences of outputs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import attnzoo
from attnzoo.door import trees
from attnzoo.testing import Subject, futures
from experiments.bench import trust
from experiments.bench.program import Program

OPERANDS = "query", "key", "value", "parameters", "tokens"
PAIRS = 2**26  # of a query and a key, at most, that meet in the equation of one head: numbers in memory
PARTS = 16  # of a sequence, each of which is held to the equation by itself: later outputs may be smaller ones
VALUES = 0.03  # relative error of outputs, beside what numbers are rounded to: products of float32 may be of bfloat16
SLOPES = 0.05  # the same of directional derivatives
STEP = 0.01  # of central differences, in parts of each number


def breach(program: Program, operands: list) -> dict | None:
    """What a row says of a kernel of one's own that breaks a law in a program and with operands of it, or None."""
    return None if trust.is_ours(program.kernel) else trust.broken(lambda: _held(program, operands))


def _held(program: Program, operands: list) -> None:
    called = _differentiated(program) if program.is_train else _forward(program)
    direction = _normal(operands[0].shape[:3] + operands[2].shape[3:], program.dtype)
    out, gradients = called(direction, operands)
    if program.is_causal:
        _past_is_past(program, called, operands, direction, out)
    _as_its_equation(program, operands, out)
    if program.is_train:
        _slopes(program, operands, direction, gradients)


# Of a direction [B, T, N, Hv] and operands: the output, and gradients of operands along the direction, where there are.
Called = Callable[[np.ndarray, list], tuple[np.ndarray, tuple]]


def _forward(program: Program) -> Called:
    compiled, _ = program.compiled
    return lambda direction, operands: (np.asarray(compiled(*operands)), ())


def _differentiated(program: Program) -> Called:
    compiled = program.pulled()
    return lambda direction, operands: jax.tree.map(np.asarray, compiled(_placed(direction, operands[0]), *operands))


def _as_its_equation(program: Program, operands: list, out: np.ndarray) -> None:
    """One head of one example by `head`, in the precision of the program and in float32, from as many pairs as fit."""
    subject, rng = Subject("batched_equals_head", program.kernel), np.random.default_rng(out.size)
    example, head = rng.integers(out.shape[0]), rng.integers(out.shape[2])
    found = _rows_and_keys(program, rng)
    if found is None:
        return
    rows, keys = found
    one = [_of_one(x, example, head, out.shape[2]) for x in jax.tree.map(np.asarray, (*operands[:3], operands[4]))]
    q, k, v, tokens = one[0][:, rows], *jax.tree.map(lambda x: x[:, keys], one[1:])
    params, draws = (
        jax.tree.map(lambda x: np.asarray(x)[head % len(x) :][:1], tree)
        for tree in (operands[3], trees.drawn(program.kernel, program.dims))
    )
    given = {"kernel": program.kernel, "is_causal": program.is_causal, "implementation": "reference"}
    given |= {"query_offset": rows.start} if rows.start else {}
    given |= {"params": params, "draws": draws, "precision": "highest"}
    attend = lambda q, k, v, tokens: attnzoo.attend(q, k, v, tokens=tokens, **given)
    where = f"example {example}, head {head}, tokens {rows.start:,} to {rows.stop:,}, of shape {out.shape}"
    got = out[example : example + 1, rows, head : head + 1]
    hold(subject, got, attend, (q, k, v, tokens), f"the program's output of {where}, beside that of `head`")


def hold(subject: Subject, got: np.ndarray, exact: Callable, operands: Any, what: str) -> None:
    """Hold an output [B, T, ...] to err little more than a function of operands does in their precision.

    Raises:
      LawBroken: somewhere in the sequence it is further from what the function gives in float32.
    """
    exact = jax.jit(exact)
    expected, rounded = (np.asarray(exact(*x), np.float64) for x in (_wide(operands), operands))
    deviation = _off(got, expected)
    allowed = VALUES + 2 * float(jnp.finfo(got.dtype).eps) + 2 * _off(rounded, expected)
    if not deviation <= allowed:
        raise subject.broken(f"{what} is off by {deviation:.3g} of its size, allowed {allowed:.3g}", deviation)


def _rows_and_keys(program: Program, rng: np.random.Generator) -> tuple[slice, slice] | None:
    """Which tokens meet in the equation: all, or some queries and all keys, or the first of both; None for none."""
    queries, keys = program.dims.query_length, program.dims.key_length
    if queries * keys <= PAIRS:
        return slice(0, queries), slice(0, keys)
    if program.kernel.supports.cross:
        count = max(1, PAIRS // keys)
        start = int(rng.integers(queries - count + 1))
        return slice(start, start + count), slice(0, keys)
    first = slice(0, math.isqrt(PAIRS))
    return (first, first) if program.is_causal else None


def _of_one(x: Any, example: int, head: int, heads: int) -> Any:
    """[1, T, 1, ...] of arrays [B, T, K, ...], where each of K heads serves `heads` / K queries."""
    return jax.tree.map(lambda x: x[example : example + 1, :, head * x.shape[2] // heads][:, :, None], x)


def _off(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest error of a part of a sequence, relative to what stands there."""
    count = min(PARTS, expected.shape[1])
    parts = (np.array_split(np.asarray(x, np.float64), count, axis=1) for x in (got, expected))
    norm = lambda x: float(np.sqrt(np.sum(x**2)))
    return max(norm(a - b) / max(norm(b), 1e-30) for a, b in zip(*parts, strict=True))


def _past_is_past(program: Program, called: Called, operands: list, direction: np.ndarray, out: np.ndarray) -> None:
    """What is given before cuts, with gradients or without, and gradients of that by what comes after them."""
    subject, rounding = Subject("the_future_cannot_touch_the_past", program.kernel), trust.rounding(program.dtype)

    def after(cut: np.ndarray) -> np.ndarray:
        moved = [_moved(x, cut, *by) for x, by in zip(operands[:3], ((-3, 1), (-3, 1), (-30, 10)), strict=True)]
        tokens = jax.tree.map(lambda x: _moved(x, cut, 0.5, 0), operands[4])  # of which not all numbers are allowed
        past = np.where(futures.is_later(direction.shape, cut), 0, direction)
        found, gradients = called(past, [*moved, operands[3], tokens])
        for name, gradient in zip(OPERANDS, gradients, strict=False):
            for x in jax.tree.leaves(gradient) if name != "parameters" else ():
                later = np.where(futures.is_later(x.shape, cut), x, 0) / max(float(np.abs(x).max()), 1e-30)
                what = f"gradient of outputs before cuts by each {name} after them, in parts of the largest,"
                subject.same(later, np.zeros_like(later), what, rounding)
        return found

    entries = out.shape[0], operands[1].shape[2]
    futures.untouched(subject, out, after, futures.drawn(out.shape[1], *entries), rounding)


def _slopes(program: Program, operands: list, direction: np.ndarray, gradients: tuple) -> None:
    """Gradients of the program along a direction, beside those of its outputs in float32."""
    subject = Subject("gradients_are_slopes", program.kernel)
    with jax.default_matmul_precision("highest"):
        compiled, _ = dataclasses.replace(program, dtype="float32", is_train=False).compiled
    along = lambda operands: np.asarray(compiled(*operands), np.float64) * np.asarray(direction, np.float64)
    hold_slopes(subject, along, dict(zip(OPERANDS, _wide(operands), strict=True)), gradients, program.dtype)


def hold_slopes(
    subject: Subject, along: Callable[[list], np.ndarray], points: dict[str, Any], gradients: Sequence, dtype: str
) -> None:
    """Hold gradients, along a random way of each point, to central differences of the sum of what is given there.

    Where halves of the steps tell another slope, differences do not tell it: what sorts or rounds its scores jumps.

    Args:
      along: what is given at points, whose sum is differentiated.
      points: trees in float32, by name.
      gradients: by each of them.
      dtype: that gradients were computed in.

    Raises:
      LawBroken: a gradient is none of that sum.
    """
    at = list(points.values())
    floor = 8 * float(jnp.finfo("float32").eps) * float(np.linalg.norm(along(at))) / STEP
    tolerance = SLOPES + 16 * float(jnp.finfo(dtype).eps)
    for place, (name, gradient) in enumerate(zip(points, gradients, strict=True)):
        way = jax.tree.map(lambda x: _placed(_normal(x.shape, "float32") * np.abs(x), x), at[place])
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True)
        parts = np.concatenate([[0.0], *(np.ravel(np.asarray(g, np.float64) * x) for g, x in pairs)])
        claimed, size = float(parts.sum()), float(np.linalg.norm(parts))
        slope = functools.partial(_difference, along, at, place, way)
        is_same = lambda a, b, size=size: abs(a - b) <= tolerance * max(abs(b), size) + floor
        if not is_same(claimed, found := slope(STEP)) and is_same(slope(STEP / 2), found):
            told = f"by {name} along a random way is {claimed:.3g}, and {found:.3g} by differences of outputs"
            raise subject.broken(f"the slope {told}", abs(claimed - found))


def _difference(along: Callable[[list], np.ndarray], points: list, place: int, way: Any, step: float) -> float:
    """The central difference of the sum of what `along` gives, where one point goes a way."""

    def end(step: float) -> np.ndarray:
        gone = jax.tree.map(lambda x, way: x + step * way, points[place], way)
        return along([*points[:place], gone, *points[place + 1 :]])

    return float((end(step) - end(-step)).sum() / (2 * step))


def _moved(x: jax.Array, cut: np.ndarray, times: float, plus: float) -> jax.Array:
    """x with other numbers from cuts on, where it was."""
    return jax.device_put(jnp.where(futures.is_later(x.shape, cut), times * x + plus, x).astype(x.dtype), x.sharding)


def _placed(x: Any, like: Any) -> Any:
    return jax.device_put(x, like.sharding)


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def _normal(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(math.prod(shape)).normal(size=shape).astype(dtype)
