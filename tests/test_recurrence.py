"""The recurrence beside the equation, where chunks, offsets, segments and padding meet."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import Linear, Performer, attend
from attnzoo.compute import recurrence

CASES = [
    (shape, causal, offset, segments)
    for shape, (causal, offset), segments in itertools.product(
        [(37, 37), (21, 40), (40, 13)], [(False, 0), (True, 0), (True, 3), (True, -4), (True, 100)], [False, True]
    )
]


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    """Chunks that a short sequence crosses several times."""
    monkeypatch.setitem(recurrence.attend.__kwdefaults__, "chunk", 8)
    jax.clear_caches()


@pytest.mark.parametrize("kernel", [Linear(), Performer(features=8)], ids=repr)
@pytest.mark.parametrize("case", CASES[::5] + CASES[3::7], ids=str)
def test_outputs_and_gradients(case, kernel):
    (length, keys), causal, offset, segments = case
    rng = np.random.default_rng(3)
    q, k, v = (jnp.asarray(rng.normal(size=(2, n, h, 4)), jnp.float32) for n, h in ((length, 2), (keys, 1), (keys, 1)))
    arguments = {"is_causal": causal, "query_offset": offset, "key_value_seq_lengths": jnp.array([keys // 2, keys])}
    if segments:
        arguments["query_segment_ids"] = jnp.sort(jnp.asarray(rng.integers(0, 5, (2, length))))
        arguments["key_value_segment_ids"] = jnp.sort(jnp.asarray(rng.integers(0, 6, (2, keys))))

    def loss(operands, route):
        out = attend(*operands, kernel=kernel, implementation=route, **arguments)
        return jnp.sum(jnp.sin(out)), out

    (_, ours), grads = jax.value_and_grad(loss, has_aux=True)((q, k, v), "xla")
    (_, plain), expected = jax.value_and_grad(loss, has_aux=True)((q, k, v), "reference")
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), grads, expected)
