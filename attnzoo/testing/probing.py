"""The laws without which a score means nothing, in few and small programs: seconds, where all laws take minutes.

Whoever trains a kernel, or times one, asks them first: a kernel that sees what it is to predict wins every comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.door.attention import attend
from attnzoo.kernel import Kernel
from attnzoo.testing import futures
from attnzoo.testing.subject import Operands, Subject, brought, changed, curved, known

LONGEST = 4096  # tokens of a probe
GRADIENTS = 512  # of them where there are gradients, since work and memory may grow with their square
ROUNDING = 1e-6  # a device that adds in no fixed order does not give the same bits twice
PADDED = 2e-5  # as in `padding_changes_nothing`: a sum over another number of keys is rounded otherwise
# Compiling is nearly all of the time; these are options of XLA's backend for CPUs, and others do not know them.
QUICK: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_disable_hlo_passes": "constant_folding",
}


def probe_kernel(
    kernel: Kernel,
    length: int,
    *,
    is_causal: bool = False,
    is_padded: bool = False,
    is_cross: bool = False,
    is_trained: bool = True,
    is_tested: bool = False,
) -> None:
    """Hold `kernel` to the laws that one place in a model rests on.

    In every place, outputs are finite, those of equal calls are equal, and examples of a batch cannot touch each other.
    Where it `is_causal`, the future cannot touch the past; where it `is_padded`, padding changes nothing, and queries
    that see nothing give nothing, with finite gradients. Its fast route is its equation, with its gradients where it
    `is_trained`.

    Args:
      length: of the sequences there, of which `LONGEST` are asked for at most, and `GRADIENTS` for gradients.
      is_padded: whether examples have lengths of their own.
      is_cross: whether queries are of another sequence than keys.
      is_trained: whether gradients are taken.
      is_tested: whether tests hold it to its equation already.

    Raises:
      LawBroken: for the first law that is broken.
      NotImplementedError: the kernel does not support the place.

    Example:
      >>> from attnzoo.testing import probe_kernel
      >>> probe_kernel(Linear(), length=4, is_causal=True)
      >>> probe_kernel(Nystrom(), length=4, is_causal=True)
      Traceback (most recent call last):
      NotImplementedError: Nystrom cannot honour `is_causal`: its landmarks are means over the whole sequence. ...
    """
    length = min(length, LONGEST)
    queries = length // 2 + 1 if is_cross else length
    operands = Subject("", kernel).operands(queries, keys=length, heads=2, kv_heads=2)
    # The first, of one number for all entries, are inside of blocks of whichever size.
    few = np.repeat([[length // 2], [length - 1]], 2, axis=1)
    _touched(kernel, operands, is_causal, few if is_tested else futures.drawn(length, 2, 2))
    if is_padded and length > 1:
        _padded(kernel, operands, is_causal, is_cross)
    if not is_tested:
        _as_its_equation(kernel, operands, is_causal, is_trained)


def _touched(kernel: Kernel, operands: Operands, is_causal: bool, cuts: np.ndarray) -> None:
    """What must not be felt is changed, and the same program run again."""
    numbers = "outputs_are_finite", "equal_calls_are_equal"
    hidden = "batch_mates_cannot_touch_each_other", "the_future_cannot_touch_the_past"
    sound, equal, mates, future = (Subject(law, kernel) for law in (*numbers, *hidden))
    params = mates.params(operands)
    program = _compiled(_forward(kernel, is_causal), *operands, params)
    call = lambda *operands: known(program(*operands, params))
    before = call(*operands)
    sound.finite(before, f"output of {operands.k.shape[1]:,} tokens is")
    equal.same(call(*operands), before, "output of the same call, made once more,", ROUNDING)
    for mate in (0, 1):
        mated = (changed(x, 1 - mate, 30.0) for x in operands)
        mates.same(call(*mated)[mate], before[mate], "output of the mate of an example times 30.0", ROUNDING)
    if is_causal:
        futures.untouched(future, before, lambda cut: call(*_later(operands, cut)), cuts, ROUNDING)


def _later(operands: Operands, cut: np.ndarray) -> Operands:
    """Others from cuts [B] or [B, K] on."""
    others = zip(operands, (-2.0, 9.0, 1.0), (0.0, 0.0, 1.0), strict=True)
    return Operands(*(np.where(futures.is_later(x.shape, cut), times * x + plus, x) for x, times, plus in others))


def _padded(kernel: Kernel, operands: Operands, is_causal: bool, is_cross: bool) -> None:
    """One example that is half padding, beside it without, and one that is nothing else; gradients of fewer tokens."""
    padding, blind = (Subject(law, kernel) for law in ("padding_changes_nothing", "blind_queries_give_nothing"))
    forward = _forward(kernel, is_causal)

    def padded(q, k, v, params, lengths) -> Any:
        given = {} if is_cross else {"query_seq_lengths": lengths}
        return forward(q, k, v, params, key_value_seq_lengths=lengths, **given)

    def pulled(q, k, v, params, lengths):
        return _pulled(lambda q, k, v: padded(q, k, v, params, lengths))(q, k, v)

    def held(function: Callable, operands: Operands) -> tuple[Any, Any]:
        """What a function gives, whose output is held to be that of the bare example."""
        params, half = padding.params(operands), operands.k.shape[1] // 2
        seen = slice(None) if is_cross else slice(half)
        bare = operands.q[:, seen], operands.k[:, :half], operands.v[:, :half], params
        expected = _compiled(forward, *bare)(*bare)
        whole = *operands, params, np.array([half, 0])
        out, gradients = _compiled(function, *whole)(*whole)
        padding.same(out[0, seen], expected[0], "output of a padded example beside the bare one", PADDED)
        blind.zero(out[1], "output of queries that see nothing because of padding")
        return out, gradients

    few = _few(operands)
    out, gradients = held(pulled, few)
    blind.zero(gradients[0][1], "gradient of queries that see nothing because of padding")
    blind.finite((out, gradients), "output or gradients beside those of queries that see nothing are")
    if few.k.shape != operands.k.shape:
        held(lambda *given: (padded(*given), None), operands)


def _as_its_equation(kernel: Kernel, operands: Operands, is_causal: bool, is_trained: bool) -> None:
    """The fast route beside `head`: outputs of all tokens, and gradients of fewer."""
    subject = Subject("batched_equals_head", kernel)
    few = _few(operands)

    def of_both(function, operands):
        given = *operands, subject.params(operands)
        routes = (_forward(kernel, is_causal, implementation=x, precision="highest") for x in ("xla", "reference"))
        return (known(_compiled(function(route), *given)(*given)) for route in routes)

    if is_trained:
        (out, gradients), (expected, wanted) = of_both(_pulled, few)
        subject.finite(gradients, "gradient of `batched` is")
        subject.same(out, expected, "output of `batched` beside `head`", 1e-4)
        for part, got, right in zip(("q", "k", "v", "params"), gradients, wanted, strict=True):
            subject.same(got, right, f"gradient by {part} of `batched` beside `head`", 1e-3)
    if not is_trained or few.k.shape != operands.k.shape:
        out, expected = of_both(lambda forward: forward, operands)
        subject.same(out, expected, "output of `batched` beside `head`", 1e-4)


def _few(operands: Operands) -> Operands:
    """Of at most `GRADIENTS` keys, and as many queries, or half as many where these are of another sequence."""
    queries, keys = operands.q.shape[1], operands.k.shape[1]
    few = min(keys, GRADIENTS)
    operands = Operands(*(x[:, :few] for x in operands))
    return operands if queries == keys else operands._replace(q=operands.q[:, : few // 2 + 1])


def _pulled(forward: Callable) -> Callable:
    """What it gives, and the gradients of a curved function of that by all operands."""

    def loss(points):
        out = forward(*points)
        return jnp.sum(curved(out)), out

    def pulled(*points):
        (_, out), gradients = jax.value_and_grad(loss, has_aux=True)(points)
        return out, gradients

    return pulled


def _forward(kernel: Kernel, is_causal: bool, **chosen: str) -> Callable:
    given: dict[str, Any] = {"kernel": kernel, "is_causal": is_causal, **chosen}
    return lambda q, k, v, params, **lengths: attend(
        q, k, v, params=params, **given, **lengths, **brought(kernel, Operands(q, k, v))
    )


def _compiled(function: Callable, *operands) -> Callable:
    options = QUICK if jax.default_backend() == "cpu" else None
    return jax.jit(function).lower(*operands).compile(compiler_options=options)
