"""Recurrences by the kernels of a device: what a CPU interprets of them, and what they decline."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import (
    Based,
    CosFormer,
    Delta,
    Dims,
    GatedDelta,
    GatedLinear,
    KimiDelta,
    Linear,
    LogLinear,
    Performer,
    Retention,
    StateSpace,
    attend,
)
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Mask
from attnzoo.engines import recurrence
from attnzoo.engines.fused import way
from attnzoo.engines.fused.way import interpreted
from attnzoo.testing import check_law
from experiments.conformance import routes
from tests import oracles, programs
from tests.few import few
from tests.gated_operands import HEADS, KV_HEADS, given
from tests.test_oracles import expected

KERNELS = [
    Linear(),
    GatedDelta(),
    *(Based(), CosFormer(max_length=120), Delta(max_beta=2), GatedLinear(), KimiDelta()),
    *(LogLinear(levels=3), Performer(8), Retention(), StateSpace()),
]
EACH = pytest.mark.parametrize("kernel", KERNELS, ids=repr)
OF_TPU = [jax.export.DisabledSafetyCheck.custom_call("tpu_custom_call")]


def shuffled(length):
    """Ids of two examples, of which some segments begin in the middle of a chunk, return, and go on for others."""
    rng, ids = np.random.default_rng(length), np.repeat([0, 1, 2], [length // 3, length // 2, length // 6 + 1])[:length]
    return np.stack([np.concatenate([ids[:1], rng.permutation(ids[1:])]) for _ in range(2)])


# Chunks are of 16 tokens, and states are kept of every 32.
CASES = {
    "plain": ((37, 37), HEADS, {}),
    "padded, at an offset": ((40, 13), KV_HEADS, {"query_offset": 3, "key_value_seq_lengths": np.array([6, 13])}),
    "behind the first key": ((37, 40), HEADS, {"query_offset": -4}),
    "at other offsets": ((21, 40), HEADS, {"query_offset": np.array([11, -3])}),
    "segments in any order": (
        (21, 40),
        HEADS,
        {"query_segment_ids": shuffled(21), "key_value_segment_ids": shuffled(40), "query_offset": -4},
    ),
    "all keys": ((37, 37), HEADS, {"is_causal": False}),
    "all keys that are not padding, at offsets": (
        (21, 70),
        KV_HEADS,
        {"is_causal": False, "query_offset": np.array([11, -3]), "key_value_seq_lengths": np.array([35, 68])},
    ),
    "all keys of segments": (
        (21, 40),
        HEADS,
        {"is_causal": False, "query_segment_ids": shuffled(21), "key_value_segment_ids": shuffled(40)},
    ),
}


def operands_of(kernel, case):
    lengths, heads, arguments = CASES[case]
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given(kernel, *lengths, heads=heads)), arguments


def pulled(kernel, operands, arguments, route):
    """Outputs, and the gradients of a curved function of them."""

    def curved(operands):
        (q, k, v), tokens = operands
        call = {"kernel": kernel, "tokens": tokens or None, "is_causal": True, "implementation": route}
        out = attend(q, k, v, **call | arguments)
        return jnp.sum(jnp.sin(out)), out

    (_, out), grads = jax.jit(jax.value_and_grad(curved, has_aux=True))(operands)
    return out, grads


@pytest.mark.parametrize("case", few(CASES, ["plain", "all keys"]))
@EACH
def test_interpreted_it_equals_the_equation(kernel, case):
    """Outputs and all gradients, of chunks that are whole and of one that is not."""
    operands, arguments = operands_of(kernel, case)
    if not arguments.get("is_causal", True) and not kernel.supports.bidirectional:
        pytest.skip("its tokens have an order")
    with interpreted():
        found = pulled(kernel, operands, arguments, "pallas")
    equation = pulled(kernel, operands, arguments, "reference")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, equation)


SHARING = {  # a state for each query head, and whether the future is hidden
    "decays": (Retention(), True),
    "the delta rule": (GatedDelta(), True),
    "channels": (KimiDelta(), True),
    "gains": (Performer(8), True),
    "sums": (Performer(8), False),
}


@pytest.mark.parametrize("name", few(SHARING, ["decays", "sums"]))
@pytest.mark.parametrize("kv_heads", few([KV_HEADS, 1], [1]))
def test_heads_that_share_keys_take_turns(name, kv_heads):
    """Heads that fill half of a register: beside each other, keys of which serve several folds of states."""
    kernel, is_causal = SHARING[name]
    (q, k, v), tokens = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given(kernel, 37, dim=64))
    operands = (q, k[:, :, :kv_heads], v[:, :, :kv_heads]), tokens
    with interpreted():
        found = pulled(kernel, operands, {"is_causal": is_causal}, "pallas")
    equation = pulled(kernel, operands, {"is_causal": is_causal}, "reference")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, equation)


def test_a_scale_that_is_traced_beside_powers_of_scores():
    """Coefficients of powers that hold it are no numbers, and so features are met."""
    kernel = Based()
    operands = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given(kernel, 21, dim=4))
    arguments = {"is_causal": True, "scale": 0.3}
    with interpreted():
        found = pulled(kernel, operands, arguments, "pallas")
    equation = pulled(kernel, operands, arguments, "reference")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, equation)


@pytest.mark.slow
@EACH
def test_interpreted_it_equals_the_oracle(kernel):
    (operands, tokens), _ = operands_of(kernel, "plain")
    dims = Dims(2, 37, 37, HEADS, KV_HEADS, *(operands[0].shape[3],) * 2)
    draws = kernel.draw(jax.random.key(0), dims)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (operands, tokens))
    exact = expected(oracles.oracle_of(kernel), kernel, *wide[0], (), draws, {"is_causal": True}, wide[1])
    how = {"kernel": kernel, "tokens": tokens or None, "draws": draws, "is_causal": True}
    with interpreted():
        out = attend(*operands, **how, implementation="pallas")
    np.testing.assert_allclose(out, exact, atol=2e-5)


def left(found, operands, brought, scale=1.0):
    """Outputs of some tokens, and the state after them."""
    rule_of = lambda draws: GatedDelta().rule((), draws, scale)
    mask = Mask(len(operands[0][0]), len(operands[0][0]), True)
    call = Call(mask, tokens=brought)
    return recurrence.attend(rule_of, (), *operands, call, found, leaves_state=True)


@pytest.mark.slow
def test_states_that_are_found_and_left_and_what_a_rule_closes_over_have_gradients():
    """In two parts, of which the second finds what the first has left, as by XLA."""
    operands, tokens = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given(GatedDelta(), 48))

    def curved(operands, tokens, scale):
        cut = lambda *ends: jax.tree.map(lambda x: x[:, slice(*ends)], (operands, tokens))
        first, state = left(None, *cut(0, 20), scale)
        second, state = left(state, *cut(20, 48), scale)
        return sum(jnp.sin(x).sum() for x in jax.tree.leaves((first, second, state)))

    gradient = lambda: jax.jit(jax.value_and_grad(curved, (0, 1, 2)))(operands, tokens, jnp.float32(0.7))
    plain = gradient()
    jax.clear_caches()
    with interpreted(), way.asking(way.way(), "this"):
        found = gradient()
    jax.clear_caches()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, plain)


ROUNDED = [Linear(), GatedDelta(), GatedLinear(), Performer(64)]


@pytest.mark.parametrize("kernel", few([*ROUNDED, Based()], [GatedDelta()]), ids=repr)
def test_gradients_beside_states_that_are_kept_in_sixteen_bits(kernel):
    (operands, tokens), arguments = operands_of(kernel, "plain")
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), operands)
    with interpreted():
        _, found = pulled(kernel, (rounded, tokens), arguments, "pallas")
    _, exact = pulled(kernel, jax.tree.map(jnp.float32, (rounded, tokens)), arguments, "reference")
    differ = lambda a, b: float(jnp.linalg.norm(jnp.ravel(a - b)) / jnp.linalg.norm(jnp.ravel(b)))
    assert max(jax.tree.leaves(jax.tree.map(differ, found, exact))) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("law", list(routes.LAWS)[:-1])
@pytest.mark.parametrize("kernel", ROUNDED, ids=repr)
def test_it_obeys_the_laws_of_routes(kernel, law):
    with interpreted(quantum=8, largest=64):
        routes.check(kernel, "pallas", law)


LAWS = (
    "transformations_change_nothing",
    "low_precision_loses_little",
    "the_future_cannot_touch_the_past",
    "hidden_keys_touch_nothing",
    "packed_neighbours_cannot_touch_each_other",
    "any_length_works",
    "shared_key_heads_equal_repeated_ones",
    "scale_scales",
)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kernel", [GatedDelta(), Retention(), GatedLinear(), Linear(), Performer(8)], ids=repr)
def test_it_obeys_laws(kernel, law):
    jax.clear_caches()  # programs of tests know "pallas" by its name alone
    with interpreted():
        check_law(kernel, law, "pallas")
    jax.clear_caches()


def test_the_largest_gain_has_its_gradient_once():
    """Of keys in several chunks that all have it, the first ones are given what the equation divides among all."""
    ((q, k, v), _), arguments = operands_of(Performer(8), "all keys")
    k = (3 * k).at[:, ::5].set(5 * k[:, :1])
    summed = lambda d_key: (d_key[:, ::5].sum(axis=1), jnp.delete(d_key, slice(None, None, 5), axis=1))
    with interpreted():
        _, ((_, found, _), _) = pulled(Performer(8), ((q, k, v), {}), arguments, "pallas")
    _, ((_, expected, _), _) = pulled(Performer(8), ((q, k, v), {}), arguments, "reference")
    for got, exact in zip(summed(found), summed(expected), strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-5 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize("is_wide", [False, True])
def test_it_is_one_kernel_where_it_is_lowered(is_wide):
    """One forward, and one more for gradients, whatever the default of numbers is; whole ones have 32 bits there."""
    q = jax.ShapeDtypeStruct((2, 256, 4, 64), jnp.bfloat16)
    beta = jax.ShapeDtypeStruct((2, 256, 4), jnp.float32)

    def call(q, beta):
        tokens = {"beta": beta, "log_decay": -beta}
        return attend(q, q, q, kernel=GatedDelta(), tokens=tokens, is_causal=True, implementation="pallas").sum()

    def kernels(call):
        exported = jax.export.export(jax.jit(call), platforms=("tpu",), disabled_checks=OF_TPU)(q, beta)
        return exported.mlir_module().count("@tpu_custom_call")

    with jax.enable_x64(is_wide):
        assert kernels(call) == 1
        assert kernels(jax.grad(call, (0, 1))) == 2
        assert not any("i64" in program for program in programs.of_kernels(jax.grad(call, (0, 1)), q, beta))


@pytest.mark.every_kernel
@pytest.mark.parametrize("kernel", few(KERNELS, [Retention(), StateSpace()]), ids=repr)
def test_its_numbers_have_32_bits(kernel):
    """Whatever those are that are learned and drawn: the compiler of a TPU takes no others."""
    operands, _ = operands_of(kernel, "plain")
    (q, k, v), tokens = jax.tree.map(lambda x: x.astype(jnp.bfloat16), operands)
    call = {"kernel": kernel, "tokens": tokens or None, "is_causal": True, "implementation": "pallas"}
    slope = jax.grad(lambda q, **learned: attend(q, k, v, **call, **learned).astype(jnp.float32).sum())
    with jax.enable_x64(True), programs.of_tpu("TPU v5 lite"):
        own = {"params": kernel.init, "draws": kernel.draw}
        learned = {name: made(jax.random.key(0), Dims.of(q, k, v)) for name, made in own.items()}
        found = programs.of_kernels(functools.partial(slope, **learned), q)
    assert found and not any(wide in program for program in found for wide in ("i64", "f64"))


def test_sums_are_two_kernels_where_they_are_lowered():
    """One over keys and one over queries; those of gradients read what keys have left, and no outputs."""
    q = jax.ShapeDtypeStruct((2, 256, 4, 64), jnp.bfloat16)
    k = jax.ShapeDtypeStruct((2, 1000, 2, 64), jnp.bfloat16)

    def call(q, k):
        return attend(q, k, k, kernel=Performer(64), implementation="pallas").astype(jnp.float32).sum()

    def kernels(call):
        exported = jax.export.export(jax.jit(call), platforms=("tpu",), disabled_checks=OF_TPU)(q, k)
        return exported.mlir_module().count("@tpu_custom_call")

    assert kernels(call) == 2
    assert kernels(jax.grad(call, (0, 1))) == 3


def test_a_mesh_splits_what_a_compiler_cannot():
    """Explicit axes: each device has kernels of its part, of which gradients of what it shares are summed."""
    mesh = jax.sharding.AbstractMesh((2, 2), ("a", "b"), (jax.sharding.AxisType.Explicit,) * 2)
    split = lambda *axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    q = jax.ShapeDtypeStruct((2, 256, 4, 64), jnp.bfloat16, sharding=split("a", None, "b"))
    ids = jax.ShapeDtypeStruct((2, 256), jnp.int32, sharding=split("a"))

    def call(q, scale, ids):
        segments = {"query_segment_ids": ids, "key_value_segment_ids": ids}
        asked = {"kernel": Retention(), "is_causal": True, "implementation": "pallas", "scale": scale}
        return attend(q, q, q, **asked, **segments).astype(jnp.float32).sum()

    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(jax.grad(call, (0, 1))).trace(q, jax.ShapeDtypeStruct((), jnp.float32), ids)
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("@tpu_custom_call") == 2


DECLINED = {
    "float16: it takes bfloat16 and float32, on a TPU": (Linear(), jnp.float16, False),
    r"a state of \d.\d MiB: it holds at most 2, on a TPU": (Performer(8192), jnp.float32, True),
}


@pytest.mark.parametrize("reason", DECLINED)
def test_what_it_declines(reason):
    kernel, dtype, is_causal = DECLINED[reason]
    q = jax.ShapeDtypeStruct((1, 40, 2, 8), dtype)
    with pytest.raises(NotImplementedError, match=f"'pallas' declines {type(kernel).__name__}.*{reason}.*or 'xla'"):
        jax.eval_shape(lambda q: attend(q, q, q, kernel=kernel, is_causal=is_causal, implementation="pallas"), q)


@pytest.mark.parametrize("is_causal", [False, True])
def test_all_reasons_are_listed(is_causal):
    """Of a call of the engine with all that a device is not given."""
    (q, k, v), _ = given(Linear(), 12)
    ids = jnp.zeros((2, 1, 12), jnp.int32)
    mask = Mask(12, 12, True, query_segments=ids, key_segments=ids) if is_causal else Mask(12, 12)
    rule_of = functools.partial(Linear().rule, (), scale=None)
    reasons = "split over devices.*" + "one segment beside others.*" * is_causal + "float64"
    with jax.enable_x64(True), way.asking(way.way(), "this"), pytest.raises(NotImplementedError, match=reasons):
        recurrence.attend(rule_of, (), q, k, v, Call(mask, shards="some"), leaves_state=is_causal)


def test_a_cpu_has_no_kernel():
    q = jnp.ones((1, 8, 2, 8))
    with pytest.raises(NotImplementedError, match=r"declines Linear.* on cpu: it is a kernel of a TPU"):
        attend(q, q, q, kernel=Linear(), is_causal=True, implementation="pallas")
