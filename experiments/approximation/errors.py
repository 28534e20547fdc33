"""Attention by a kernel beside exact softmax: how far are its output and its matrix?

    output    ||Y - Y*||_F / ||Y*||_F
    weights   ||A - A*||_F / ||A*||_F
    row       max_i sum_j |A_ij - A*_ij|

for each head, over all examples, with A from `attnzoo.attention_weights` and Y = A V. Rows of A* sum to 1, so `row` is
relative too: the worst query's share of weight gone astray, up to 2 where A has no negative weights, and a bound of
|y_i - y*_i| over the largest value.

Softmax is the reference: one equation, float32, matrix products in the highest precision. A kernel is measured as it
runs, on its fast route and in JAX's default precision, by the same program that is timed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import attnzoo
from attnzoo import Dims, Kernel
from experiments.approximation import dials
from experiments.approximation.operands import Layer


class Attention(NamedTuple):
    """Output [B, T, N, H] and matrix [B, N, T, S]."""

    output: jax.Array
    weights: jax.Array


class Errors(NamedTuple):
    """Of each head, [N]."""

    output: jax.Array
    weights: jax.Array
    row: jax.Array


class Programs(NamedTuple):
    """A kernel, compiled for query, key, value, params and draws.

    Attributes:
      attend: its output.
      weights: its matrix, from all of these but value.
      compile_seconds: what the first of the two took.
    """

    attend: jax.stages.Compiled
    weights: jax.stages.Compiled
    compile_seconds: float


def exact(layer: Layer, is_causal: bool) -> Attention:
    """Softmax, as the reference."""
    given = {"is_causal": is_causal, "precision": "highest", "implementation": "reference"}
    output = attnzoo.attend(*layer, kernel=dials.EXACT, **given)
    return Attention(output, attnzoo.attention_weights(*layer[:2], kernel=dials.EXACT, **given))


def indifferent(layer: Layer, is_causal: bool) -> Attention:
    """Attention that weighs all keys in sight alike."""
    return exact(layer._replace(query=jnp.zeros_like(layer.query)), is_causal)


@jax.jit
def between(found: Attention, expected: Attention) -> Errors:
    """The three errors of each head."""
    output, weights = found.output - expected.output, found.weights - expected.weights
    return Errors(
        _norm(output, (0, 1, 3)) / _norm(expected.output, (0, 1, 3)),
        _norm(weights, (0, 2, 3)) / _norm(expected.weights, (0, 2, 3)),
        jnp.abs(weights).sum(axis=3).max(axis=(0, 2)),
    )


def _norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.square(x).sum(axes))


def of(programs: Programs, kernel: Kernel, layers: list[Layer], expected: list[Attention], draws: int, seed: int):
    """Errors of a kernel on each layer, [draws, layers, 3, N]; one draw where nothing in it is random.

    Raises:
      FloatingPointError: one of them is no number.
    """

    def of_layer(number: int, index: int) -> Errors:
        query, key, value = layers[index]
        constants = trees(kernel, layers[index], seed, number * len(layers) + index)
        attended = programs.attend(query, key, value, *constants), programs.weights(query, key, *constants)
        return between(Attention(*attended), expected[index])

    numbers = range(draws if is_random(kernel, layers[0]) else 1)
    errors = np.asarray([[of_layer(number, index) for index in range(len(layers))] for number in numbers], np.float64)
    if not np.isfinite(errors).all():
        raise FloatingPointError("its attention has values that are no finite numbers")
    return errors


def trees(kernel: Kernel, layer: Layer, seed: int, number: int) -> tuple:
    """Parameters and draws of a kernel, those of draw `number`."""
    return _maker(kernel, Dims.of(*layer))(jax.random.fold_in(jax.random.key(seed), number))


@functools.lru_cache(maxsize=256)
def _maker(kernel: Kernel, dims: Dims) -> Callable:
    def make(rng):
        init, draw = jax.random.split(rng)
        return kernel.init(init, dims), kernel.draw(draw, dims)

    return jax.jit(make)


def is_random(kernel: Kernel, layer: Layer) -> bool:
    """Whether `trees` has anything in it."""
    return bool(jax.tree.leaves(jax.eval_shape(lambda: trees(kernel, layer, 0, 0))))


def programs(kernel: Kernel, layer: Layer, is_causal: bool) -> Programs:
    """The kernel compiled for operands such as these; kept, since operands of another name may have the same shapes.

    Raises:
      NotImplementedError: the kernel cannot serve.
    """
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in layer)
    return _compiled(kernel, Layer(*shapes), is_causal)


@functools.lru_cache(maxsize=256)
def _compiled(kernel: Kernel, shapes: Layer, is_causal: bool) -> Programs:
    def attend(query, key, value, params, draws):
        given = {"kernel": kernel, "params": params, "draws": draws, "is_causal": is_causal}
        return attnzoo.attend(query, key, value, **given)

    def weights(query, key, params, draws):
        given = {"kernel": kernel, "params": params, "draws": draws, "is_causal": is_causal}
        return attnzoo.attention_weights(query, key, **given)

    constants = jax.eval_shape(lambda: trees(kernel, shapes, 0, 0))
    start = time.perf_counter()
    first = jax.jit(attend).lower(*shapes, *constants).compile()
    seconds = time.perf_counter() - start
    return Programs(first, jax.jit(weights).lower(*shapes[:2], *constants).compile(), seconds)
