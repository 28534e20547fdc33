"""Operands whose tokens bring what a kernel wants of them."""

import numpy as np

from attnzoo import Dims

HEADS, KV_HEADS, DIM = 4, 2, 3


def given(kernel, length, keys=None, *, heads=HEADS, dim=DIM):
    """Query, key and value of two examples, and what tokens bring to `heads` heads, in float64."""
    rng, keys = np.random.default_rng(0), length if keys is None else keys
    q, k, v = (rng.normal(size=(2, n, h, dim)) for n, h in ((length, HEADS), (keys, KV_HEADS), (keys, KV_HEADS)))
    made = kernel.token_inputs(Dims(2, length, keys, HEADS, KV_HEADS, dim, dim)).items()
    tokens = {name: x.activation(rng.normal(size=(2, keys, heads, *x.shape))) for name, x in made}
    return (q, k, v), {name: np.asarray(x, np.float64) for name, x in tokens.items()}
