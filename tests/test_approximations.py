"""What each approximation promises beside its equation: where it nears softmax, and what its parts are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import BigBird, Dims, Linformer, Nystrom, Performer, attend

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


@pytest.mark.parametrize("kernel", [Performer(features=8), Performer(features=8, orthogonal=False), BigBird(4)])
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
