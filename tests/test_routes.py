"""Which implementation a call takes: cuDNN only where it is right and present, and the reasons where it is not."""

import logging

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as vendor  # nothing public says that cuDNN is there

from attnzoo import ALiBi, Linear, SlidingWindow, Softmax, attend
from attnzoo.contract.mask import Mask
from attnzoo.door import routes

LENGTH = 256
CUSTOM_CALL = "__cudnn$fmha"
DISABLED = [jax.export.DisabledSafetyCheck.custom_call(f"{CUSTOM_CALL}{end}") for end in ("Softmax", "SoftmaxBackward")]


@pytest.fixture
def cudnn(monkeypatch):
    """A machine where cuDNN is present, as far as tracing can tell."""
    monkeypatch.setattr(vendor, "check_cudnn_version", lambda: 91900)
    jax.clear_caches()
    yield
    jax.clear_caches()


def shapes(length=LENGTH, dtype=jnp.bfloat16, keys=None, dim=64):
    q = jax.ShapeDtypeStruct((2, length, 4, dim), dtype)
    k = jax.ShapeDtypeStruct((2, keys or length, 2, dim), dtype)
    return q, k, k


def lowered(platform, *operands, gradient=False, **arguments):
    """The program that a platform would get."""

    def call(q, k, v):
        return attend(q, k, v, **arguments).astype(jnp.float32).sum()

    program = jax.jit(jax.grad(call, (0, 1, 2)) if gradient else call)
    return jax.export.export(program, platforms=[platform], disabled_checks=DISABLED)(*operands).mlir_module()


TAKEN = {
    "bare": {},
    "causal": {"is_causal": True},
    "window": {"kernel": SlidingWindow(left=100, right=0), "is_causal": True},
    "local_window_size": {"local_window_size": (100, 7), "is_causal": True},
    "padded queries": {"query_seq_lengths": jnp.array([3, 256])},
    "padded keys": {"key_value_seq_lengths": jnp.array([3, 256]), "is_causal": True},
    "a scale": {"scale": 0.5},
}


@pytest.mark.parametrize("name", TAKEN)
def test_cudnn_is_taken_on_cuda_alone(cudnn, name):
    """By None, forward and backward, where the program is lowered for CUDA."""
    for gradient in (False, True):
        assert CUSTOM_CALL in lowered("cuda", *shapes(), gradient=gradient, **TAKEN[name])
        assert CUSTOM_CALL not in lowered("tpu", *shapes(), gradient=gradient, **TAKEN[name])
    assert CUSTOM_CALL not in lowered("cuda", *shapes(), implementation="xla", **TAKEN[name])


@pytest.mark.parametrize("is_causal", [False, True])
def test_cudnn_is_asked_for_what_came(cudnn, monkeypatch, is_causal):
    """Lengths and scale, values and gradients, with jax.nn's own arithmetic in the place of cuDNN's."""
    theirs = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *x, implementation, **given: theirs(*x, **given))
    q, k, v = (jax.random.normal(jax.random.key(i), x.shape, x.dtype) for i, x in enumerate(shapes()))

    def pulled(implementation):
        given = {"key_value_seq_lengths": jnp.array([0, 201]), "is_causal": is_causal, "implementation": implementation}
        call = lambda q, k, v, scale: attend(q, k, v, scale=scale, **given).astype(jnp.float32)
        return jax.value_and_grad(lambda *x: (call(*x) ** 2).sum(), (0, 1, 2, 3))(q, k, v, jnp.float32(0.3))

    for got, expected in zip(*map(jax.tree.leaves, map(pulled, ("cudnn", "reference"))), strict=True):
        assert jnp.abs(got - expected).max() <= 0.03 * jnp.abs(expected).max()


def test_a_window_reaches_cudnn_as_its_length(cudnn):
    """jax.nn counts keys to the left, cuDNN the query's own among them; the narrower of two windows holds."""
    given = {"kernel": SlidingWindow(left=100, right=0), "is_causal": True, "local_window_size": (40, 40)}
    assert '"sliding_window_length": 41' in lowered("cuda", *shapes(), **given).replace("\\22", '"')
    wide = {"kernel": SlidingWindow(left=LENGTH, right=0), "is_causal": True}
    assert '"sliding_window_length": 0' in lowered("cuda", *shapes(), **wide).replace("\\22", '"')


DECLINED = {
    "a dense mask": ({"mask": jnp.ones((LENGTH, LENGTH), bool)}, {}),
    "hidden keys among others": ({"key_mask": jnp.ones((2, LENGTH), bool)}, {}),
    "segments": ({x: jnp.zeros((2, LENGTH), int) for x in ("query_segment_ids", "key_value_segment_ids")}, {}),
    "a bias": ({"bias": ALiBi.of(4)}, {}),
    "dropout": ({"dropout_rate": 0.5, "rng": jax.random.key(0)}, {}),
    "query_offset": ({"query_offset": 3}, {}),
    "may align them": ({"is_causal": True}, {"keys": 2 * LENGTH}),
    "dilation or global": ({"kernel": SlidingWindow(right=0, dilation=2), "is_causal": True}, {}),
    "sees the future": ({"kernel": SlidingWindow()}, {}),
    "multiples of 128": ({}, {"length": 192}),
    "fp16/bf16": ({}, {"dtype": jnp.float32}),
    "head dim": ({}, {"dim": 60}),
    "return_residual": ({"return_residual": True}, {}),
    "nothing else": ({"kernel": Linear()}, {}),
}


@pytest.mark.parametrize("reason", DECLINED)
def test_what_cudnn_declines(cudnn, reason, caplog):
    """None takes another route, and the log tells why; naming it raises, with the same reason."""
    arguments, given = DECLINED[reason]
    first = lambda out: out[0] if arguments.get("return_residual") else out
    routes._say.cache_clear()
    with caplog.at_level(logging.INFO, "attnzoo"):
        jax.eval_shape(lambda *x: first(attend(*x, **arguments)), *shapes(**given))
    assert reason in caplog.text and "taking 'xla'" in caplog.text
    with pytest.raises(NotImplementedError, match="implementation='cudnn' declines .*" + reason):
        jax.eval_shape(lambda *x: attend(*x, implementation="cudnn", **arguments), *shapes(**given))


def test_all_reasons_are_listed(cudnn):
    with pytest.raises(NotImplementedError, match=r"a soft cap .*multiples of 128.*fp16/bf16"):
        jax.eval_shape(lambda *x: attend(*x, soft_cap=9.0, implementation="cudnn"), *shapes(100, jnp.float32))


def test_absence_is_a_reason():
    """Without a GPU the zoo's own route runs, and naming cuDNN says what is missing."""
    q = jnp.ones((1, 128, 2, 16), jnp.bfloat16)
    assert attend(q, q, q).shape == q.shape
    with pytest.raises(NotImplementedError, match="cuDNN is not detected"):
        attend(q, q, q, implementation="cudnn")


def test_what_runs_here_does_not_depend_on_cudnn(cudnn):
    """Where cuDNN was found at tracing, but the program is lowered for a CPU, the zoo's own route runs."""
    q = jax.random.normal(jax.random.key(0), (1, 128, 2, 16), jnp.bfloat16)
    pulled = [
        jax.jit(jax.value_and_grad(lambda q, x=x: attend(q, q, q, implementation=x).astype(jnp.float32).sum()))(q)
        for x in (None, "xla")
    ]
    for got, expected in zip(*map(jax.tree.leaves, pulled), strict=True):
        assert (got == expected).all()


def test_softmax_kernels_are_softmax_under_their_mask():
    """`as_softmax` is the truth: plain softmax under that mask gives what the kernel gives."""
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 37, 2, 8)) for i in range(3))
    index = jnp.arange(37)
    for kernel in (Softmax(), SlidingWindow(left=5, right=3, dilation=2, global_tokens=1)):
        mask = kernel.as_softmax(Mask(37, 37)).at(index, index)
        out, expected = attend(q, k, v, kernel=kernel), attend(q, k, v, mask=mask)
        assert jnp.abs(out - expected).max() < 1e-5
