"""The engine of states beside the recurrences: decays of every shape, the delta rule, states found and left."""

import functools
import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import Delta, Dims, GatedDelta, GatedLinear, KimiDelta, Linear, LogLinear, Retention, attend
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Mask
from attnzoo.costs import counting
from attnzoo.engines import recurrence, state
from tests.few import few
from tests.gated_operands import DIM, HEADS, KV_HEADS, given

KERNELS = [GatedDelta(), Delta(), GatedLinear(), KimiDelta(), Retention()]
EACH = pytest.mark.parametrize("kernel", KERNELS, ids=repr)
CASES = [
    (shape, offset, segments, padded)
    for shape, offset, segments, padded in itertools.product(
        [(37, 37), (21, 40), (40, 13)], [0, 3, -4, 100], [False, True], [False, True]
    )
]
SOME = [((37, 37), 0, False, False), ((21, 40), -4, True, True), ((40, 13), 100, False, True), *CASES[2::5]]


@pytest.mark.parametrize("case", few(SOME, SOME[1:2]), ids=str)
@pytest.mark.parametrize("kernel", [*KERNELS, LogLinear(levels=4)], ids=repr)
def test_outputs_and_gradients(kernel, case, monkeypatch):
    (length, keys), offset, segments, padded = case
    monkeypatch.setitem(recurrence.attend.__kwdefaults__, "chunk", 8)
    rng, arguments = np.random.default_rng(4), {"is_causal": True, "query_offset": offset}
    if padded:
        arguments["key_value_seq_lengths"] = jnp.array([keys // 2, keys])
    if segments:
        arguments["query_segment_ids"] = jnp.asarray(rng.integers(0, 4, (2, length)))
        arguments["key_value_segment_ids"] = jnp.asarray(rng.integers(0, 4, (2, keys)))

    def loss(given, route):
        operands, tokens = given
        out = attend(*operands, kernel=kernel, tokens=tokens or None, implementation=route, **arguments)
        return jnp.sum(jnp.sin(out)), out

    with jax.enable_x64(True):
        jax.clear_caches()
        operands = jax.tree.map(jnp.asarray, given(kernel, length, keys, heads=KV_HEADS if padded else HEADS))
        results = [jax.value_and_grad(loss, has_aux=True)(operands, route) for route in ("xla", "reference")]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), *results)
    jax.clear_caches()


@pytest.mark.every_kernel
@pytest.mark.parametrize("kernel", few([*KERNELS, LogLinear(levels=4)], [LogLinear(levels=4)]), ids=repr)
def test_a_packed_document_is_what_it_is_alone(kernel):
    """Wherever it begins, with padding inside and behind it."""
    operands, tokens = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given(kernel, 37, 37, heads=HEADS))
    call = functools.partial(attend, kernel=kernel, is_causal=True)
    shown = jnp.ones((2, 37), bool).at[:, jnp.array([3, 17, 18, 30])].set(False)
    ids = jnp.broadcast_to(jnp.arange(37) // 13, shown.shape)
    packed = call(*operands, tokens=tokens, key_mask=shown, query_segment_ids=ids, key_value_segment_ids=ids)
    for document in map(slice, (0, 13, 26), (13, 26, 37)):
        own, brought, seen = jax.tree.map(operator.itemgetter((slice(None), document)), (operands, tokens, shown))
        np.testing.assert_allclose(packed[:, document], call(*own, tokens=brought, key_mask=seen), atol=1e-5)


def rule_of(kernel):
    return lambda draws: kernel.rule((), draws, None)


@functools.partial(jax.jit, static_argnames=("kernel", "at_once"))
def left(kernel, draws, operands, mask, tokens, found, *, at_once=False):
    call, how = Call(mask, tokens=tokens), {"leaves_state": True, "chunk": 8, "at_once": at_once}
    return recurrence.attend(rule_of(kernel), draws, *operands, call, found, **how)


def parts(kernel, ids, *cuts, at_once=False):
    """Outputs and the last state of a sequence in parts, each of which finds what the one before has left."""
    dims = Dims(2, 36, 36, HEADS, KV_HEADS, DIM, DIM)
    operands, tokens = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given(kernel, 36))
    draws = kernel.draw(jax.random.key(0), dims)
    outs, found = [], kernel.start((), draws, dims, 36, jnp.float32)
    for low, high in itertools.pairwise((0, *cuts, 36)):
        here, brought = jax.tree.map(lambda x, part=slice(low, high): x[:, part], (operands, tokens))
        segments = None if ids is None else jnp.asarray(ids)[:, None, low:high]
        mask = Mask(high - low, high - low, True, query_segments=segments, key_segments=segments)
        out, found = left(kernel, draws, here, mask, brought, found, at_once=at_once)
        outs.append(out)
    return jnp.concatenate(outs, axis=1), found


PACKED = np.stack([np.repeat([4, 1, 2], [15, 17, 4]), np.repeat([3, 1], [2, 34])])


@pytest.mark.parametrize("packed", few([False, True], [True]))
@pytest.mark.parametrize("at_once", [False, True], ids=["in turn", "at once"])
@pytest.mark.parametrize("kernel", [*KERNELS, Linear()], ids=repr)
def test_a_state_that_is_left_is_found(kernel, at_once, packed):
    ids = PACKED if packed else None
    whole, cut = parts(kernel, ids), parts(kernel, ids, 12, 24, at_once=at_once)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole, cut)


def test_the_state_that_is_left_is_that_of_the_last_key():
    """Whichever of its ids is the largest, and whatever else comes back."""
    returning = np.where(np.arange(36) % 5 == 1, 7, PACKED)
    for last in (4, 0, 9):
        ids = returning.copy()
        ids[:, -1] = ids[:, 20] = last
        _, found = parts(Delta(), ids)
        (q, k, v), tokens = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given(Delta(), 36))
        for example in range(2):
            chosen = np.flatnonzero(ids[example] == last)
            here, brought = jax.tree.map(lambda x, at=(example, chosen): x[at][None], ((q, k, v), tokens))
            mask, nothing = Mask(len(chosen), len(chosen), True), jax.tree.map(lambda x: x[:1] * 0, found)
            _, expected = left(Delta(), (), here, mask, brought, nothing)
            np.testing.assert_allclose(found[0].totals[0][example], expected[0].totals[0][0], atol=2e-5)


@pytest.mark.parametrize("at_once", [False, True], ids=["in turn", "at once"])
@pytest.mark.parametrize("kernel", [GatedDelta(), KimiDelta()], ids=repr)
def test_gradients_reach_the_state_that_was_found(kernel, at_once):
    operands, tokens = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given(kernel, 36))
    _, found = parts(kernel, None)
    last = functools.partial(left, kernel, (), operands, Mask(36, 36, True), tokens, at_once=at_once)
    loss = jax.jit(lambda found: last(found)[0].sum())
    direction = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), found)
    along = lambda size: float(loss(jax.tree.map(lambda x, d: x + size * d, found, direction)))
    slope = sum(map(float, jax.tree.leaves(jax.tree.map(jnp.vdot, jax.grad(loss)(found), direction))))
    assert slope == pytest.approx((along(1) - along(-1)) / 2, rel=1e-4)


@pytest.mark.parametrize("kernel", [GatedDelta(), GatedLinear(), KimiDelta()], ids=repr)
@pytest.mark.parametrize("strength", [5.0, 1e4, np.inf])
def test_strong_decays_forget_and_nothing_else(kernel, strength):
    """Products of such decays vanish or are 0: nothing may be divided by them, and what comes after is as before."""
    operands, tokens = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given(kernel, 37))
    weak = 0.01 * tokens["log_decay"]
    tokens["log_decay"] = weak.at[:, 10:20].set(-strength)

    def call(operands, tokens, route):
        return attend(*operands, kernel=kernel, tokens=tokens, is_causal=True, implementation=route)

    ours, plain = (
        jax.value_and_grad(lambda *given, route=route: jnp.sum(jnp.sin(call(*given, route))), (0, 1))(operands, tokens)
        for route in ("xla", "reference")
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(ours))
    if np.isfinite(strength):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, plain)
    if strength > 5:
        after = jax.tree.map(lambda x: x[:, 19:], (operands, tokens))
        after[1]["log_decay"] = weak[:, 19:]
        np.testing.assert_allclose(call(operands, tokens, "xla")[:, 19:], call(*after, "reference"), atol=1e-4)


def test_what_vanishes_is_not_divided_by():
    rng = np.random.default_rng(0)
    x, key = (jnp.asarray(rng.normal(size=(64, 4)), jnp.float32) for _ in range(2))
    decay = -jnp.asarray(rng.uniform(0, 20, size=(64, 4)), jnp.float32)
    sums = np.cumsum(np.asarray(decay, np.float64), axis=0)
    left = np.exp(np.minimum(sums[:, None] - sums[None], 0)) * np.tri(64)[:, :, None]
    expected = np.einsum("tf,sf,tsf->ts", x, key, left)
    write = state.Write((key,), (state.Channels(key, decay),))
    chunk = state.meet(None, write, state.Standing(np.tri(64, dtype=bool)))
    products = jax.jit(lambda x: chunk.products((x,)))(x)
    np.testing.assert_allclose(products, expected, atol=1e-4)


def test_gains_beside_decays():
    """S_t = e^g_t S + e^b_t k v^T, read relative to the largest gain so far: the memory of xLSTM (arXiv:2405.04517)."""
    rng = np.random.default_rng(0)
    q, key, value = rng.normal(size=(3, 12, 4))
    decay, gain = -rng.uniform(0, 3, 12), rng.normal(size=12) * 40
    total, top, expected = np.zeros((4, 4)), -np.inf, []
    for t in range(12):
        after = max(top + decay[t], gain[t])
        total = total * np.exp(top + decay[t] - after) + np.exp(gain[t] - after) * np.outer(key[t], value[t])
        top = after
        expected.append(q[t] @ total)
    found, outs = None, []
    for part in (slice(0, 5), slice(5, 12)):
        here = [jnp.asarray(x[part], jnp.float32) for x in (q, key, value, decay, gain)]
        channels = state.Channels(here[1], *here[3:])
        inside = np.tri(len(here[0]), dtype=bool)
        chunk = state.meet(found, state.Write((here[2],), (channels,)), state.Standing(inside))
        outs, found = [*outs, *chunk.read((here[0],))[0]], chunk.after()
    np.testing.assert_allclose(np.stack(outs), expected, atol=1e-5)
    assert float(found[0].top) == pytest.approx(top, rel=1e-6)


KEY, GROUPS, OF_TOKENS = jnp.ones((3, 2)), jnp.ones((4, 3, 2)), jnp.ones(3)
REFUSED = {
    "log_gain came beside the delta rule": state.Write((KEY,), (state.Channels(KEY, None, OF_TOKENS),), OF_TOKENS),
    "log_gain came beside decays by channel": state.Write((KEY,), (state.Channels(KEY, -KEY, OF_TOKENS),)),
    "log_gain came beside groups": state.Write((KEY,), (state.Channels(GROUPS, None, GROUPS[..., 0]),)),
    "rate came beside keys .* in groups": state.Write((KEY,), (state.Channels(GROUPS),), OF_TOKENS),
    "rate came beside 2 values": state.Write((KEY, OF_TOKENS), (state.Channels(KEY),), OF_TOKENS),
    "log_decay has shape": state.Write((KEY,), (state.Channels(GROUPS, -OF_TOKENS),)),
}


@pytest.mark.parametrize("reason", REFUSED)
@pytest.mark.parametrize("at_once", [False, True])
def test_what_no_state_can_be_written_by_is_refused(reason, at_once):
    """By name, whatever the route."""
    rule_of = lambda _: recurrence.Rule(lambda q, at: (q,), lambda k, v, at: REFUSED[reason])
    q, call = jnp.ones((1, 3, 1, 2)), Call(Mask(3, 3, is_causal=True))
    with pytest.raises(ValueError, match=reason):
        recurrence.attend(rule_of, (), q, q, q, call, at_once=at_once)


@pytest.mark.parametrize("kernel", [GatedDelta(), Retention()], ids=repr)
def test_an_order_in_time_needs_a_causal_mask(kernel):
    (q, k, v), tokens = given(kernel, 37)
    draws = kernel.draw(jax.random.key(0), Dims(2, 37, 37, HEADS, KV_HEADS, DIM, DIM))
    with pytest.raises(ValueError, match=r"expected a causal mask; .* bidirectional=False"):
        recurrence.attend(rule_of(kernel), draws, q, k, v, Call(Mask(37, 37), tokens=tokens))


def test_one_chunk_meets_no_state_and_takes_no_scan():
    def program(length):
        operands, tokens = given(GatedDelta(), length)
        call = lambda *given: attend(*given, kernel=GatedDelta(), tokens=tokens, is_causal=True)
        return str(jax.make_jaxpr(call)(*operands))

    assert "scan[" not in program(recurrence.CHUNK) and "scan[" in program(recurrence.CHUNK + 1)


def test_triangular_systems_are_counted():
    system, right = jnp.eye(8), jnp.ones((8, 3))
    solve = lambda *given: jax.lax.linalg.triangular_solve(*given, left_side=True, lower=True)
    assert counting.flops(solve, system, right) == 8 * 8 * 3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_levels_lose_nothing_in_sixteen_bits(dtype):
    """Weights are differences, and may be beyond what float16 knows."""
    operands, tokens = given(LogLinear(levels=6), 40)
    tokens |= {"log_level": tokens["log_level"] + 12 * (dtype == jnp.float16), "beta": 1e-3 * tokens["beta"]}
    operands, tokens = jax.tree.map(lambda x: jnp.asarray(x, dtype), operands), jax.tree.map(jnp.float32, tokens)
    call = functools.partial(attend, *operands, kernel=LogLinear(levels=6), tokens=tokens, is_causal=True)
    out, expected = (call(implementation=route).astype(jnp.float32) for route in ("xla", "reference"))
    assert jnp.linalg.norm(out - expected) < 5e-4 * jnp.linalg.norm(expected)


def test_levels_that_a_sequence_is_too_short_for_are_not_computed():
    operands, tokens = jax.tree.map(jnp.float32, given(LogLinear(levels=9), 37))

    def loss(tokens, route):
        call = functools.partial(attend, *operands, kernel=LogLinear(levels=9), is_causal=True, implementation=route)
        return jnp.sin(call(tokens=tokens)).sum()

    found, expected = (jax.grad(loss)(tokens, route) for route in ("xla", "reference"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
    assert not found["log_level"][..., 7:].any()
    fewer = tokens | {"log_level": tokens["log_level"][..., :7]}
    call = lambda levels, tokens: attend(*operands, kernel=LogLinear(levels=levels), tokens=tokens, is_causal=True)
    of_nine, of_seven = functools.partial(call, 9), functools.partial(call, 7)
    assert counting.flops(of_nine, tokens) == counting.flops(of_seven, fewer)
