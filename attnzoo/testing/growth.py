"""How work and memory may grow with the length, counted and not timed.

Work is counted by walking the jaxpr, a loop's body times its trips: a window that is a dense mask in disguise is
found out, also when it loops over tiles.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.sizes import Dims
from attnzoo.costs import counting
from attnzoo.door.attention import attend
from attnzoo.kernel import Kernel
from attnzoo.testing.subject import Operands, Subject, brought

LENGTHS = (4096, 32768)
PASSES = ("forward", "gradient")


class Count(NamedTuple):
    """Operations, and elements of the largest intermediate, of a forward pass and of its gradient."""

    flops: list[float]
    largest: list[int]


def work_grows_as_claimed(subject: Subject) -> None:
    """Operations grow as `supports.work` claims, forward and backward."""
    for is_causal in _forms(subject.kernel):
        counts = [_count(subject.kernel, length, is_causal) for length in LENGTHS]
        for part, name in enumerate(PASSES):
            exponent = _exponent(LENGTHS, [count.flops[part] for count in counts])
            if exponent > subject.supports.work + 0.1:
                raise subject.broken(f"{name} operations grow as T^{exponent:.2f} (is_causal={is_causal})", exponent)


def memory_grows_as_claimed(subject: Subject) -> None:
    """Intermediates, and the temporaries of the compiled gradient, grow as `supports.memory` claims."""
    allowed = subject.supports.memory + 0.1
    for is_causal in _forms(subject.kernel):
        counts = [_count(subject.kernel, length, is_causal) for length in LENGTHS]
        for part, name in enumerate(PASSES):
            exponent = _exponent(LENGTHS, [count.largest[part] for count in counts])
            if exponent > allowed:
                raise subject.broken(f"the largest intermediate of the {name} grows as T^{exponent:.2f}", exponent)
        sizes = [_temporaries(_traced(subject.kernel, length, is_causal)[1]) for length in LENGTHS]
        if (exponent := _exponent(LENGTHS, sizes)) > allowed:
            raise subject.broken(f"compiled temporaries grow as T^{exponent:.2f} (is_causal={is_causal})", exponent)


def _forms(kernel: Kernel) -> list[bool]:
    supported = {False: kernel.supports.bidirectional, True: kernel.supports.causal}
    return [form for form, has in supported.items() if has]


def _dims(length: int) -> Dims:
    return Dims(1, length, length, 2, 1, 32, 32)


def _count(kernel: Kernel, length: int, is_causal: bool) -> Count:
    jaxprs = [traced.jaxpr.jaxpr for traced in _traced(kernel, length, is_causal)]
    return Count([counting.flops_of(x) for x in jaxprs], [counting.largest_of(x) for x in jaxprs])


@functools.lru_cache(maxsize=16)
def _traced(kernel: Kernel, length: int, is_causal: bool):
    """Forward and gradient as programs, which both laws count."""
    dims = _dims(length)
    q, k = (jax.ShapeDtypeStruct((1, length, heads, 32), jnp.float32) for heads in (2, 1))
    params = jax.eval_shape(lambda: kernel.init(jax.random.key(0), dims))

    def forward(q, k, v, params):
        given = brought(kernel, Operands(q, k, v))
        return attend(q, k, v, kernel=kernel, params=params, is_causal=is_causal, **given)

    def gradient(*args):
        return jax.grad(lambda *args: forward(*args).sum(), (0, 1, 2, 3))(*args)

    return [jax.jit(function).trace(q, k, k, params) for function in (forward, gradient)]


def _temporaries(traced) -> int:
    return traced.lower().compile().memory_analysis().temp_size_in_bytes


def _exponent(lengths, sizes) -> float:
    return float(np.polyfit(np.log(lengths), np.log(np.maximum(sizes, 1)), 1)[0])
