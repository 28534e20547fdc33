"""What each approximation promises beside its equation: where it nears softmax, and what its parts are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import (
    BigBird,
    Dims,
    Linformer,
    Local,
    Nystrom,
    Performer,
    Reformer,
    Sinkhorn,
    SparseTransformer,
    Synthesizer,
    attend,
    attention_weights,
)

LENGTH, DIM = 37, 4


def operands(length=LENGTH, keys=LENGTH):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(3, n, h, DIM)), jnp.float32) for n, h in ((length, 2), (keys, 1), (keys, 1))]


def test_orthogonal_rows_are_orthogonal_with_norms_of_gaussian_rows():
    rows = Performer(features=600).draw(jax.random.key(0), Dims(1, 1, 1, 2, 1, 16, 16))
    block = rows[0, :16]
    norms = jnp.linalg.norm(block, axis=1)
    np.testing.assert_allclose(block @ block.T, jnp.diag(norms**2), atol=1e-4)
    squares = jnp.sum(rows**2, axis=2)  # chi-squared with 16 degrees: mean 16, variance 32
    assert abs(squares.mean() - 16) < 1 and abs(squares.var() - 32) < 6
    assert not np.array_equal(rows[0], rows[1])


@pytest.mark.every_kernel
@pytest.mark.parametrize("kernel", [Performer(features=8), Performer(8, orthogonal=False), BigBird(4), Reformer(8)])
def test_a_seed_stands_for_the_same_draws_in_double_precision(kernel):
    given = [np.asarray(x) for x in operands()]
    out = attend(*given, kernel=kernel)
    with jax.enable_x64(True):
        double = attend(*(x.astype(np.float64) for x in given), kernel=kernel)
    np.testing.assert_allclose(out, double, atol=1e-5)


def test_hidden_tokens_do_not_move_landmarks():
    """Hidden keys in between, and hidden queries at the end, give what their absence gives."""
    kernel, used = Nystrom(landmarks=5), LENGTH - 7
    q, k, v = operands()
    shown = np.arange(LENGTH) % 4 != 2
    out = attend(q, k, v, kernel=kernel, key_mask=jnp.stack([shown] * 3), query_seq_lengths=jnp.array([used] * 3))
    bare = q[0, :used, 0], k[0, shown, 0], v[0, shown, 0]
    expected = kernel.head((), (), *bare, jnp.ones((used, int(shown.sum())), bool), scale=None)
    np.testing.assert_allclose(out[0, :used, 0], expected, atol=2e-5)


def test_linformer_uses_the_first_columns_of_a_shorter_input_and_refuses_a_longer_one():
    kernel = Linformer(rank=5)
    params = kernel.init(jax.random.key(0), Dims(3, 20, 20, 2, 1, DIM, DIM))
    first = jax.tree.map(lambda x: x[..., :12], params)
    outs = [attend(*operands(9, 12), kernel=kernel, params=given) for given in (params, first)]
    np.testing.assert_array_equal(*outs)
    with pytest.raises(ValueError, match=r"at most 20 keys, key has 37: initialise it"):
        attend(*operands(), kernel=kernel, params=params)


def test_strided_blocks_are_those_of_the_reshape():
    """Of [T, ...] to [block_size, T / block_size, ...], with attention over the first axis."""
    q, k, v = operands(12, 12)
    out = attend(q, k, v, kernel=Local(block_size=4, layout="strided"))
    q, k, v = (jnp.repeat(x, 2 // x.shape[2], axis=2).reshape(3, 4, 3, 2, DIM) for x in (q, k, v))
    weights = jax.nn.softmax(jnp.einsum("bsghd,btghd->bghst", q, k) / DIM**0.5)
    np.testing.assert_allclose(out, jnp.einsum("bghst,btghd->bsghd", weights, v).reshape(3, 12, 2, DIM), atol=1e-6)


@pytest.mark.every_kernel
@pytest.mark.parametrize(
    "kernel", [Local(4), Local(4, "strided"), SparseTransformer(6, 2), Synthesizer("random", rank=3)], ids=repr
)
@pytest.mark.parametrize("offset", [-9, 9])
def test_positions_count_from_the_offset(kernel, offset):
    params = kernel.init(jax.random.key(0), Dims(3, LENGTH, LENGTH, 2, 1, DIM, DIM))
    given = {"kernel": kernel, "params": params, "query_offset": offset}
    outs = [attend(*operands(), **given, implementation=name) for name in ("xla", "reference")]
    np.testing.assert_allclose(*outs, atol=1e-6)
    assert np.abs(outs[0] - attend(*operands(), kernel=kernel, params=params)).max() > 0.1


def test_strided_blocks_are_not_decoded():
    assert Local().supports.decode and not Local(layout="strided").supports.decode


def test_more_rounds_let_more_pairs_meet():
    met = [attention_weights(*operands()[:2], kernel=Reformer(4, buckets=8, rounds=n)) > 0 for n in (1, 2, 8)]
    assert met[0].sum() < met[1].sum() < met[2].sum()
    chunks = -(-LENGTH // 4)
    most_in_a_round = (2 * chunks - 1) * 16
    assert met[0].sum() <= 3 * 2 * most_in_a_round


def test_near_tokens_meet_under_tied_keys():
    """Every token meets itself, and the weight of the pairs that meet is more than their share."""
    q, _, _ = operands(256)
    keys = q / jnp.linalg.norm(q, axis=-1, keepdims=True)
    exact = attention_weights(q, keys, scale=8.0)
    met = attention_weights(q, keys, kernel=Reformer(16, buckets=16), scale=8.0) > 0
    assert jnp.diagonal(met, axis1=2, axis2=3).all()
    assert (exact * met).sum() / exact.sum() > 4 * met.mean()


def test_a_cold_sort_brings_whole_blocks():
    """Where the pooled keys of a block are far along one direction, the block goes there and nowhere else."""
    size, blocks, goes_to = 3, 4, np.array([2, 0, 3, 1])
    q, k, _ = operands(size * blocks, size * blocks)
    k = k.at[..., :].add(4 * jnp.repeat(jnp.eye(blocks), size, axis=0)[:, None])
    kernel = Sinkhorn(size, temperature=1e-2)
    met = attention_weights(q, k, kernel=kernel, params=jnp.eye(blocks)[np.argsort(goes_to)][None]) > 1e-6
    block = np.arange(size * blocks) // size
    expected = (block[:, None] == block) | (block[:, None] == goes_to[block])
    np.testing.assert_array_equal(met, np.broadcast_to(expected, met.shape))


def test_a_random_synthesizer_does_not_look_at_tokens():
    q, k, v = operands()
    kernel = Synthesizer("random", rank=3)
    params = kernel.init(jax.random.key(0), Dims(3, LENGTH, LENGTH, 2, 1, DIM, DIM))
    outs = [attend(*given, v, kernel=kernel, params=params) for given in ((q, k), (-q, k), (q, 3 * k))]
    np.testing.assert_array_equal(outs[0], outs[1])
    np.testing.assert_array_equal(outs[0], outs[2])


@pytest.mark.every_kernel
@pytest.mark.parametrize("kernel", [Sinkhorn(4), Synthesizer(), Synthesizer("random", rank=3)], ids=repr)
def test_what_was_learned_for_a_length_serves_shorter_inputs_from_its_start(kernel):
    params = kernel.init(jax.random.key(0), Dims(3, LENGTH, LENGTH, 2, 1, DIM, DIM))
    kept = {LENGTH: 12, -(-LENGTH // 4): 3}
    first = jax.tree.map(lambda x: x[:, : kept.get(x.shape[1])], params)
    outs = [attend(*operands(12, 12), kernel=kernel, params=given) for given in (params, first)]
    np.testing.assert_array_equal(*outs)
