"""Masks and scores as functions of positions, FlexAttention's contract, beside plain loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import Linear, SlidingWindow, Softmax, attend, attention_weights
from attnzoo.costs import counting
from attnzoo.door import attention as door
from tests.few import few

BATCH, LENGTH, HEADS, KV_HEADS, DIM = 2, 23, 4, 2, 8
rng = np.random.default_rng(0)
Q, K, V = (rng.normal(size=(BATCH, LENGTH, heads, DIM)).astype(np.float32) for heads in (HEADS, KV_HEADS, KV_HEADS))
DOCUMENTS = np.sort(rng.integers(0, 4, LENGTH))
TABLE = rng.random((LENGTH, LENGTH)) < 0.4
WIDTHS = np.array([2, 5, 1, 30])
SLOPES = rng.normal(size=HEADS).astype(np.float32)
BIASES = rng.normal(size=(HEADS, 2 * LENGTH)).astype(np.float32)


def closed(documents=DOCUMENTS, table=TABLE, widths=WIDTHS):
    """Masks, by name; what they close over is known, or traced."""
    documents, table, widths = map(jnp.asarray, (documents, table, widths))
    return {
        "causal": lambda h, i, j: j <= i,
        "prefix": lambda h, i, j: (j <= i) | (j < 7),
        "documents": lambda h, i, j: (documents[i] == documents[j]) & (j <= i),
        "windows by head": lambda h, i, j: abs(i - j) <= widths[h],
        "window with sinks": lambda h, i, j: (j <= i) & ((i - j < 5) | (j < 2)),
        "dilated": lambda h, i, j: (i - j) % 3 == 0,
        "a table": lambda h, i, j: table[i, j],
        "nothing": lambda h, i, j: i < 0,
        "everything": lambda h, i, j: i >= 0,
    }


def modifying(slopes=SLOPES, biases=BIASES, documents=DOCUMENTS):
    """Scores, by name, each as a function of a score and as one of NumPy's float64."""
    slopes, biases, documents = map(jnp.asarray, (slopes, biases, documents))
    return {
        "ALiBi": lambda s, h, i, j: s - slopes[h] * abs(i - j),
        "relative": lambda s, h, i, j: s + biases[h, i - j + LENGTH],
        "a cap": lambda s, h, i, j: 2 * jnp.tanh(s / 2),
        "a temperature": lambda s, h, i, j: s * (1 + slopes[h] ** 2),
        "documents": lambda s, h, i, j: jnp.where(documents[i] == documents[j], s, s / 2 - 1),
    }


def looped(mask=None, mod=None, offset=0, scale=DIM**-0.5):
    """One query, one key after another."""
    out = np.zeros((BATCH, LENGTH, HEADS, DIM))
    for b, i, h in np.ndindex(BATCH, LENGTH, HEADS):
        scores = scale * K[b, :, h * KV_HEADS // HEADS].astype(float) @ Q[b, i, h].astype(float)
        place = i + offset
        if mod is not None:
            scores = np.array([float(mod(jnp.float32(s), h, place, j)) for j, s in enumerate(scores)])
        seen = np.array([True if mask is None else bool(mask(h, place, j)) for j in range(LENGTH)])
        if seen.any():
            weights = np.where(seen, np.exp(scores - scores[seen].max()), 0)
            out[b, i, h] = weights @ V[b, :, h * KV_HEADS // HEADS] / weights.sum()
    return out


@pytest.mark.parametrize("name", few(closed(), ["causal", "documents", "windows by head"]))
def test_masks_known_and_traced(name):
    call = jax.jit(lambda *given: attend(Q, K, V, mask_mod=closed(*given)[name]))
    expected = looped(closed()[name])
    np.testing.assert_allclose(attend(Q, K, V, mask_mod=closed()[name]), expected, atol=1e-5)
    np.testing.assert_allclose(call(DOCUMENTS, TABLE, WIDTHS), expected, atol=1e-5)


@pytest.mark.parametrize("name", few(modifying(), ["ALiBi", "documents"]))
def test_scores_known_and_traced(name):
    call = jax.jit(lambda *given: attend(Q, K, V, score_mod=modifying(*given)[name], is_causal=True))
    expected = looped(closed()["causal"], modifying()[name])
    np.testing.assert_allclose(attend(Q, K, V, score_mod=modifying()[name], is_causal=True), expected, atol=1e-5)
    np.testing.assert_allclose(call(SLOPES, BIASES, DOCUMENTS), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["ALiBi", "relative", "a temperature"])
def test_what_a_score_mod_closes_over_has_gradients(name):
    def loss(slopes, biases, route):
        mods = {"score_mod": modifying(slopes, biases)[name], "mask_mod": closed()["window with sinks"]}
        return jnp.sin(attend(Q, K, V, implementation=route, **mods)).sum()

    found, expected = (
        jax.grad(loss, (0, 1))(SLOPES, BIASES, implementation) for implementation in ("xla", "reference")
    )
    assert max(np.abs(x).max() for x in expected) > 1e-2
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), found, expected)


def test_closures_of_64_bits():
    """Of a mode that belongs to this thread."""
    with jax.enable_x64(True):
        out = attend(Q, K, V, mask_mod=closed()["windows by head"])
    np.testing.assert_allclose(out, looped(closed()["windows by head"]), atol=1e-5)


def test_queries_count_from_the_offset():
    given = {"mask_mod": closed()["window with sinks"], "score_mod": modifying()["ALiBi"]}
    expected = looped(given["mask_mod"], given["score_mod"], offset=6)
    np.testing.assert_allclose(attend(Q, K, V, query_offset=6, **given), expected, atol=1e-5)
    offset = jnp.array([6, 6])
    np.testing.assert_allclose(attend(Q, K, V, query_offset=offset, **given), expected, atol=1e-5)


def test_each_example_may_close_over_its_own():
    ids = np.sort(rng.integers(0, 3, (BATCH, LENGTH)), axis=1)

    def one(q, k, v, ids):
        return attend(q, k, v, mask_mod=lambda h, i, j: ids[i] == ids[j])

    expected = attend(Q, K, V, query_segment_ids=ids, key_value_segment_ids=ids)
    np.testing.assert_allclose(jax.vmap(one)(Q, K, V, ids), expected, atol=1e-5)


def test_weights_are_shown():
    weights = attention_weights(Q, K, mask_mod=closed()["windows by head"])
    near = np.abs(np.arange(LENGTH)[:, None] - np.arange(LENGTH)) <= WIDTHS[:, None, None]
    np.testing.assert_array_equal(weights > 0, np.broadcast_to(near, weights.shape))


def test_the_same_function_is_traced_once_and_what_it_closes_over_is_looked_at_again():
    width = 3

    def near(head, i, j):
        return abs(i - j) < width

    first = attend(Q, K, V, mask_mod=near)
    before = door._attend._cache_size()
    attend(Q, K, V, mask_mod=near)
    assert door._attend._cache_size() == before
    width = 1
    second = attend(Q, K, V, mask_mod=near)
    np.testing.assert_allclose(first, looped(lambda h, i, j: abs(i - j) < 3), atol=1e-5)
    np.testing.assert_allclose(second, np.repeat(V, HEADS // KV_HEADS, axis=2), atol=1e-5)


LONG = 2048
COMPARED = {
    "a window": (lambda h, i, j: (j <= i) & (i - j < 128), 0.2),
    "documents": (lambda h, i, j: (i // 128 == j // 128) & (j <= i), 0.1),
    "the past": (lambda h, i, j: j <= i, 0.6),
}


@pytest.mark.parametrize("name", COMPARED)
def test_tiles_that_are_hidden_are_not_visited(name):
    """Forward and backward, whatever the function; no array is as large as the square of the length."""
    function, share = COMPARED[name]
    q = jax.ShapeDtypeStruct((1, LONG, 1, 8), jnp.float32)

    def traced(**given):
        return jax.make_jaxpr(jax.grad(lambda q, k, v: attend(q, k, v, **given).sum(), (0, 1, 2)))(q, q, q)

    found, whole = traced(mask_mod=function), traced()
    assert counting.flops_of(found.jaxpr) < share * counting.flops_of(whole.jaxpr)
    assert counting.largest_of(found.jaxpr) < LONG**2 / 2


@pytest.mark.parametrize("name", COMPARED)
def test_values_over_many_tiles(name):
    function, _ = COMPARED[name]
    q, k, v = (rng.normal(size=(1, 700, 2, 8)).astype(np.float32) for _ in range(3))
    i, j = np.ogrid[:700, :700]
    pull = lambda **given: jax.value_and_grad(lambda q, k, v: jnp.sin(attend(q, k, v, **given)).sum(), (0, 1, 2))(
        q, k, v
    )
    found, expected = pull(mask_mod=function), pull(mask=function(0, i, j))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-4), found, expected)


def test_refusals():
    near = closed()["causal"]
    with pytest.raises(NotImplementedError, match="Linear cannot honour `mask_mod`"):
        attend(Q, K, V, kernel=Linear(), mask_mod=near)
    with pytest.raises(NotImplementedError, match="Linear cannot honour `score_mod`"):
        attend(Q, K, V, kernel=Linear(), score_mod=lambda s, h, i, j: s)
    with pytest.raises(ValueError, match=r"mask_mod gave .*float32.*: expected one bool"):
        attend(Q, K, V, mask_mod=lambda h, i, j: 1.0)
    with pytest.raises(ValueError, match=r"mask_mod gave .*: expected one bool"):
        attend(Q, K, V, mask_mod=lambda h, i, j: (j <= i, j > i))
    with pytest.raises(ValueError, match=r"score_mod gave .*bool.*: expected one score"):
        attend(Q, K, V, score_mod=lambda s, h, i, j: s > 0)
    with pytest.raises(ValueError, match="score_mod came beside a bias"):
        attend(Q, K, V, np.zeros((LENGTH, LENGTH)), score_mod=lambda s, h, i, j: s)
    with pytest.raises(ValueError, match="mask_mod='causal': expected a function"):
        attend(Q, K, V, mask_mod="causal")
    with pytest.raises(ValueError, match=r"mask_mod\(b, h, i, j\): expected mask_mod\(head, query_index, key_index\)"):
        attend(Q, K, V, mask_mod=lambda b, h, i, j: True)
    with pytest.raises(ValueError, match=r"score_mod\(h, i, j\): expected score_mod\(score, head, .*jax.vmap"):
        attend(Q, K, V, score_mod=lambda h, i, j: 0.0)


@pytest.mark.parametrize("kernel", [Softmax(), SlidingWindow(3, 2)], ids=repr)
def test_forward_mode(kernel):
    def call(slopes, implementation):
        given = {"score_mod": modifying(slopes)["ALiBi"], "mask_mod": closed()["documents"]}
        return attend(Q, K, V, kernel=kernel, implementation=implementation, **given)

    slopes = jnp.asarray(SLOPES)
    found, expected = (jax.jvp(lambda s, n=name: call(s, n), (slopes,), (slopes,)) for name in ("forward", "reference"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), found, expected)
