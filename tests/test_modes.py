"""Every kernel under jax's modes: forward, gradient and a step, as in the plain mode where values should not differ."""

import functools
import os
import subprocess
import sys
import warnings

import chex
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, serialization

from attnzoo import (
    Additive,
    ALiBi,
    BigBird,
    Dims,
    Forgetting,
    GatedLinear,
    KimiDelta,
    Linear,
    Local,
    LogLinear,
    Nystrom,
    Performer,
    Reformer,
    SlidingWindow,
    Softmax,
    Synthesizer,
    as_attention_fn,
    attend,
    attention_weights,
    start,
    step,
    testing,
)
from attnzoo.contract.dropout import Dropout
from attnzoo.door import trees
from attnzoo.models import BlockConfig, LanguageModel, generate
from attnzoo.positions import LearnedPositions
from attnzoo.testing.laws import _arguments
from attnzoo.testing.subject import Subject, brought
from attnzoo.testing.zoo import DECODING, FURTHER, ZOO
from tests.few import few

GENERATORS = ("threefry2x32", "rbg", "unsafe_rbg")
DRAWING = [kernel for kernel in ZOO if isinstance(kernel, BigBird | Performer | Reformer)]
SIZES = {"length": 13, "batch": 2, "heads": 4, "kv_heads": 2, "dim": 4}
MODES = {
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "type promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "leaks": jax.checking_leaks,
    "rbg": lambda: jax.default_prng_impl("rbg"),
    "unsafe_rbg": lambda: jax.default_prng_impl("unsafe_rbg"),
}


@pytest.fixture(autouse=True)
def _nothing_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        yield


def everything(kernel, dtype=jnp.float32):
    """Operands, parameters and all arguments at once that a kernel supports."""
    subject = Subject("modes", kernel)
    operands = subject.operands(**SIZES, dtype=dtype)
    params = jax.tree.map(lambda x: x.astype(dtype), subject.params(operands))
    return operands, params, _arguments(subject, operands)


def forward(operands, params, kernel, given):
    return attend(*operands, kernel=kernel, params=params, **given | brought(kernel, operands))


def pulled(kernel, dtype=jnp.float32):
    """The output and its gradients, as a function, and its arguments."""
    operands, params, given = everything(kernel, dtype)

    def loss(operands, params):
        out = forward(operands, params, kernel, given)
        return jnp.sum(out.astype(jnp.float32) ** 2), out

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True)), (operands, params)


def stepped(kernel, dtype=jnp.float32):
    """The outputs of a prompt, padded, and of a token after it, as a function, and its arguments."""
    q, k, v = Subject("modes", kernel).operands(**SIZES, dtype=dtype)
    params = kernel.init(jax.random.key(0), Dims(2, 16, 16, 4, 2, 4, 4))
    given = {"bias": ALiBi.of(4)} if kernel.supports.bias else {}
    sizes = {"batch": 2, "num_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_length": 16, "dtype": dtype}

    def run(params, q, k, v):
        state = start(**sizes, kernel=kernel, params=params)
        here = {"params": params} | given
        state, first = step(state, q, k, v, query_seq_lengths=jnp.array([13, 9]), **here | brought(kernel, (q, k, v)))
        token = q[:, :1], k[:, :1], v[:, :1]
        return first, step(state, *token, **here | brought(kernel, token))[1]

    return jax.jit(run), (params, q, k, v)


# Of each way in which arithmetic is done one kernel is held to every mode, the others if slow.
QUICK = (
    Softmax(),
    BigBird(block_size=4, num_random=2),
    KimiDelta(),
    Performer(features=16),
    Reformer(4, 4, 2),
    Nystrom(5),
)
EVERY = few((*ZOO, *FURTHER), QUICK)
# Of each way in which queries find where they stand.
STANDING = (GatedLinear(), Forgetting(), LogLinear(levels=5), Local(4), Synthesizer())
# Looking for leaks in a program of many parts takes a minute: one of few parts stands for all.
LOOKED_INTO = (Additive(),)


def marks_of(kernel, mode):
    if kernel in FURTHER or (mode == "leaks" and kernel not in LOOKED_INTO):
        return [pytest.mark.slow]
    return [pytest.mark.every_kernel] * (mode.endswith("promotion") and kernel in QUICK)


@pytest.mark.parametrize(
    "kernel, mode",
    [pytest.param(kernel, mode, marks=marks_of(kernel, mode)) for mode in MODES for kernel in (*ZOO, *FURTHER)],
    ids=str,
)
def test_tracing_raises_nothing(kernel, mode):
    """Ranks and types are promoted in words, no tracer is kept, and no generator is taken for granted."""
    with MODES[mode]():
        for make in (pulled, stepped) if kernel.supports.decode else (pulled,):
            function, args = make(kernel)
            function.trace(*args)


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(kernel, marks=[pytest.mark.every_kernel] * (kernel in STANDING))
        for kernel in ZOO
        if kernel.supports.causal
    ],
    ids=repr,
)
def test_queries_that_stand_anywhere_promote_no_ranks(kernel):
    """Some of as many tokens as keys, at a traced place of each example, as in decoding by a cache of one's own."""
    q, k, v = Subject("modes", kernel).operands(**SIZES)
    q = q[:, :5] if kernel.supports.cross else q
    params = kernel.init(jax.random.key(0), Dims.of(q, k, v))

    def run(query_offset):
        given = {"is_causal": True, "query_offset": query_offset} | brought(kernel, (q, k, v))
        return attend(q, k, v, kernel=kernel, params=params, **given)

    with jax.numpy_rank_promotion("raise"):
        assert jax.eval_shape(run, jnp.array([3, 8])).shape == (*q.shape[:3], v.shape[-1])


def test_models_promote_no_ranks():
    published = {"norm_kind": "rms", "activation": "swiglu", "conv_width": 3, "normalize_out": True, "gate": "silu"}
    config, tokens = BlockConfig(width=8, num_heads=2, **published), jnp.arange(12).reshape(2, 6)
    with jax.numpy_rank_promotion("raise"):
        given = {"positions": LearnedPositions(), "attention": GatedLinear(), "rngs": nnx.Rngs(0)}
        model = LanguageModel(12, config, max_length=9, num_layers=1, **given)
        assert generate(model, tokens, 2, lengths=jnp.array([6, 3])).shape == (2, 2)


@pytest.mark.parametrize("kernel", [SlidingWindow(3, 0), Linear()], ids=repr)
def test_adapters_promote_no_ranks(kernel):
    x, layer = jnp.ones((2, 6, 8)), as_attention_fn(kernel, mask="causal")
    layer = flax.linen.MultiHeadDotProductAttention(num_heads=2, attention_fn=layer, decode=True)
    with jax.numpy_rank_promotion("raise"):
        given = layer.init(jax.random.key(0), x, mask=flax.linen.make_causal_mask(x[..., 0]))
        layer.apply(given, x[:, :1], mutable=["cache"])


@pytest.mark.parametrize("kernel", EVERY, ids=repr)
def test_no_nan_on_the_way(kernel):
    """Blind rows, hidden keys and empty groups included."""
    with jax.debug_nans(True):
        for make in (pulled, stepped) if kernel.supports.decode else (pulled,):
            function, args = make(kernel)
            function(*args)


@pytest.mark.parametrize("kernel", EVERY, ids=repr)
def test_x64_keeps_dtypes(kernel):
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            for make in (pulled, stepped) if kernel.supports.decode else (pulled,):
                function, args = make(kernel, dtype)
                made = jax.tree.leaves(function.eval_shape(*args))
                assert {x.dtype for x in made if x.shape} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("kernel", EVERY, ids=repr)
def test_x64_is_precise(kernel):
    """Nothing is narrowed on the way."""
    with jax.enable_x64(True):
        operands, params, given = everything(kernel, jnp.float64)
        outs = [forward(operands, params, kernel, given | {"implementation": x}) for x in ("xla", "reference")]
    chex.assert_trees_all_close(*outs, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("scale", [2, np.float64(2), np.array(2), jnp.int32(2)], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("x64", [False, True])
def test_a_scale_may_be_any_real_number(scale, x64):
    q, k, v = Subject("modes", Softmax()).operands(**SIZES)
    with jax.enable_x64(x64):
        calls = [lambda scale: attend(q, k, v, scale=scale), lambda scale: attend(q, k, v, np.zeros((4, 13, 13)) * 1.0)]
        expected = attend(q, k, v, scale=2.0)
        chex.assert_trees_all_close(calls[0](scale), expected, atol=1e-5, rtol=1e-5)
        chex.assert_trees_all_close(jax.jit(calls[0])(scale), expected, atol=1e-5, rtol=1e-5)
        assert calls[1](scale).dtype == jnp.float32


@pytest.mark.parametrize("kernel", DRAWING, ids=repr)
def test_laws_under_another_generator(kernel):
    with jax.default_prng_impl("rbg"):
        testing.check_kernel(kernel, ("the_future_cannot_touch_the_past", "dropout_acts_on_weights"))


@pytest.mark.slow
@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
@pytest.mark.parametrize("kernel", [*ZOO, *FURTHER], ids=repr)
def test_all_laws_under_another_generator(kernel, generator):
    with jax.default_prng_impl(generator):
        testing.check_kernel(kernel)


@pytest.mark.every_kernel
@pytest.mark.parametrize("kernel", DRAWING, ids=repr)
def test_a_seed_stands_for_the_same_under_every_generator(kernel):
    dims = Dims(1, 8, 8, 2, 2, 4, 4)
    expected = trees.drawn(kernel, dims)
    for impl in GENERATORS:
        trees._drawn.cache_clear()
        with jax.default_prng_impl(impl):
            np.testing.assert_array_equal(trees.drawn(kernel, dims), expected)


@pytest.mark.every_kernel
@pytest.mark.parametrize("impl", GENERATORS)
@pytest.mark.parametrize("kernel", DRAWING, ids=repr)
def test_draws_depend_on_their_key_alone(kernel, impl):
    """Not on the keys that are mapped over beside it, nor on whether it is typed or words."""
    keys = [jax.random.key(seed, impl=impl) for seed in range(3)]
    draw = jax.jit(lambda key: kernel.draw(key, Dims(1, 8, 8, 2, 2, 4, 4)))
    each = [draw(key) for key in keys]
    chex.assert_trees_all_close(jax.vmap(draw)(jnp.stack(keys)), jnp.stack(each), atol=1e-6, rtol=1e-6)
    chex.assert_trees_all_close(draw(jax.random.key_data(keys[1])), each[1], atol=1e-6, rtol=1e-6)
    assert (np.asarray(each[0]) != np.asarray(each[1])).any()
    assert np.unique(each[0].reshape(2, -1), axis=0).shape[0] == 2  # heads differ


@pytest.mark.parametrize("impl", GENERATORS)
def test_dropout_depends_on_its_key_alone(impl):
    keys = [jax.random.key(seed, impl=impl) for seed in range(3)]
    seeds = lambda key: Dropout.make(key, 0.5, 2, 3).seeds
    each = np.stack([seeds(key) for key in keys])
    np.testing.assert_array_equal(jax.vmap(seeds)(jnp.stack(keys)), each)
    np.testing.assert_array_equal(seeds(jax.random.key_data(keys[1])), each[1])
    assert np.unique(each.reshape(-1, 2), axis=0).shape[0] == 18


@pytest.mark.parametrize("given", [None, {"shape": (3, 2)}], ids=["one", "batched"])
@pytest.mark.parametrize("rng", [0, 1.5, "key", [0, 1], np.ones(2, np.int32), np.ones(3, np.uint32)], ids=repr)
def test_what_is_no_key_is_refused_by_name(rng, given):
    x = jnp.ones((1, 3, 2, 4))
    rng = rng if given is None else jnp.ones(given["shape"], jnp.uint32)
    for rate in (0.0, 0.5):
        with pytest.raises(ValueError, match=r"rng.*: expected (a|one) key; make (one|it) with jax.random.key"):
            attend(x, x, x, rng=rng, dropout_rate=rate)


@pytest.mark.parametrize("kernel", [*ZOO, *FURTHER], ids=repr)
def test_values_may_have_no_width(kernel):
    operands, params, given = everything(kernel)
    q, k, v = operands
    for route in ("xla", "reference"):
        here = {"implementation": route} | given | brought(kernel, operands)
        out = attend(q, k, v[..., :0], kernel=kernel, params=params, **here)
        assert out.shape == (*q.shape[:3], 0)


CROSS = [kernel for kernel in (*ZOO, *FURTHER) if kernel.supports.cross]


@pytest.mark.parametrize("kernel", few(CROSS, QUICK), ids=repr)
def test_weights_of_few_queries(kernel):
    """They are pulled back, and equal those that the identity gives, here with keys enough to be more than queries."""
    subject = Subject("modes", kernel)
    q, k, v = subject.operands(**SIZES | {"length": 3}, keys=13)
    given = {"kernel": kernel, "params": subject.params((q, k, v)), "is_causal": not kernel.supports.bidirectional}
    given |= brought(kernel, (q, k, v))
    if kernel.supports.dropout:
        given |= {"dropout_rate": 0.3, "rng": jax.random.key(0)}
    found = attention_weights(q, k, **given)
    assert found.shape == (2, 4, 3, 13)
    chex.assert_trees_all_close(
        jnp.einsum("bnts,bsnh->btnh", found, jnp.repeat(v, 2, axis=2)), attend(q, k, v, **given), atol=2e-5, rtol=2e-5
    )


def test_weights_of_few_queries_take_little_memory():
    q, k = (jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32) for length in (2, 50_000))
    memory = jax.jit(attention_weights).lower(q, k).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 50e6  # the identity would take 20 GB


@pytest.mark.parametrize("kernel", DECODING, ids=repr)
def test_states_are_saved_and_restored_by_flax(kernel):
    q, k, v = Subject("modes", kernel).operands(**SIZES)
    params = kernel.init(jax.random.key(0), Dims(2, 30, 30, 4, 2, 4, 4))
    sizes = {"num_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_length": 30}
    begin = functools.partial(start, **sizes, kernel=kernel, params=params)
    advance = functools.partial(step, params=params, **brought(kernel, (q, k, v)))
    state, _ = advance(begin(batch=2), q, k, v)
    restored = serialization.from_bytes(begin(batch=2), serialization.to_bytes(state))
    assert restored.kernel == kernel
    jax.tree.map(np.testing.assert_array_equal, advance(restored, q, k, v), advance(state, q, k, v))
    with pytest.raises(ValueError, match="start the one to restore into with"):
        serialization.from_bytes(begin(batch=1), serialization.to_bytes(state))


def test_all_brings_no_modules():
    program = "import attnzoo.linen, attnzoo.nnx\nfrom attnzoo import *\nprint(*globals())"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names = told.stdout.split()
    assert "attend" in names and "Softmax" in names
    assert not {"nnx", "linen", "decoding"} & set(names)


@pytest.mark.parametrize("kernel", few((*ZOO, *FURTHER), ZOO), ids=repr)
def test_export_for_any_batch(kernel):
    (batch,) = jax.export.symbolic_shape("b")
    params = kernel.init(jax.random.key(0), Dims(1, 13, 13, 4, 4, 4, 4))
    given = {"kernel": kernel, "params": params, "is_causal": kernel.supports.causal}
    call = lambda x: attend(x, x, x, **given, **brought(kernel, (x, x, x)))
    exported = jax.export.export(jax.jit(call))(jax.ShapeDtypeStruct((batch, 13, 4, 4), jnp.float32))
    x = Subject("modes", kernel).operands(**SIZES | {"batch": 3})[0]
    chex.assert_trees_all_close(exported.call(x), call(x), atol=1e-5, rtol=1e-5)


DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from attnzoo import attend
from tests.test_modes import DRAWING

x = jax.random.normal(jax.random.key(0), (4, 16, 4, 4))
for kernel in DRAWING[: int(sys.argv[1])]:
    call = lambda x: attend(x, x, x, kernel=kernel)
    meshes = [jax.make_mesh((n,), ("x",), (AxisType.Auto,), devices=jax.devices()[:n]) for n in (4, 2)]
    outs = [jax.jit(jax.shard_map(call, mesh=meshes[0], in_specs=P("x"), out_specs=P("x"), check_vma=False))(x)]
    for mesh in meshes:
        with jax.set_mesh(mesh):
            placed = jax.device_put(x, NamedSharding(mesh, P("x")))
            outs += [call(placed), jax.jit(call)(placed)]
    outs += [call(x), call(jax.device_put(x, jax.devices()[3])), jax.pmap(call)(x[:, None])[:, 0]]
    for out in outs:
        np.testing.assert_allclose(np.asarray(out), np.asarray(outs[-2]), atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, len(DRAWING)])
def test_draws_serve_every_device_and_mesh(monkeypatch, count):
    quickly = os.environ.get("XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", f"{quickly} --xla_force_host_platform_device_count=4")
    done = subprocess.run([sys.executable, "-c", DEVICES, str(count)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
