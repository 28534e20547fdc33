"""What tokens bring to a kernel that is timed: normal numbers, activated as layers do it."""

from __future__ import annotations

import jax

from attnzoo import Dims, Kernel


def normal(kernel: Kernel, dims: Dims, leading: tuple[int, ...], rng: jax.Array, dtype) -> dict[str, jax.Array]:
    """[*leading, ...] each, by name; `leading` ends in heads."""
    inputs = kernel.token_inputs(dims).items()
    rngs = [jax.random.fold_in(rng, place) for place in range(len(inputs))]
    return {
        name: one.activation(jax.random.normal(own, (*leading, *one.shape), dtype))
        for own, (name, one) in zip(rngs, inputs, strict=True)
    }
