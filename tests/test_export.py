"""Every kernel, its gradient and its steps lower for GPU and TPU on a machine that has neither."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import Based, Dims, GatedDelta, Linear, NadarayaWatson, Nystrom, Softmax, attend, start, step
from attnzoo.testing.subject import brought
from attnzoo.testing.zoo import DECODING, FURTHER, ZOO
from tests.few import few
from tests.marks import of_hopper

PLATFORMS = "cuda", "tpu"


def lowers(program, *args):
    """What is traced once is lowered for each platform."""
    traced = program.trace(*args)
    for platform in PLATFORMS:
        assert "func.func public @main" in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("kernel", [*ZOO, *FURTHER], ids=repr)
def test_gradient_lowers(kernel):
    q, k = (jax.ShapeDtypeStruct((2, 37, heads, 8), jnp.bfloat16) for heads in (4, 2))
    params = jax.eval_shape(lambda: kernel.init(jax.random.key(0), Dims(2, 37, 37, 4, 2, 8, 8)))

    def loss(q, k, v, params):
        given = {"is_causal": kernel.supports.causal} | brought(kernel, (q, k, v))
        out = attend(q, k, v, kernel=kernel, params=params, **given)
        return out.astype(jnp.float32).sum()

    lowers(jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3))), q, k, k, params)


# Pairs of tiles, chunks of a recurrence, means of runs that are not all as long, chunks of matrices, powers, norms.
BY_DEVICES = (Softmax(), Linear(), Nystrom(7), GatedDelta(), Based(), NadarayaWatson())


@pytest.mark.every_kernel
@pytest.mark.parametrize("platform", ["tpu", pytest.param("cuda", marks=of_hopper)])
@pytest.mark.parametrize("kernel", few(BY_DEVICES, BY_DEVICES[:3]), ids=repr)
def test_kernels_of_devices_lower_and_promote_no_ranks(kernel, platform):
    """At a length that tiles do not divide."""
    q, k = (jax.ShapeDtypeStruct((1, 130, heads, 64), jnp.bfloat16) for heads in (4, 2))
    params = jax.eval_shape(lambda: kernel.init(jax.random.key(0), Dims(1, 130, 130, 4, 2, 64, 64)))
    given = {"kernel": kernel, "implementation": "pallas", "is_causal": kernel.supports.causal}

    def loss(q, k, v, params):
        return jnp.sum(attend(q, k, v, params=params, **given, **brought(kernel, (q, k, v))).astype(jnp.float32))

    with jax.numpy_rank_promotion("raise"):
        traced = jax.jit(jax.grad(loss, (0, 1, 2, 3))).trace(q, k, k, params)
        traced.lower(lowering_platforms=(platform,))


@pytest.mark.parametrize("kernel", [Softmax(), GatedDelta()], ids=repr)
def test_one_program_takes_any_batch(kernel):
    """A symbolic one; lengths, heads and widths are known when the program is traced."""
    call = lambda q: attend(q, q, q, kernel=kernel, is_causal=True, **brought(kernel, (q, q, q)))
    exported = jax.export.export(jax.jit(call))(
        jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 8, 2, 4"), "float32")
    )
    q = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 2, 4)), jnp.float32)
    np.testing.assert_allclose(exported.call(q), call(q), atol=1e-6)


@pytest.mark.parametrize("kernel", DECODING, ids=repr)
def test_step_lowers(kernel):
    sizes = {"batch": 2, "num_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_length": 300}
    params = kernel.init(jax.random.key(0), Dims(2, 300, 300, 4, 2, 8, 8))
    state = start(**sizes, kernel=kernel, params=params, dtype=jnp.bfloat16)
    q, k = (jax.ShapeDtypeStruct((2, 150, heads, 8), jnp.bfloat16) for heads in (4, 2))
    call = lambda *operands: step(state, *operands, params=params, **brought(kernel, operands))[1]
    lowers(jax.jit(call), q, k, k)


@pytest.mark.parametrize("kernel", [Linear(), GatedDelta()], ids=repr)
def test_an_accelerator_gets_no_loop_over_chunks(kernel):
    """On a CPU chunks come one after another, elsewhere all at once; what is exported for both is right on either."""
    q = jnp.asarray(np.random.default_rng(0).normal(size=(1, 200, 2, 4)), jnp.float32)
    tokens = {name: jnp.full((1, 200, 2), -0.1 if name == "log_decay" else 0.5) for name in kernel.token_inputs(None)}

    @jax.jit
    def slopes(*given):
        call = lambda q, k, v: attend(q, k, v, kernel=kernel, is_causal=True, tokens=tokens or None)
        return jax.grad(lambda *given: jnp.sin(call(*given)).sum(), (0, 1, 2))(*given)

    def exported(*platforms, of=slopes, given=(q, q, q)):
        return jax.export.export(of, platforms=platforms)(*given)

    loops = lambda platform, **of: exported(platform, **of).mlir_module().count("stablehlo.while")
    of_sums = loops("cuda", of=jax.jit(jnp.cumsum), given=(q,))  # each is a loop there in jax 0.12
    assert loops("cpu") > 0 and loops("cuda") <= 2 * of_sums and loops("tpu") == 0
    found, expected = exported("cpu", "cuda").call(q, q, q), slopes(q, q, q)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_an_accelerator_gets_no_loop_over_heads():
    """On a CPU heads are looped over; elsewhere they are in the tile."""

    def loops(platform):
        q = jax.ShapeDtypeStruct((2, 1024, 4, 8), jnp.float32)
        return jax.export.export(jax.jit(attend), platforms=[platform])(q, q, q).mlir_module().count("stablehlo.while")

    assert loops("cpu") > loops("cuda")
