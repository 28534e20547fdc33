"""How work and memory may grow with the length, counted and not timed.

Work is counted by walking the jaxpr, a loop's body times its trips: a window that is a dense mask in disguise is
found out, also when it loops over tiles.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo import counting
from attnzoo.door import attend
from attnzoo.interface import Dims
from attnzoo.testing.subject import Subject


def work_grows_as_claimed(subject: Subject) -> None:
    """Operations grow as `supports.work` claims, forward and backward, and `cost` agrees with the count."""
    lengths = (2048, 8192, 32768)
    for is_causal in _forms(subject):
        forward, train = zip(*(_programs(subject, length, is_causal) for length in lengths), strict=True)
        for name, programs in (("forward", forward), ("gradient", train)):
            exponent = _exponent(lengths, [counting.flops(function, *args) for function, *args in programs])
            if exponent > subject.supports.work + 0.1:
                raise subject.broken(f"{name} operations grow as T^{exponent:.2f} (is_causal={is_causal})", exponent)
        for length, (function, *args) in zip(lengths, forward, strict=True):
            cost = subject.kernel.cost(_dims(length), is_causal=is_causal).flops
            ratio = cost / counting.flops(function, *args)
            if abs(ratio - 1) > 0.1:
                raise subject.broken(f"`cost` is {ratio:.2f} times the count at length {length}", ratio)


def memory_grows_as_claimed(subject: Subject) -> None:
    """Intermediates and compiled temporaries grow as `supports.memory` claims."""
    lengths = (2048, 8192, 32768)
    for is_causal in _forms(subject):
        for which in (0, 1):
            programs = [_programs(subject, length, is_causal)[which] for length in lengths]
            sizes = [counting.largest_intermediate(function, *args) for function, *args in programs]
            if (exponent := _exponent(lengths, sizes)) > subject.supports.memory + 0.1:
                raise subject.broken(f"the largest intermediate grows as T^{exponent:.2f}", exponent)
        function, *args = _programs(subject, 4096, is_causal)[1]
        more, *longer = _programs(subject, 16384, is_causal)[1]
        sizes = [_temporaries(function, args), _temporaries(more, longer)]
        if (exponent := _exponent((4096, 16384), sizes)) > subject.supports.memory + 0.1:
            raise subject.broken(f"compiled temporaries grow as T^{exponent:.2f}", exponent)


def _forms(subject: Subject) -> list[bool]:
    return [form for form in (False, True) if (subject.supports.causal if form else subject.supports.bidirectional)]


def _dims(length: int) -> Dims:
    return Dims(1, length, length, 2, 1, 32, 32)


def _programs(subject: Subject, length: int, is_causal: bool):
    """Forward and gradient, each with the shapes of its operands."""
    dims = _dims(length)
    q, k = (jax.ShapeDtypeStruct((1, length, heads, 32), jnp.float32) for heads in (2, 1))
    params = jax.eval_shape(lambda: subject.kernel.init(jax.random.key(0), dims))

    def forward(q, k, v, params):
        return attend(q, k, v, kernel=subject.kernel, params=params, is_causal=is_causal)

    def gradient(*args):
        return jax.grad(lambda *args: forward(*args).sum(), (0, 1, 2, 3))(*args)

    return (forward, q, k, k, params), (gradient, q, k, k, params)


def _temporaries(function, args) -> int:
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


def _exponent(lengths, sizes) -> float:
    return float(np.polyfit(np.log(lengths), np.log(np.maximum(sizes, 1)), 1)[0])
