"""The contract carries kernels that the catalogue does not have: what a plug-in author writes is `head` and `supports`.

Each kernel here was written before the fast routes, to see whether the signatures are wide enough.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnzoo
from attnzoo import BigBird, Kernel, SlidingWindow, Softmax, Support
from attnzoo.contract.sizes import Positions


def arrays(batch=2, query_length=19, key_length=19, num_heads=4, kv_heads=2, head_dim=8, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(query_length, num_heads), (key_length, kv_heads), (key_length, kv_heads)]
    return [jnp.asarray(rng.normal(size=(batch, *shape, head_dim)), jnp.float32) for shape in shapes]


@dataclasses.dataclass(frozen=True)
class Retention(Kernel):
    """RetNet's retention: decay by distance, another rate for each head (Sun et al. 2023, arXiv:2307.08621)."""

    supports = Support(causal=True, key_mask=True, segments=True, mask=True, scale=True, cross=True, positions=True)

    def draw(self, rng, dims):
        return jnp.log1p(-(2.0 ** (-5.0 - jnp.arange(dims.num_heads))))

    def head(self, params, draws, q, k, v, visible, *, scale, positions):
        distance = jnp.arange(len(q))[:, None] + positions.query_offset - jnp.arange(len(k))[None, :]
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        return (q @ k.T * scale * jnp.exp(draws * jnp.abs(distance)) * visible) @ v


@dataclasses.dataclass(frozen=True)
class DeltaRule(Kernel):
    """DeltaNet: a state that forgets what it overwrites, and so has an order (Yang et al. 2024, arXiv:2406.06484)."""

    supports = Support(causal=True, bidirectional=False, why="its state is written in order of time")

    def head(self, params, draws, q, k, v, visible):
        k = k / jnp.linalg.norm(k, axis=-1, keepdims=True)

        def write(state, token):
            q, k, v = token
            state = state + jnp.outer(k, v - k @ state)
            return state, q @ state

        return jax.lax.scan(write, jnp.zeros((k.shape[1], v.shape[1])), (q, k, v))[1]


@dataclasses.dataclass(frozen=True)
class LocalitySensitive(Kernel):
    """Reformer's attention in one round: softmax among keys of the query's bucket (Kitaev et al. 2020, 2001.04451)."""

    buckets: int = 4
    seed: int = 0

    supports = Support(causal=True, key_mask=True, segments=True, mask=True, cross=True)

    def draw(self, rng, dims):
        return jax.random.normal(rng, (dims.num_heads, dims.head_dim, self.buckets // 2))

    def head(self, params, draws, q, k, v, visible):
        def bucket(x):
            return jnp.argmax(jnp.concatenate([x @ draws, -x @ draws], axis=-1), axis=-1)

        visible &= bucket(q)[:, None] == bucket(k)[None, :]
        scores = jnp.where(visible, q @ k.T * q.shape[-1] ** -0.5, -1e9)
        weights = jnp.where(visible, jnp.exp(scores - scores.max(-1, keepdims=True)), 0)
        return weights @ v / jnp.maximum(weights.sum(-1, keepdims=True), 1e-9)


def test_retention_equals_its_recurrence():
    q, k, v = arrays(kv_heads=4)
    out = attnzoo.attend(q, k, v, kernel=Retention(), is_causal=True)
    decay = 1 - 2.0 ** (-5.0 - np.arange(4))
    state = np.zeros((2, 4, 8, 8))
    for t in range(q.shape[1]):
        state = decay[:, None, None] * state + np.einsum("bnh,bnv->bnhv", k[:, t], v[:, t])
        np.testing.assert_allclose(out[:, t], np.einsum("bnh,bnhv->bnv", q[:, t], state) * 8**-0.5, atol=1e-5)


def test_a_kernel_of_time_refuses_to_look_both_ways():
    q, k, v = arrays()
    assert attnzoo.attend(q, k, v, kernel=DeltaRule(), is_causal=True).shape == q.shape
    with pytest.raises(NotImplementedError, match="DeltaRule cannot honour `is_causal=False`: its state is written in"):
        attnzoo.attend(q, k, v, kernel=DeltaRule())


def test_hashing_draws_one_rotation_for_each_head():
    q, k, _ = arrays()
    weights = attnzoo.attention_weights(q, k, kernel=LocalitySensitive())
    assert not np.array_equal(weights[:, 0] > 0, weights[:, 1] > 0)
    rotations = jax.random.normal(jax.random.key(7), (4, 8, 2))
    other = attnzoo.attention_weights(q, k, kernel=LocalitySensitive(), draws=rotations)
    assert not np.array_equal(weights, other)


def test_blocks_are_drawn_for_each_head():
    q, k, _ = arrays(query_length=64, key_length=64)
    weights = attnzoo.attention_weights(q, k, kernel=BigBird(block_size=4, num_random=2))
    patterns = np.asarray(weights[0] > 0)
    assert not np.array_equal(patterns[0], patterns[1])


def test_a_window_counts_from_the_offset_in_cross_attention():
    q, k, v = arrays(query_length=5, key_length=19)
    kernel = SlidingWindow(left=2, right=1)
    out = attnzoo.attend(q, k, v, kernel=kernel, query_offset=9)
    i, j = np.arange(5)[:, None] + 9, np.arange(19)[None, :]
    expected = attnzoo.attend(q, k, v, mask=jnp.asarray((j >= i - 2) & (j <= i + 1)))
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_a_decoding_step_places_each_example_at_its_own_position():
    """`head` and `PositionBias` take traced positions, so that a step can serve examples of different lengths."""
    q, k, v = arrays(batch=3, query_length=12, key_length=12, num_heads=2, kv_heads=2)
    bias = attnzoo.ALiBi.of(2)
    lengths = jnp.array([4, 12, 7])

    def step(kernel, position, q, k, v, slope):
        columns = jnp.arange(len(k))
        declared = {"positions": Positions(True, position, len(k)), "global_tokens": None}
        declared = {name: x for name, x in declared.items() if getattr(kernel.supports, name)}
        rule = attnzoo.LinearBias(slope)(position[None], columns)
        visible = (columns <= position)[None]
        return kernel.head((), (), q, k, v, visible, bias=rule, scale=None, soft_cap=None, dropout=None, **declared)[0]

    for kernel in (Softmax(), SlidingWindow(left=3, right=0)):
        whole = attnzoo.attend(q, k, v, bias, kernel=kernel, is_causal=True)
        heads = jax.vmap(lambda *args, kernel=kernel: step(kernel, *args), (None, 1, 1, 1, 0), 1)
        last = jnp.take_along_axis(q, (lengths - 1)[:, None, None, None], axis=1)
        stepped = jax.vmap(heads, (0, 0, 0, 0, None))(lengths - 1, last, k, v, bias.slopes)
        expected = jnp.take_along_axis(whole, (lengths - 1)[:, None, None, None], axis=1)
        np.testing.assert_allclose(stepped, expected, atol=1e-6)
