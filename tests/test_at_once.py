"""Chunks that meet their states all at once, as on an accelerator, beside the equation and one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import Delta, GatedDelta, GatedLinear, KimiDelta, Linear, Performer, Retention, attend
from attnzoo.engines import recurrence
from attnzoo.testing import LAWS, check_law
from tests.few import few
from tests.gated_operands import KV_HEADS, given

KERNELS = [Linear(), Performer(8), GatedDelta(), Delta(), GatedLinear(), KimiDelta(), Retention()]
EACH = pytest.mark.parametrize("kernel", KERNELS, ids=repr)


def shuffled(length):
    """Ids of two examples, of which some segments begin in the middle of a chunk and go on for several others."""
    rng, ids = np.random.default_rng(length), np.repeat([0, 1, 2], [length // 3, length // 2, length // 6 + 1])[:length]
    return np.stack([np.concatenate([ids[:1], rng.permutation(ids[1:])]) for _ in range(2)])


CASES = {
    "plain": ((37, 37), {}),
    "padded, at an offset": ((40, 13), {"query_offset": 3, "key_value_seq_lengths": np.array([6, 13])}),
    "segments in any order": (
        (21, 40),
        {
            "query_offset": -4,
            "query_segment_ids": shuffled(21),
            "key_value_segment_ids": shuffled(40),
        },
    ),
}
RARE = [pytest.param(x, marks=pytest.mark.slow) for x in list(CASES)[1:2]]


@pytest.fixture(autouse=True, scope="module")
def _at_once_in_short_chunks():
    """What was traced otherwise is forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recurrence.attend.__kwdefaults__, "chunk", 8)
        patch.setitem(recurrence.attend.__kwdefaults__, "at_once", True)
        jax.clear_caches()
        yield
    jax.clear_caches()


@pytest.mark.parametrize("case", ["plain", "segments in any order", *RARE])
@EACH
def test_outputs_and_gradients(kernel, case):
    lengths, arguments = CASES[case]

    def loss(given, route):
        operands, tokens = given
        out = attend(*operands, kernel=kernel, tokens=tokens or None, is_causal=True, implementation=route, **arguments)
        return jnp.sum(jnp.sin(out)), out

    with jax.enable_x64(True):
        operands = jax.tree.map(jnp.asarray, given(kernel, *lengths, heads=KV_HEADS))
        results = [jax.value_and_grad(loss, has_aux=True)(operands, route) for route in ("xla", "reference")]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), *results)


@pytest.mark.slow
@EACH
def test_products_in_low_precision_lose_little(kernel):
    """Their operands are rounded to bfloat16, which the equation does with its output alone."""
    check_law(kernel, "low_precision_loses_little")


@EACH
def test_gradients_in_low_precision_lose_little(kernel):
    (q, k, v), tokens = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), given(kernel, 37))
    direction = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

    def slopes(operands, route="xla"):
        def loss(operands):
            out = attend(*operands[0], kernel=kernel, tokens=operands[1] or None, is_causal=True, implementation=route)
            return jnp.sum(direction * out.astype(jnp.float32))

        return jax.tree.map(lambda x: np.asarray(x, np.float64), jax.grad(loss)(operands))

    rounded = (q, k, v), tokens
    ours, plain = slopes(rounded), slopes(rounded, "reference")
    exact = slopes(jax.tree.map(lambda x: x.astype(jnp.float32), rounded), "reference")

    def compare(ours, plain, exact):
        allowed = 3 * np.abs(plain - exact).max() + float(jnp.finfo(jnp.bfloat16).eps) * np.abs(exact).max()
        assert np.abs(ours - exact).max() <= allowed

    jax.tree.map(compare, ours, plain, exact)


@pytest.mark.parametrize("name", few(LAWS, ["forward_mode_equals_the_equation"]))
@pytest.mark.parametrize("kernel", [GatedDelta(), Performer(8), GatedLinear()], ids=repr)
def test_law(kernel, name):
    check_law(kernel, name)
