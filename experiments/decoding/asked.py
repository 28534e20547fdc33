"""The program that decodes with a kernel of one's own is asked itself whether it gives what the whole call gives."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable

import jax
import numpy as np

import attnzoo
from attnzoo.door.decoding import CHUNK, DecodingState
from attnzoo.testing import Subject
from experiments.bench import asked, brought, trust


def breach(decode: Callable, empty: DecodingState, params, row: dict) -> dict | None:
    """What a row says of a kernel of one's own whose steps are not its whole call, or None.

    A prompt as long as the context is taken, or as much of it as can be in the row's budget.

    Args:
      decode: the program that is timed, of a state, tokens [t, B, 1, N, H], and what they bring.
      empty: a state before the first token.
    """
    if trust.is_ours(empty.kernel):
        return None
    return trust.broken(lambda: _held(decode, empty, params, row))


def _held(decode: Callable, empty: DecodingState, params, row: dict) -> None:
    subject, kernel = Subject("stepping_equals_the_whole", empty.kernel), empty.kernel
    context = row["context"] if kernel.supports.cross else min(row["context"], math.isqrt(asked.PAIRS))
    shape = row["batch"], context + row["tokens"], row["heads"], row["head_dim"]
    *keys, last = jax.random.split(jax.random.key(row["seed"] + 1), 4)
    whole = [jax.random.normal(key, shape, row["dtype"]) for key in keys]
    whole.append(brought.normal(kernel, empty.dims, shape[:3], last, row["dtype"]))
    state, taken = _after(empty, params, _part(whole, 0, context), row["cell_budget"])
    whole = _part(whole, 0, taken + row["tokens"])
    *arrays, gates = jax.tree.map(lambda x: x[:, taken:].swapaxes(0, 1)[:, :, None], whole)
    _, out = decode(state, (arrays, gates))
    asked.hold(
        subject,
        np.asarray(out)[:, :, 0].swapaxes(0, 1),
        functools.partial(_last, kernel, params, row["tokens"]),
        whole,
        f"output of {row['tokens']} steps after {taken:,} tokens beside that of the whole call",
    )


def _after(empty: DecodingState, params, prompt: list, budget: float) -> tuple[DecodingState, int]:
    """The state after as many tokens of a prompt as there are seconds for, and their number."""
    step = jax.jit(lambda state, q, k, v, tokens: attnzoo.step(state, q, k, v, params=params, tokens=tokens)[0])
    state, taken, begun = empty, 0, time.perf_counter()
    length = prompt[0].shape[1]
    while taken < length and time.perf_counter() < begun + budget:
        chunk = (length - taken) % CHUNK or CHUNK
        state = jax.block_until_ready(step(state, *_part(prompt, taken, taken + chunk)))
        taken += chunk
    return state, taken


def _last(kernel, params, count: int, q, k, v, tokens) -> jax.Array:
    """Outputs [B, count, N, Hv] of the last tokens in the whole, causal call."""
    offset = q.shape[1] - count if kernel.supports.cross else 0
    given = {"kernel": kernel, "params": params, "is_causal": True, "query_offset": offset, "precision": "highest"}
    return attnzoo.attend(q[:, offset:], k, v, tokens=tokens, **given)[:, -count:]


def _part(whole: list, start: int, stop: int) -> list:
    return jax.tree.map(lambda x: x[:, start:stop], whole)
