"""The recurrence beside the equation, where chunks, offsets, segments and padding meet."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import CosFormer, Linear, Performer, attend
from attnzoo.costs import counting
from attnzoo.engines import recurrence
from tests.few import few

CASES = [
    (shape, causal, offset, segments, padded)
    for shape, (causal, offset), segments, padded in itertools.product(
        [(37, 37), (21, 40), (40, 13)],
        [(False, 0), (True, 0), (True, 3), (True, -4), (True, 100)],
        [False, True],
        [False, True],
    )
]


@pytest.fixture(autouse=True, scope="module")
def _short_chunks():
    """Chunks that a short sequence crosses several times; what was traced with others is forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recurrence.attend.__kwdefaults__, "chunk", 8)
        jax.clear_caches()
        yield
    jax.clear_caches()


KERNELS = pytest.mark.parametrize("kernel", [Linear(), Performer(features=8)], ids=repr)


def operands(length=37, keys=37):
    rng = np.random.default_rng(3)
    return [jnp.asarray(rng.normal(size=(2, n, h, 4)), jnp.float32) for n, h in ((length, 2), (keys, 1), (keys, 1))]


@pytest.mark.parametrize("kernel", [Linear(), Performer(features=8), CosFormer(max_length=150)], ids=repr)
@pytest.mark.parametrize("case", few([*CASES[::7], *CASES[3::11]], CASES[::14]), ids=str)
def test_outputs_and_gradients(case, kernel):
    (length, keys), causal, offset, segments, padded = case
    rng = np.random.default_rng(4)
    arguments = {"is_causal": causal, "query_offset": offset}
    if padded:
        arguments["key_value_seq_lengths"] = jnp.array([keys // 2, keys])
    if segments:
        arguments["query_segment_ids"] = jnp.asarray(rng.integers(0, 5, (2, length)))
        arguments["key_value_segment_ids"] = jnp.asarray(rng.integers(0, 6, (2, keys)))

    def loss(given, route):
        out = attend(*given, kernel=kernel, implementation=route, **arguments)
        return jnp.sum(jnp.sin(out)), out

    (_, ours), grads = jax.value_and_grad(loss, has_aux=True)(operands(length, keys), "xla")
    (_, plain), expected = jax.value_and_grad(loss, has_aux=True)(operands(length, keys), "reference")
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), grads, expected)


@pytest.mark.parametrize("segments", [False, True])
def test_queries_that_see_all_keys_stand_somewhere(segments):
    given, arguments = operands(21, 40), {"kernel": CosFormer(max_length=60), "query_offset": jnp.array([5, -3])}
    if segments:
        ids = np.random.default_rng(4).integers(0, 3, (2, 40))
        arguments |= {"query_segment_ids": ids[:, :21], "key_value_segment_ids": ids}
    outs = [attend(*given, implementation=x, **arguments) for x in ("xla", "reference")]
    np.testing.assert_allclose(*outs, atol=1e-5)


@KERNELS
@pytest.mark.parametrize("lengths", [(5, 7), (7, 5)], ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
def test_all_in_one_chunk(kernel, lengths, is_causal):
    given = operands(*lengths)
    outs = [attend(*given, kernel=kernel, is_causal=is_causal, implementation=x) for x in ("xla", "reference")]
    np.testing.assert_allclose(*outs, atol=1e-5)


@KERNELS
@pytest.mark.parametrize("offset", [-4, 0, 3])
def test_the_future_cannot_touch_the_past_across_chunks(kernel, offset):
    """Later keys are so long that a stabiliser over all of them would flush the earlier ones to the floor."""
    q, k, v = operands()
    moved = k.at[:, 20:].mul(30.0), v.at[:, 20:].add(1e6)
    outs = [attend(q, *keys, kernel=kernel, is_causal=True, query_offset=offset) for keys in ((k, v), moved)]
    np.testing.assert_array_equal(*(out[:, : 20 - offset] for out in outs))
    assert not np.array_equal(*outs)


@KERNELS
@pytest.mark.parametrize("is_causal", [False, True])
def test_packed_neighbours_cannot_touch_each_other_across_chunks(kernel, is_causal):
    q, k, v = operands()
    ids = jnp.tile(jnp.searchsorted(jnp.array([5, 21, 24]), jnp.arange(37), side="right"), (2, 1))
    arguments = {"query_segment_ids": ids, "key_value_segment_ids": ids, "is_causal": is_causal, "kernel": kernel}
    moved = k.at[:, 5:21].mul(30.0), v.at[:, 5:21].add(1e6)
    outs = [attend(q, *keys, **arguments) for keys in ((k, v), moved)]
    np.testing.assert_array_equal(*(out[:, np.r_[0:5, 21:37]] for out in outs))
    assert not np.array_equal(*outs)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["shrinking", "growing"])
def test_the_stabiliser_follows_keys_of_any_length(order):
    """Exponents from 0 to -2000, which no single maximum can serve."""
    q, k, v = operands()
    k = (k * jnp.linspace(40, 0, 37)[None, :, None, None])[:, order]
    outs = [attend(q, k, v, kernel=Performer(8), is_causal=True, implementation=x) for x in ("xla", "reference")]
    np.testing.assert_allclose(*outs, atol=2e-5)


@KERNELS
@pytest.mark.parametrize("is_causal", [False, True])
def test_work_and_memory_with_segments_are_linear(kernel, is_causal):
    def count(length):
        given = [jax.ShapeDtypeStruct((1, length, heads, 4), jnp.float32) for heads in (2, 1, 1)]
        ids = jax.ShapeDtypeStruct((1, length), jnp.int32)

        def gradient(q, k, v, ids):
            segments = {"query_segment_ids": ids, "key_value_segment_ids": ids}
            call = lambda *given: attend(*given, kernel=kernel, is_causal=is_causal, **segments).sum()
            return jax.grad(call, (0, 1, 2))(q, k, v)

        return [measure(gradient, *given, ids) for measure in (counting.flops, counting.largest_intermediate)]

    (work, size), (more_work, more_size) = count(512), count(2048)
    assert more_work < 4.5 * work and more_size < 4.5 * size


def test_one_example_is_not_copied_before_its_chunks_are_met():
    q = jax.ShapeDtypeStruct((1, 2048, 2, 8), jnp.float32)
    call = jax.jit(lambda *given: attend(*given, kernel=Linear(), is_causal=True))
    found = call.lower(q, q, q).compile().memory_analysis()
    assert found.temp_size_in_bytes < found.output_size_in_bytes


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_short_sequence_is_one_chunk_as_long_as_it_is(is_causal):
    def work(length):
        return counting.flops(lambda *x: attend(*x, kernel=Linear(), is_causal=is_causal), *operands(length, length))

    assert 3 * work(2) < 1.5 * work(4) < work(7)


def test_work_does_not_grow_with_the_offset():
    def work(offset):
        return counting.flops(lambda *x: attend(*x, kernel=Linear(), is_causal=True, query_offset=offset), *operands())

    assert work(10**6) == work(37) and work(-(10**6)) <= work(0)
