"""Decoding gives what the whole causal call gives, however a sequence is cut into steps."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.sizes import Dims
from attnzoo.door import decoding
from attnzoo.door.decoding import DecodingState
from attnzoo.positions import ALiBi
from attnzoo.testing.subject import GROUPED, LENGTH, Operands, Subject, brought, known, normal

PROMPT = 150  # longer than the chunk that a prompt is cut into, and no multiple of it


def stepping_equals_the_whole(subject: Subject) -> None:
    """A prompt and the tokens after it, at positions that differ by example, give what they give in one call."""
    if not subject.supports.decode:
        return _refuses_to_start(subject)
    operands = subject.operands(**GROUPED, value_dim=5)
    for name, given in _arguments(subject).items():
        whole = subject.attend(operands, is_causal=True, **given)
        out = _ragged(subject, operands, given)
        subject.same(out, whole, f"output of steps {name}, beside that of the whole,", 1e-5)
    long = subject.operands(length=PROMPT, batch=1, dim=2)
    _, out = _step(subject, _start(subject, long), long)
    subject.same(out, subject.attend(long, is_causal=True), "output of a long prompt beside that of the whole", 1e-5)
    return None


def calls_at_an_offset_equal_the_whole(subject: Subject) -> None:
    """Some queries, at an offset that is traced and differs by example, give what they give beside the others."""
    operands = subject.operands()
    params = subject.params(operands)
    if not subject.supports.cross:
        return _counts_from_the_offset(subject, operands, params)
    forms = {True: subject.supports.causal, False: subject.supports.bidirectional}
    for is_causal, width in ((True, 9), (False, 1)):
        if not forms[is_causal]:
            continue
        whole, gradients = subject.pulled(operands, params, is_causal=is_causal)
        for offsets in ([0, 9], [28, 20]):
            rows = (np.array(offsets)[:, None] + np.arange(width))[..., None, None]
            some = lambda x, rows=rows: np.take_along_axis(x, rows, axis=1)
            given: dict[str, Any] = {"is_causal": is_causal, "query_offset": np.array(offsets)}
            out, pulled = subject.pulled(operands._replace(q=some(operands.q)), params, **given)
            case = f"of queries at {offsets}, is_causal={is_causal}, beside that of all,"
            subject.same(out, some(whole), f"output {case}", 1e-5)
            subject.same(pulled.operands.q, some(gradients.operands.q), f"gradient by q {case}", 2e-4)
    return None


def steps_in_low_precision_lose_little(subject: Subject) -> None:
    """In bfloat16, steps err at most twice as much as the equation does there, but for one rounding."""
    if not subject.supports.decode:
        return _refuses_to_start(subject)
    operands = subject.operands(dtype=jnp.bfloat16)
    exact = subject.attend(Operands(*(x.astype(jnp.float32) for x in operands)), is_causal=True)
    plain = subject.attend(operands, is_causal=True, implementation="reference")
    params = subject.params(operands)
    state, first = _step(subject, _start(subject, operands), Operands(*(x[:, :30] for x in operands)), params)
    _, last = _step(subject, state, Operands(*(x[:, 30:] for x in operands)), params)
    found = np.concatenate([first, last], axis=1)
    error, allowed = (float(np.abs(x.astype(jnp.float32) - exact).max()) for x in (found, plain))
    if not error <= 2 * allowed + jnp.finfo(jnp.bfloat16).eps * np.abs(exact).max():
        raise subject.broken(f"steps in bfloat16 are off by {error:.3g}, the equation by {allowed:.3g}", error)
    return None


def a_state_has_an_end(subject: Subject) -> None:
    """Tokens past the end raise; under `jit` their outputs are NaN, and the cache keeps what it has."""
    if not subject.supports.decode:
        return _refuses_to_start(subject)
    operands = subject.operands(length=9)
    params = subject.params(operands)
    state = _start(subject, operands, max_length=8)
    full, out = _step(subject, state, Operands(*(x[:, :8] for x in operands)), params)
    try:
        _step(subject, full, Operands(*(x[:, 8:] for x in operands)), params)
    except ValueError as error:
        if "max_length=8" not in str(error):
            raise subject.broken(f"the error past the end does not name `max_length`: {error}") from None
    else:
        raise subject.broken("a token past the end is taken")
    lengths = np.array([8, 9])
    traced = jax.jit(functools.partial(_step, subject, params=params))
    after, over = traced(state, operands, query_seq_lengths=lengths)
    subject.same(over[:, :8], out, "output before the end, beside that of a step that fits,", 1e-5)
    subject.zero(over[0, 8], "output of padding past the end")
    if not np.isnan(over[1, 8]).all():
        raise subject.broken("under `jit` the output of a token past the end is not NaN")
    subject.same(after.cache, full.cache, "the cache after a token past the end", 1e-5)
    return None


def _counts_from_the_offset(subject: Subject, operands: Operands, params) -> None:
    """A traced offset for each example gives what known ones give, one example after another."""
    offsets = (3, -4)
    out, _ = subject.pulled(operands, params, query_offset=np.array(offsets))
    alone = [Operands(*(x[b : b + 1] for x in operands)) for b in (0, 1)]
    known = [subject.attend(one, params, query_offset=offset) for one, offset in zip(alone, offsets, strict=True)]
    subject.same(out, np.concatenate(known), f"output at traced offsets {offsets} beside that at known ones", 1e-5)


def _arguments(subject: Subject) -> dict[str, dict]:
    """What a step may be given beside its tokens, as the whole call takes it."""
    given: dict[str, dict[str, Any]] = {"without bias": {"scale": 0.7} if subject.supports.scale else {}}
    if subject.supports.soft_cap:
        given["under a soft cap"] = {"soft_cap": 0.8}
    sinks = {"sinks": np.linspace(-1, 1, 4, dtype=np.float32)} if subject.supports.residual else {}
    if subject.supports.bias:
        given["under ALiBi"] = {"bias": ALiBi.of(4), **sinks}
        if subject.supports.mask and subject.supports.score_mod:
            hides, scored = (
                lambda head, i, j: (i - j) % (3 + head) != 1,
                lambda score, head, i, j: score - 0.1 * (i - j),
            )
            given["under functions"] = {"mask_mod": hides, "score_mod": scored}
        given["under an array"] = {"bias": normal(6, (1, 4, LENGTH, LENGTH))}
    return given


def _ragged(subject: Subject, operands: Operands, given: dict) -> np.ndarray:
    """Outputs [2, LENGTH, ...] of steps in which one example is ahead of the other, with garbage for padding."""
    params, state = subject.params(operands), _start(subject, operands)
    out = np.full((*operands.q.shape[:3], operands.v.shape[3]), np.nan, np.float32)
    for lengths in map(np.array, ([9, 14], [1, 1], [1, 0], [14, 14], *[[1, 1]] * 4, [8, 4])):
        before, width = np.asarray(state.positions), 1 if max(lengths) == 1 else 14
        rows = before[:, None] + np.arange(width)
        padding = np.arange(width) >= lengths[:, None]
        rows = np.where(padding, 0, rows)
        picked = [np.stack([x[b, rows[b]] for b in (0, 1)]) for x in operands]
        chunk = Operands(*(np.where(padding[..., None, None], np.float32(np.nan), x) for x in picked))
        now = dict(given)
        if isinstance(now.get("bias"), np.ndarray):
            now["bias"] = np.stack([now["bias"][0][:, rows[b]] for b in (0, 1)])
        state, stepped = _step(subject, state, chunk, params, query_seq_lengths=lengths, **now)
        subject.same(state.positions, np.asarray(before + lengths, np.int32), "positions after a step")
        subject.zero(np.where(padding[..., None, None], stepped, 0), "output of padding in a step")
        for b in (0, 1):
            out[b, before[b] : before[b] + lengths[b]] = stepped[b, : lengths[b]]
    return out


def _start(subject: Subject, operands: Operands, max_length: int | None = None) -> DecodingState:
    """A state for these operands; its cache has their dtype, and leaves that lead with the batch."""
    dims = Dims.of(*operands)
    state = decoding.start(
        batch=dims.batch,
        num_heads=dims.num_heads,
        num_key_value_heads=dims.num_key_value_heads,
        head_dim=dims.head_dim,
        value_dim=dims.value_dim,
        max_length=max_length or dims.key_length,
        kernel=subject.kernel,
        params=subject.params(operands),
        dtype=operands.k.dtype,
    )
    for leaf in jax.tree.leaves(state.cache):
        if leaf.shape[:1] != (dims.batch,):
            raise subject.broken(f"a leaf of the cache has shape {leaf.shape}: the batch of {dims.batch} must lead")
    return state


def _step(subject: Subject, state: DecodingState, operands: Operands, params=None, **arguments):
    params = subject.params(operands) if params is None else params
    given = brought(subject.kernel, operands) | arguments
    state, out = decoding.step(state, *operands, params=params, **given)
    return state, known(out)


def _refuses_to_start(subject: Subject) -> None:
    try:
        decoding.start(batch=1, num_heads=2, head_dim=8, max_length=4, kernel=subject.kernel)
    except NotImplementedError as error:
        if "`start`" not in str(error) or type(subject.kernel).__name__ not in str(error):
            raise subject.broken(f"the refusal does not name the kernel and `start`: {error}") from None
    else:
        raise subject.broken("`decode` is not declared in `supports`, and `start` not refused")
