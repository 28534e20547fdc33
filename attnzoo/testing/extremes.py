"""What every kernel obeys at the ends of its arithmetic: infinite scores, operands far from 0, small gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.testing.subject import LENGTH, Operands, Subject, curved, known


def additive_masks_hide(subject: Subject) -> None:
    """A bias of -inf hides, all keys of a row too; the lowest finite number hides beside others, and counts alone."""
    if not subject.supports.bias:
        return
    operands = subject.operands()
    row, column = np.arange(LENGTH)[:, None], np.arange(LENGTH)[None, :]
    hidden = (row < 3) | (column > row) | (column < 5)
    outs = {}
    for low in (-np.inf, float(jnp.finfo(jnp.float32).min)):
        bias = np.where(hidden, low, 0.0).astype(np.float32)[None, None]
        outs[low], expected = (subject.attend(operands, bias=bias, implementation=x) for x in ("xla", "reference"))
        subject.same(outs[low], expected, f"output under a bias of {low}, `batched` beside `head`,", 2e-5)
    if subject.supports.mask:
        first, second = (out[:, 5:] for out in outs.values())
        subject.same(first, second, "output under a bias of -inf, beside that under the lowest number,", 1e-5)
        masked = subject.attend(operands, mask=~hidden[None, None])
        subject.same(outs[-np.inf], masked, "output under a bias of -inf, beside that under a mask,", 1e-5)


def segments_come_in_any_order(subject: Subject) -> None:
    """Segment ids need not be sorted, and one that returns later is the same segment."""
    if not subject.supports.segments:
        return
    operands = subject.operands(length=150, dim=4)
    token = np.arange(150)
    for name, ids in (
        ("that end in 0", np.where(token < 130, 3 - token // 50, 0)),
        ("that return", np.stack([token // 40 % 2, token // 7 % 3])),
    ):
        ids = np.broadcast_to(ids, (2, 150))
        segments: dict[str, Any] = {"query_segment_ids": ids, "key_value_segment_ids": ids}
        fast, plain = (subject.pulled(operands, implementation=x, **segments) for x in ("xla", "reference"))
        subject.same(fast, plain, f"output or gradient of segments {name}, `batched` beside `head`,", 1e-4)


def operands_of_any_size(subject: Subject) -> None:
    """With queries and keys far from 0, large or tiny, routes differ by little more than a rounding of these moves."""
    operands = subject.operands()
    params = subject.params(operands)
    q, k, v = operands
    whole = Operands(64 + np.round(q), 64 + np.round(k), v)
    sizes = {size: Operands(size * q, size * k, v) for size in (1e-3, 8.0)}
    for name, moved in {"far from 0": whole, **{f"of size {size}": moved for size, moved in sizes.items()}}.items():
        rounded = Operands(*(x * (1 + jnp.finfo(x.dtype).eps) for x in moved))
        head = lambda given: subject.attend(given, params, implementation="reference")
        out, expected = subject.attend(moved, params, implementation="xla"), head(moved)
        tolerance = 2e-5 + 2 * float(np.abs(head(rounded) - expected).max())
        subject.same(out, expected, f"output of operands {name}, `batched` beside `head`,", tolerance)


def small_gradients_survive(subject: Subject) -> None:
    """In float16, gradients err at most three times as much as the equation's, near the end of its range, too."""
    operands = subject.operands(batch=1, dtype=jnp.float16)
    precise = Operands(*(x.astype(jnp.float32) for x in operands))
    slope = (3e-6 * operands.q).astype(jnp.float16)
    params = subject.params(operands)
    found, plain = (_pulled_back(subject, operands, params, slope, name) for name in ("xla", "reference"))
    exact = _pulled_back(subject, precise, params, slope.astype(jnp.float32), "reference")
    for name, got, rounded, wanted in zip("qkv", found, plain, exact, strict=True):
        error, allowed = (float(np.linalg.norm(x.astype(jnp.float32) - wanted)) for x in (got, rounded))
        if not error <= 3 * allowed:
            raise subject.broken(
                f"the gradient by {name} is off by {error:.3g}, the equation's by {allowed:.3g}", error
            )


def _pulled_back(subject: Subject, operands: Operands, params, slope, implementation: str):
    attend = lambda *operands: subject.attend(Operands(*operands), params, implementation=implementation)
    return known(jax.jit(lambda operands, slope: jax.vjp(attend, *operands)[1](slope))(operands, slope))


def gradients_of_gradients(subject: Subject) -> None:
    """Reverse mode over reverse mode gives what the equation does, also where hidden scores are far above others."""
    operands = subject.operands(length=13, batch=1, dim=4)
    params = subject.params(operands)
    given = {"is_causal": subject.supports.causal}
    if subject.supports.bias and subject.supports.causal:
        given["bias"] = np.where(np.tri(13, dtype=bool), -200.0, 0.0).astype(np.float32)[None, None]

    def twice(name):
        once = lambda operands: curved(subject.attend(operands, params, implementation=name, **given)).sum()
        again = lambda operands: sum(jnp.sin(x).sum() for x in jax.grad(once)(operands))
        return jax.jit(jax.grad(again))(operands)

    fast, plain = (twice(name) for name in ("xla", "reference"))
    subject.finite((fast, plain), "second derivatives are")
    subject.same(fast, plain, "second derivatives, `batched` beside `head`,", 1e-3)
