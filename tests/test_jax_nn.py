"""`attend` with its default kernel is `jax.nn.dot_product_attention`, but for the two documented differences."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import attend

# One program for each call; its operations one by one would be thirty.
theirs_of = jax.jit(
    jax.nn.dot_product_attention, static_argnames=("is_causal", "local_window_size", "scale", "return_residual")
)
CHOICES = {
    "bias": ["none", "whole", "heads", "row"],
    "mask": ["none", "whole", "keys", "queries"],
    "is_causal": [False, True],
    "query_seq_lengths": [False, True],
    "key_value_seq_lengths": [False, True],
    "local_window_size": [None, 5, (9, 2), (0, 7)],
    "scale": [None, 0.4],
    "kv_heads": [4, 2, 1],
    "return_residual": [False, True],
    "batch": [2, None],
    "lengths": [(33, 33), (256, 256), (20, 61)],
}


def covering() -> list[dict]:
    """Few cases in which every two values of two choices meet: the case that covers most new pairs, again and again."""
    names = list(CHOICES)
    missing = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(names, 2)
        for x in range(len(CHOICES[a]))
        for y in range(len(CHOICES[b]))
    }
    rng, cases = np.random.default_rng(0), []
    while missing:
        tries = [{name: int(rng.integers(len(CHOICES[name]))) for name in names} for _ in range(100)]
        pairs = [set(itertools.combinations(candidate.items(), 2)) & missing for candidate in tries]
        best = max(range(len(tries)), key=lambda i: len(pairs[i]))
        if pairs[best]:
            cases.append({name: CHOICES[name][index] for name, index in tries[best].items()})
            missing -= pairs[best]
    return cases


def arrays(case):
    rng = np.random.default_rng(1)
    (length, keys), batch = case["lengths"], case["batch"] or 1
    make = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    operands = [make(batch, length, 4, 8), *(make(batch, keys, case["kv_heads"], 8) for _ in range(2))]
    biases = {"whole": (batch, 4, length, keys), "heads": (1, 4, length, keys), "row": (1, 1, 1, keys)}
    masks = {"whole": (batch, 4, length, keys), "keys": (batch, 1, 1, keys), "queries": (1, 1, length, keys)}
    arguments = {name: case[name] for name in ("is_causal", "local_window_size", "scale")}
    if case["bias"] != "none":
        arguments["bias"] = make(*biases[case["bias"]])
    if case["mask"] != "none":
        arguments["mask"] = make(*masks[case["mask"]]) > -1
    for name, longest in (("query_seq_lengths", length), ("key_value_seq_lengths", keys)):
        if case[name]:
            arguments[name] = jnp.asarray(rng.integers(longest // 2, longest + 1, batch), jnp.int32)
    return operands, arguments


def seen(case, arguments):
    """Queries that see anything: bool [B, T, N, 1]."""
    (length, keys), batch = case["lengths"], case["batch"] or 1
    i, j = np.arange(length)[:, None], np.arange(keys)[None, :]
    visible = np.ones((batch, 4, length, keys), bool) & np.asarray(arguments.get("mask", True))
    if case["is_causal"]:
        visible &= j <= i
    if (window := case["local_window_size"]) is not None:
        left, right = (window, window) if isinstance(window, int) else window
        visible &= (j >= i - left) & (j <= i + right)
    for name, index in (("query_seq_lengths", i), ("key_value_seq_lengths", j)):
        if name in arguments:
            visible &= (index < np.asarray(arguments[name])[:, None, None])[:, None]
    return visible.any(axis=-1).swapaxes(1, 2)[..., None]


def without_batch(case, operands, arguments):
    if case["batch"] is not None:
        return operands, arguments
    drop = lambda name, x: x[0] if name in ("bias", "mask") else x
    return [x[0] for x in operands], {name: drop(name, x) for name, x in arguments.items()}


@pytest.mark.parametrize("case", covering(), ids=lambda case: "-".join(str(value) for value in case.values()))
def test_values(case):
    operands, arguments = arrays(case)
    see = seen(case, arguments) if case["batch"] else seen(case, arguments)[0]
    operands, arguments = without_batch(case, operands, arguments)
    ours = attend(*operands, **arguments, return_residual=case["return_residual"])
    theirs = theirs_of(*operands, **arguments, return_residual=case["return_residual"])
    if case["return_residual"]:
        (ours, residual), (theirs, expected) = ours, theirs
        np.testing.assert_allclose(
            np.where(see[..., 0], residual, 0), np.where(see[..., 0], expected, 0), rtol=2e-6, atol=2e-6
        )
        assert (np.asarray(residual)[~see[..., 0]] == -np.inf).all()
    np.testing.assert_allclose(ours, np.where(see, theirs, 0), rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", covering()[:4], ids=lambda case: "-".join(str(value) for value in case.values()))
def test_gradients(case):
    operands, arguments = arrays(case | {"batch": 2})
    see = seen(case | {"batch": 2}, arguments)
    bias = arguments.pop("bias", None)

    def gradient(function):
        def loss(operands, bias):
            out = function(*operands, bias, **arguments)
            return jnp.sum(jnp.sin(3 * jnp.where(see, out, 0)))

        return jax.jit(jax.grad(loss, 0 if bias is None else (0, 1)))(operands, bias)

    ours, theirs = gradient(attend), gradient(jax.nn.dot_product_attention)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), ours, theirs)


def test_the_signature_is_a_superset():
    theirs = inspect.signature(jax.nn.dot_product_attention).parameters
    ours = inspect.signature(attend).parameters
    assert list(ours)[:5] == list(theirs)[:5]
    for name, parameter in theirs.items():
        assert ours[name].kind == parameter.kind and ours[name].default == parameter.default, name


def test_the_two_differences():
    q = jax.random.normal(jax.random.key(0), (1, 4, 2, 8))
    mask = jnp.array([[True] * 4, [False] * 4, [True] * 4, [True] * 4])
    assert (attend(q, q, q, mask=mask)[:, 1] == 0).all()
    np.testing.assert_allclose(jax.nn.dot_product_attention(q, q, q, mask=mask)[:, 1], q.mean(axis=1), atol=1e-6)
    garbage = q.at[:, 3].set(jnp.nan)
    lengths = jnp.array([3])
    assert np.isfinite(attend(q, garbage, garbage, key_value_seq_lengths=lengths)).all()
    assert np.isnan(jax.nn.dot_product_attention(q, garbage, garbage, key_value_seq_lengths=lengths)).any()
