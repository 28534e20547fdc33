"""Which implementation a call takes: named by the caller, or the fastest that is right here."""

from __future__ import annotations

import functools
import logging

import jax

from attnzoo.contract.call import Call
from attnzoo.contract.sizes import Tree
from attnzoo.engines import cudnn, modes
from attnzoo.engines.fused import way
from attnzoo.engines.fused.way import Way
from attnzoo.kernel import Kernel

IMPLEMENTATIONS = ("xla", "forward", "cudnn", "pallas", "reference")

log = logging.getLogger("attnzoo")


def named(implementation: str | None) -> str | Way | None:
    """What programs are remembered by: kernels of ours run in several ways."""
    return way.way() if implementation == "pallas" else implementation


def run(
    implementation: str | Way | None,
    kernel: Kernel,
    params: Tree,
    draws: Tree,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    call: Call,
    *,
    with_residual: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """The output of `kernel`, and the residual where it is wanted.

    Args:
      implementation: None takes cuDNN where the program is lowered for CUDA and cuDNN is right, else "xla".

    Raises:
      NotImplementedError: the implementation that was named cannot serve the call; all its reasons are listed.
    """

    def zoo(q, k, v, batched=kernel.batched):
        out = batched(params, draws, q, k, v, call)
        out, residual = out if kernel.supports.residual else (out, None)
        return out, residual if with_residual else None

    if implementation == "reference":
        return zoo(q, k, v, functools.partial(Kernel.batched, kernel))
    if implementation == "xla":
        return zoo(q, k, v)
    if implementation == "forward":
        with modes.forward_mode():
            return zoo(q, k, v)
    if isinstance(implementation, Way):
        with way.asking(implementation, repr(kernel)):
            return zoo(q, k, v)
    reasons, plain = _cudnn(kernel, q, k, v, call, with_residual)
    if implementation == "cudnn":
        if reasons:
            raise NotImplementedError(_declines(kernel, reasons) + "; pass implementation=None or 'xla'")
        return plain(q, k, v)
    if reasons:
        _say(_declines(kernel, reasons) + "; taking 'xla'")
        return zoo(q, k, v)
    return jax.lax.platform_dependent(q, k, v, cuda=plain, default=zoo)


def _cudnn(kernel, q, k, v, call: Call, with_residual):
    """Reasons against cuDNN, and the call of it."""
    masked = kernel.as_softmax(call.mask)
    if masked is None:
        return ["it computes plain softmax attention, full or in a window, and nothing else"], None
    call = call.under(masked)
    reasons = cudnn.declined(q, k, v, call)
    if with_residual:
        reasons.append("return_residual=True, or sinks: jax.nn rounds the residual to the dtype of query")
    return reasons, lambda q, k, v: (cudnn.attend(q, k, v, call), None)


def _declines(kernel: Kernel, reasons: list[str]) -> str:
    return f"implementation='cudnn' declines {kernel!r}: {'; '.join(reasons)}"


@functools.lru_cache(maxsize=256)
def _say(message: str) -> None:
    """Log a message, once."""
    log.info(message)
