"""What is asked of each implementation of a kernel on a device, in the arithmetic that is meant for it.

The laws of a kernel are about what may touch what, in float32 and at small sizes; these are about numbers of 16 bits,
over several tiles. Errors of outputs and gradients are those beside the equation in float32, and may be twice as large
as those of the equation in 16 bits, as FlashAttention is tested (Dao et al. 2022, arXiv:2205.14135).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import attnzoo
from attnzoo import Dims, Kernel
from attnzoo.testing import LawBroken
from experiments.bench import brought

LENGTH, LONG = 1024, 32768
HEADS, HEAD_DIM = 2, 64
DTYPE = jnp.bfloat16
MOST = 2.0  # times the error of the equation in 16 bits
ROUNDING = float(jnp.finfo(DTYPE).eps)  # of the largest entry, beside that
NAMES = ("output", "gradient by query", "gradient by key", "gradient by value")


def check(kernel: Kernel, route: str, law: str) -> None:
    """Hold one implementation of a kernel to a law of `LAWS`.

    Raises:
      LawBroken: it does not obey.
      NotImplementedError: it refuses the call.
    """
    if said := LAWS[law](kernel, route):
        raise LawBroken(law, kernel, said)


def errors_are_those_of_rounding(kernel: Kernel, route: str, **asked) -> str | None:
    """At most `MOST` times as large as those of the equation in 16 bits."""
    operands = _operands(kernel)
    with jax.default_matmul_precision("highest"):
        equation = _with_gradients(kernel, "reference", **asked)
        precise = equation(*jax.tree.map(lambda x: x.astype(jnp.float32), operands))
        plain = equation(*operands)
    found = _with_gradients(kernel, route, **asked)(*operands)
    for name, exact, rounded, got in zip(NAMES, *map(_as_numpy, (precise, plain, found)), strict=True):
        allowed = MOST * np.abs(rounded - exact).max() + ROUNDING * np.abs(exact).max()
        error = np.abs(got - exact).max()
        if not error <= allowed:
            return f"the {name} errs by {error:.3g}, allowed {allowed:.3g}"
    return None


def errors_both_ways_are_those_of_rounding(kernel: Kernel, route: str) -> str | None:
    """The same where every query sees all keys, of a kernel that is causal elsewhere."""
    is_either = kernel.supports.causal and kernel.supports.bidirectional
    return errors_are_those_of_rounding(kernel, route, is_causal=False) if is_either else None


def two_calls_give_the_same_bits(kernel: Kernel, route: str) -> str | None:
    """Of output and gradients, by one program."""
    call, operands = _with_gradients(kernel, route), _operands(kernel)
    return _different(call(*operands), call(*operands))


def the_future_changes_no_bit(kernel: Kernel, route: str) -> str | None:
    """Other keys and values in the second half leave the outputs of the first as they are."""
    if not kernel.supports.causal:
        return None
    q, k, v, *rest = _operands(kernel)
    half = q.shape[1] // 2
    other = lambda x: x.at[:, half:].multiply(-30)
    first = jax.jit(lambda q, k, v, *rest: _attend(kernel, route)(q, k, v, *rest)[:, :half])
    return _different([first(q, k, v, *rest)], [first(q, other(k), other(v), *rest)])


def padding_may_be_nan(kernel: Kernel, route: str) -> str | None:
    """Keys and values of NaN behind the length that is told leave output and gradients as they are."""
    if not kernel.supports.key_mask:
        return None
    q, k, v, *rest = _operands(kernel)
    length = q.shape[1] - q.shape[1] // 3
    spoiled = lambda x: x.at[:, length:].set(jnp.nan)
    call = _with_gradients(kernel, route, key_value_seq_lengths=jnp.array([length]))
    return _different(call(q, k, v, *rest), call(q, spoiled(k), spoiled(v), *rest))


def long_sequences_are_finite(kernel: Kernel, route: str) -> str | None:
    """Output and gradients at `LONG` tokens."""
    found = zip(NAMES, _with_gradients(kernel, route)(*_operands(kernel, LONG)), strict=True)
    odd = [name for name, x in found if not bool(jnp.isfinite(x).all())]
    return f"at {LONG} tokens, not finite: {', '.join(odd)}" if odd else None


LAWS: dict[str, Callable[[Kernel, str], str | None]] = {
    law.__name__: law
    for law in (
        errors_are_those_of_rounding,
        errors_both_ways_are_those_of_rounding,
        two_calls_give_the_same_bits,
        the_future_changes_no_bit,
        padding_may_be_nan,
        long_sequences_are_finite,
    )
}


def _attend(kernel: Kernel, route: str, **asked) -> Callable:
    """Causal wherever it can be: the harder case, and that of language models."""
    how = {"kernel": kernel, "is_causal": kernel.supports.causal, "implementation": route, **asked}

    def call(q, k, v, tokens=None):
        params = kernel.init(jax.random.key(0), Dims.of(q, k, v))
        return attnzoo.attend(q, k, v, params=params, tokens=tokens, **how)

    return call


def _with_gradients(kernel: Kernel, route: str, **asked) -> Callable:
    """Output, and what it gives back along some direction by query, key and value."""

    @jax.jit
    def call(q, k, v, *rest):
        out, pull = jax.vjp(lambda q, k, v: _attend(kernel, route, **asked)(q, k, v, *rest), q, k, v)
        direction = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return out, *pull(direction.astype(out.dtype))

    return call


def _operands(kernel: Kernel, length: int | None = None) -> list:
    """Those of a call, and what tokens bring; fewer where an equation replays all tokens for each query."""
    length = length or (LENGTH if kernel.supports.bidirectional else LENGTH // 4)
    dims = Dims(1, length, length, HEADS, HEADS, HEAD_DIM, HEAD_DIM)
    keys = jax.random.split(jax.random.key(0), 4)
    operands: list = [jax.random.normal(key, (1, length, HEADS, HEAD_DIM), DTYPE) for key in keys[:3]]
    given = brought.normal(kernel, dims, (1, length, HEADS), keys[3], jnp.float32)
    return [*operands, given] if given else operands


def _as_numpy(arrays) -> list[np.ndarray]:
    return [np.asarray(x, np.float64) for x in arrays]


def _different(first, second) -> str | None:
    """Where the bits of the one are not those of the other."""
    for name, x, y in zip(NAMES, _as_numpy(first), _as_numpy(second), strict=False):
        if not np.array_equal(x, y):
            return f"{np.count_nonzero(~(x == y))} of {x.size} entries of the {name} are others"
    return None
