"""Every kernel beside its oracle: values tightly, and gradients by finite differences of the oracle in float64."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import (
    KERNELS,
    Based,
    BigBird,
    CosFormer,
    Delta,
    Dims,
    Forgetting,
    GatedDelta,
    GatedLinear,
    KimiDelta,
    Linear,
    Linformer,
    Local,
    LogLinear,
    Mask,
    Nystrom,
    Performer,
    Reformer,
    Retention,
    Sinkhorn,
    SlidingWindow,
    Softmax,
    SparseTransformer,
    StateSpace,
    attend,
)
from attnzoo import attention_weights as weights_of
from attnzoo.engines import sums
from attnzoo.testing.zoo import FURTHER, ZOO
from tests import oracles
from tests.oracles.bigbird import block_pattern

BATCH, LENGTH, HEADS, KV_HEADS, DIM = 2, 13, 4, 2, 4


def operands(keys=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(BATCH, LENGTH, HEADS, DIM), (BATCH, keys, KV_HEADS, DIM), (BATCH, keys, KV_HEADS, DIM)]
    return [rng.normal(size=shape) for shape in shapes]


def constants(kernel, keys=LENGTH):
    """Draws as the kernel makes them, and learned parameters moved from where they start, since some start at zero."""
    dims = Dims(BATCH, LENGTH, keys, HEADS, KV_HEADS, DIM, DIM)
    move = lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape, x.dtype)
    return jax.tree.map(move, kernel.init(jax.random.key(1), dims)), kernel.draw(jax.random.key(kernel.seed), dims)


def brought(kernel, keys=LENGTH, seed=3):
    """What tokens bring, by name, in float64."""
    rng, inputs = np.random.default_rng(seed), kernel.token_inputs(Dims(BATCH, LENGTH, keys, HEADS, KV_HEADS, DIM, DIM))
    normal = lambda one: rng.normal(size=(BATCH, keys, HEADS, *one.shape))
    return {name: np.asarray(one.activation(normal(one)), np.float64) for name, one in inputs.items()}


@pytest.fixture
def oracle(kernel):
    """The oracle of the kernel that a test is given: a kernel may come before its oracle does."""
    missing = f"no oracle: expected tests/oracles/{oracles.name_of(kernel)}.py"
    return oracles.oracle_of(kernel) or pytest.skip(missing)


def expected(oracle, kernel, q, k, v, params, draws, arguments, tokens):
    """The oracle's answer for all heads: [B, T, N, Hv]."""
    arguments = dict(arguments)
    bias = arguments.pop("bias", None)
    named = arguments.pop("global_tokens", None)
    of_scores = {name: arguments.pop(name, None) for name in ("scale", "soft_cap")}
    structure = {name: np.asarray(x) if hasattr(x, "shape") else x for name, x in arguments.items()}
    visible = oracles.visibility(BATCH, HEADS, q.shape[1], k.shape[1], **structure)
    ids = structure.get("query_segment_ids")
    biases = None if bias is None else np.broadcast_to(np.asarray(bias, np.float64), visible.shape)
    out = np.zeros((*q.shape[:3], v.shape[3]))
    for b, n in np.ndindex(BATCH, HEADS):
        group = n // (HEADS // KV_HEADS)
        one = oracles.One(
            q[b, :, n],
            k[b, :, group],
            v[b, :, group],
            visible[b, n],
            params=jax.tree.map(lambda x, n=n: np.asarray(x[n % len(x)], np.float64), params),
            draws=jax.tree.map(lambda x, n=n: np.asarray(x[n % len(x)]), draws),
            is_causal=structure.get("is_causal", False),
            offset=structure.get("query_offset", 0),
            keys=structure["key_value_seq_lengths"][b] if "key_value_seq_lengths" in structure else None,
            bias=None if biases is None else biases[b, n],
            global_tokens=() if named is None else tuple(named[b][named[b] >= 0].tolist()),
            tokens={name: x[b, :, n] for name, x in tokens.items()},
            segments=None if ids is None else (ids[b], structure["key_value_segment_ids"][b]),
            **of_scores,
        )
        out[b, :, n] = oracle(kernel, one)
    return out


IDS = np.arange(LENGTH)[None] // np.array([[4], [6]])
CHOICES = {
    "causal": {"is_causal": True, "query_offset": 2},
    "key_mask": {"key_value_seq_lengths": np.array([9, LENGTH]), "query_seq_lengths": np.array([LENGTH, 8])},
    "segments": {"query_segment_ids": IDS, "key_value_segment_ids": IDS},
    "mask": {"mask": np.random.default_rng(4).random((BATCH, 1, LENGTH, LENGTH)) < 0.7, "local_window_size": (6, 4)},
    "bias": {"bias": np.random.default_rng(5).normal(size=(1, HEADS, LENGTH, LENGTH))},
    "scale": {"scale": 0.8},
    "soft_cap": {"soft_cap": 0.9},
    "global_tokens": {"global_tokens": np.array([[12, -1, 6], [5, 0, 5]])},
}


def combinations(kernel):
    """Nothing, everything, and all pairs that cover the choices of the kernel."""
    names = [name for name in CHOICES if getattr(kernel.supports, name)]
    pairs = [pair for pair in itertools.combinations(names, 2) if "causal" in pair or "key_mask" in pair]
    return [(), tuple(names), *pairs[:4]]


OTHERS = Linear("relu"), Linformer(rank=5, share="kv"), CosFormer(max_length=20), Delta(max_beta=2)


def arguments_of(kernel, names):
    given = {} if kernel.supports.bidirectional else {"is_causal": True}
    return given | {key: value for name in names for key, value in CHOICES[name].items()}


@pytest.mark.parametrize(
    ("kernel", "names"),
    [
        pytest.param(kernel, names, marks=[pytest.mark.every_kernel] * (names == combinations(kernel)[1]))
        for kernel in [*ZOO, *FURTHER, *OTHERS]
        for names in combinations(kernel)
    ],
    ids=lambda value: repr(value) if not isinstance(value, tuple) else "+".join(value) or "plain",
)
def test_values(kernel, names, oracle):
    params, draws = constants(kernel)
    arguments, tokens = arguments_of(kernel, names), brought(kernel)
    given = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in arguments.items()}
    if "bias" in given:
        given["bias"] = given["bias"].astype(jnp.float32)
    (q, k, v), tokens = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (operands(), tokens))
    out = attend(q, k, v, kernel=kernel, params=params, tokens=tokens, **given)
    *rounded, tokens = jax.tree.map(lambda x: np.asarray(x, np.float64), (q, k, v, tokens))
    want = expected(oracle, kernel, *rounded, params, draws, arguments, tokens)
    np.testing.assert_allclose(out, want, atol=2e-5 * max(1, np.abs(want).max()))


def test_decays_of_retention_are_its_papers():
    """In float64 where there is one: rounded, outputs are 1e-7 off."""
    with jax.enable_x64(True):
        decays = Retention().draw(jax.random.key(0), Dims(1, 1, 1, 8, 8, 1, 1))
    np.testing.assert_allclose(decays, np.log1p(-(2.0 ** (-5 - np.arange(8)))), rtol=1e-14)


@pytest.mark.parametrize("kernel", [*ZOO, *FURTHER, CosFormer(max_length=20)], ids=repr)
def test_gradients_in_float64(kernel, oracle):
    """Along random directions, against central differences of the oracle."""
    names = [name for name in ("causal", "key_mask", "bias") if getattr(kernel.supports, name)]
    arguments = arguments_of(kernel, names)
    rng = np.random.default_rng(8)
    with jax.enable_x64(True):
        inputs = operands()
        params, draws = constants(kernel)
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        draws = jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype != np.uint32 else x, draws)
        coefficients = rng.normal(size=(BATCH, LENGTH, HEADS, DIM))
        bias = arguments.pop("bias", None)
        varied = {"operands": inputs, "params": params, "tokens": brought(kernel)}
        varied |= {} if bias is None else {"bias": bias}

        def ours(varied):
            given = {} if bias is None else {"bias": varied["bias"]}
            q, k, v = varied["operands"]
            given |= {"params": varied["params"], "draws": draws, "tokens": varied["tokens"]}
            out = attend(q, k, v, kernel=kernel, **given, **arguments)
            return jnp.sum(out * coefficients)

        def theirs(varied):
            extra = {} if bias is None else {"bias": varied["bias"]}
            constants = varied["params"], draws, arguments | extra, varied["tokens"]
            out = expected(oracle, kernel, *varied["operands"], *constants)
            return np.sum(out * coefficients)

        grads = jax.grad(ours)(jax.tree.map(jnp.asarray, varied))
        for _ in range(2):
            direction = jax.tree.map(lambda x: rng.normal(size=x.shape), varied)
            step = 1e-5
            ahead, behind = (jax.tree.map(lambda x, d, s=s: x + s * d, varied, direction) for s in (step, -step))
            difference = (theirs(ahead) - theirs(behind)) / (2 * step)
            slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: float(np.sum(g * d)), grads, direction)))
            assert abs(slope - difference) < 1e-6 * max(1, abs(difference)) + 1e-6


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_pattern_of_bigbird(is_causal):
    kernel = BigBird(block_size=4, num_random=2, num_window=3, num_global=1)
    length, blocks = 64, 16
    q = jnp.ones((1, length, 3, 4))
    weights = weights_of(q, q, kernel=kernel, is_causal=is_causal)
    visible = np.asarray(weights[0] > 0).reshape(3, blocks, 4, blocks, 4)
    joined = visible.any(axis=(2, 4))
    fixed = block_pattern(np.arange(blocks), length, kernel, is_causal)
    for head, row in np.ndindex(3, blocks):
        assert (joined[head, row] >= fixed[row]).all()
        candidates = (row + 1 if is_causal else blocks) - fixed[row].sum()
        assert joined[head, row].sum() - fixed[row].sum() == min(2, candidates)
    assert not np.array_equal(joined[0], joined[1])
    other = weights_of(q, q, kernel=BigBird(block_size=4, num_random=2, seed=1), is_causal=is_causal)
    assert not np.array_equal(other > 0, weights > 0)


def test_causal_rows_of_bigbird_do_not_depend_on_the_length():
    kernel = BigBird(block_size=4, num_random=2)
    q = jax.random.normal(jax.random.key(0), (1, 64, 2, 4))
    long = weights_of(q, q, kernel=kernel, is_causal=True)[:, :, :40, :40]
    short = weights_of(q[:, :40], q[:, :40], kernel=kernel, is_causal=True)
    np.testing.assert_array_equal(long > 0, short > 0)


def test_where_approximations_become_exact():
    q, k, v = (jnp.asarray(x, jnp.float32) for x in operands())
    exact = attend(q, k, v)
    np.testing.assert_allclose(attend(q, k, v, kernel=SlidingWindow(left=LENGTH, right=LENGTH)), exact, atol=1e-6)
    np.testing.assert_allclose(attend(q, k, v, kernel=BigBird(block_size=4, num_random=4)), exact, atol=1e-6)
    identity = jnp.eye(LENGTH)[None]
    linformer = attend(q, k, v, kernel=Linformer(rank=LENGTH, share="kv"), params={"key": identity})
    np.testing.assert_allclose(linformer, exact, atol=1e-6)
    blocks = (Local(LENGTH), Local(LENGTH, "strided"), SparseTransformer(LENGTH, 0), SparseTransformer(4, 4))
    for kernel in (*blocks, Reformer(LENGTH, rounds=3)):
        np.testing.assert_allclose(attend(q, k, v, kernel=kernel), exact, atol=2e-6)
    sinkhorn = attend(q, k, v, kernel=Sinkhorn(LENGTH), params=jnp.ones((1, 1, DIM)))
    np.testing.assert_allclose(sinkhorn, exact, atol=1e-6)
    errors = [float(jnp.abs(attend(q, k, v, kernel=Nystrom(LENGTH, n)) - exact).max()) for n in (2, 6, 24)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3
    errors = [float(jnp.abs(attend(q, k, v, kernel=Performer(m)) - exact).mean()) for m in (16, 256, 8192)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.05
    np.testing.assert_allclose(attend(q, k, v, scale=1.0), attend(2 * q, k, v, kernel=Softmax()), atol=1e-6)


def limits():
    """Pairs of kernels with what tokens bring, which are the same there; of the second draws, or operands, too."""
    made = brought(KimiDelta()) | brought(Forgetting())
    nothing = lambda name: np.zeros_like(made[name])
    channel, ones = made["log_decay"][..., 0], np.ones_like(made["beta"])
    equal = np.repeat(channel[..., None], DIM, axis=-1)
    plain = {"log_decay": channel, "beta": made["beta"]}
    return [
        (KimiDelta(), plain | {"log_decay": equal}, GatedDelta(), plain, {}),
        (GatedDelta(), plain | {"log_decay": nothing("beta")}, Delta(), {"beta": made["beta"]}, {}),
        (GatedLinear(), {"log_decay": equal}, StateSpace(), {"log_decay": channel, "beta": ones}, {}),
        (StateSpace(), {"log_decay": nothing("beta"), "beta": ones}, Retention(), {}, {"draws": np.zeros(HEADS)}),
        (LogLinear(levels=3), plain | {"log_level": np.zeros((*channel.shape, 3))}, StateSpace(), plain, {}),
        (Forgetting(), {"log_forget": nothing("log_forget")}, Softmax(), {}, {}),
        (CosFormer(max_length=10**6), {}, Linear("relu"), {}, {}),
    ]


@pytest.mark.parametrize("kernel, tokens, other, theirs, given", limits(), ids=lambda x: getattr(x, "__name__", ""))
def test_where_kernels_are_others(kernel, tokens, other, theirs, given):
    q, k, v, tokens, theirs, given = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32), (*operands(), tokens, theirs, given)
    )
    found = attend(q, k, v, kernel=kernel, tokens=tokens, is_causal=True)
    expected = attend(q, k, v, kernel=other, tokens=theirs, is_causal=True, **given)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_retention_that_forgets_nothing_is_linear_attention_without_its_sum():
    q, k, v = (jnp.asarray(x, jnp.float32) for x in operands())
    found = attend(q, k, v, kernel=Retention(), draws=jnp.zeros(HEADS), scale=1.0, is_causal=True)
    similarity = np.einsum("btkgh,bskh->bkgts", q.reshape(BATCH, LENGTH, KV_HEADS, -1, DIM), k) * np.tri(LENGTH)
    expected = np.einsum("bkgts,bskh->btkgh", similarity, v).reshape(found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_based_is_near_softmax_where_scores_are_small():
    q, k, v = (jnp.asarray(x, jnp.float32) for x in operands())
    errors = [np.abs(attend(q, k, v, kernel=Based(), scale=s) - attend(q, k, v, scale=s)).max() for s in (0.4, 0.1)]
    assert errors[1] < 0.05 * errors[0]  # it goes with the third power of the scale


@pytest.mark.parametrize("given", [{}, {"is_causal": True, "query_offset": 9}])
def test_cosformer_refuses_what_is_longer_than_it_is_made_for(given):
    q, k, v = (jnp.asarray(x, jnp.float32) for x in operands())
    kernel = CosFormer(max_length=12 if not given else 20)
    with pytest.raises(ValueError, match=r"expected at most max_length; pass CosFormer\(max_length=(13|22)\)"):
        attend(q, k, v, kernel=kernel, **given)


def test_differences_of_long_sums_have_all_their_digits():
    x = -np.random.default_rng(0).random((1, 1, 2**16)).astype(np.float32)
    _, of_keys = jax.jit(lambda x: sums.upto(x, Mask(2**16, 2**16, is_causal=True)))(x)
    picked = np.array([5, 9_999, 65_000, 65_535])
    exact = np.cumsum(x[0, 0].astype(np.float64))[picked]
    np.testing.assert_allclose(sums.between(*[of_keys[0, 0, picked]] * 2), exact[:, None] - exact, rtol=2e-7)


def test_every_file_of_oracles_is_of_a_kernel():
    files = {path.stem for path in pathlib.Path(oracles.__file__).parent.glob("[!_]*.py")}
    assert files <= set(KERNELS)
