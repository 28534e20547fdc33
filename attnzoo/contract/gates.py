"""What tokens bring to several kernels: how much is kept, and how much is written."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from attnzoo.contract.support import TokenInput

STEPS = 1e-3, 1e-1  # the range of the steps that decays start from, as Mamba's: one is drawn for each number
RATES = 1.0, 16.0  # that of the rates they are multiplied by
SMALLEST = 1e-4


def log_decay(shape: tuple[int, ...] = ()) -> TokenInput:
    """Logarithms of what a token keeps of the state: -softplus of a projection.

    At first it keeps e^(-rate step), rate and step drawn as by Mamba-2 (Dao and Gu 2024, arXiv:2405.21060) and those
    after it, where the rate is a factor of its own, e^A_log. Here it is within the bias: of small steps softplus is the
    exponential, and a factor is an addend.
    """
    return TokenInput(shape, lambda x: -jax.nn.softplus(x), _steps_times_rates)


def step() -> TokenInput:
    """How much of a token is written, softplus of a projection, as Mamba's steps start."""
    return TokenInput((), jax.nn.softplus, _steps)


def beta(most: int) -> TokenInput:
    """How much of what the state lacks of a token is written: `most` times the sigmoid of a projection."""
    return TokenInput((), lambda x: most * jax.nn.sigmoid(x))


def _steps(rng, shape, dtype=jnp.float32):
    low, high = map(math.log, STEPS)
    return _inverse_softplus(jnp.exp(jax.random.uniform(rng, shape, dtype, low, high)))


def _steps_times_rates(rng, shape, dtype=jnp.float32):
    steps, rates = jax.random.split(rng)
    drawn = jax.nn.softplus(_steps(steps, shape, dtype)) * jax.random.uniform(rates, shape, dtype, *RATES)
    return _inverse_softplus(jnp.maximum(drawn, SMALLEST))


def _inverse_softplus(y):
    return y + jnp.log(-jnp.expm1(-y))
