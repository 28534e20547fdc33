"""The recurrence of a Hopper GPU, interpreted by a CPU that looks for races, against NumPy in float64."""

import contextlib
import functools
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from attnzoo import (
    Based,
    CosFormer,
    Delta,
    Dims,
    GatedDelta,
    GatedLinear,
    KimiDelta,
    Linear,
    Linformer,
    LogLinear,
    Nystrom,
    Performer,
    Retention,
    Softmax,
    StateSpace,
    attend,
)
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Mask
from attnzoo.engines import recurrence
from attnzoo.engines.fused.carried import Learned
from attnzoo.engines.fused.hopper import chunks, gradient, parts, passes, powers_back, warpgroups
from attnzoo.engines.fused.hopper import recurrence as hopper_recurrence
from attnzoo.engines.fused.hopper import rows as hopper_rows
from attnzoo.engines.fused.hopper import told as hopper_told
from attnzoo.engines.fused.hopper import whole as hopper_whole
from attnzoo.engines.fused.hopper.gradient import Given, How
from attnzoo.engines.fused.hopper.recurrence import State
from attnzoo.engines.fused.way import asking, interpreted, way
from attnzoo.engines.slots import Slots
from attnzoo.engines.state import Channels, Write, normalised
from tests import asking as questions
from tests import oracles
from tests.few import few
from tests.marks import of_hopper
from tests.oracles import oracle_of, visibility

pytestmark = of_hopper

TOLERANCE = 1e-2  # of the largest number: operands, weights and states are bfloat16
HEADS, KV_HEADS = 2, 1


@pytest.fixture(scope="module")
def ask():
    """Puts a question to a process where the two threads of a kernel, which wait for each other, both run."""
    with questions.process(NPROC="8") as asked:
        yield asked


def has_races():
    from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call  # nothing public tells

    return interpret_pallas_call.get_races().races_found


def assert_close(found, expected, what, tolerance=TOLERANCE):
    most = tolerance * max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0, atol=most, err_msg=what)


def strong_decays(rng, shape):
    """From almost none to all: some forget everything, and many follow each other that nearly do."""
    decays = -np.exp(2 * rng.normal(size=shape) - 2)
    decays[..., 0, 70], decays[..., 0, 90:110], decays[..., 1, 20] = -np.inf, -50, -1e4
    return decays


def of_head(q, k, v, one, log_decay, found, d_out, d_one, d_left, rate=None):
    """The recurrence of one head token after token, and its gradients likewise, from the last one on."""
    length, states = len(q), [(found, np.zeros(len(found)))]
    kept = np.exp(log_decay).reshape(length, -1)  # of all channels, or of each
    missing = np.zeros_like(v)
    for t in range(length):
        state, ones = kept[t][:, None] * states[-1][0], kept[t] * states[-1][1]
        missing[t] = v[t] - k[t] @ state
        value = v[t] if rate is None else rate[t] * missing[t]
        states.append((state + np.outer(k[t], value), ones + k[t] * one[t]))
    read = [(q[t] @ states[t + 1][0], q[t] @ states[t + 1][1]) for t in range(length)]
    result = {"out": np.stack([x for x, _ in read]), "one": np.array([x for _, x in read]), "left": states[-1][0]}
    grads = {name: np.zeros_like(x) for name, x in (("read", q), ("key", k), ("value", v), ("value_one", one))}
    grads |= {"log_decay": np.zeros_like(log_decay), "rate": np.zeros(length)}
    d_state, d_ones = d_left, np.zeros(len(found))
    for t in reversed(range(length)):
        grads["read"][t] = states[t + 1][0] @ d_out[t] + states[t + 1][1] * d_one[t]
        d_state, d_ones = d_state + np.outer(q[t], d_out[t]), d_ones + q[t] * d_one[t]
        grads["key"][t], grads["value"][t] = d_state @ v[t] + d_ones * one[t], k[t] @ d_state
        grads["value_one"][t] = k[t] @ d_ones
        if rate is not None:
            grads["rate"][t], d_value = grads["value"][t] @ missing[t], rate[t] * grads["value"][t]
            grads["key"][t] = rate[t] * (d_state @ missing[t]) - kept[t] * (states[t][0] @ d_value)
            grads["value"][t], d_state = d_value, d_state - np.outer(k[t], d_value)
        d_state, d_ones = kept[t][:, None] * d_state, kept[t] * d_ones
        passed = (states[t][0] * d_state).sum(axis=1) + states[t][1] * d_ones
        grads["log_decay"][t] = passed if log_decay.ndim == 2 else passed.sum()
    return result | grads | {"found": d_state}


def check_kernel(
    *,
    features=64,
    values=64,
    length=192,
    decays=False,
    is_counted=False,
    is_found=False,
    scale=1.0,
    is_whole=False,
    is_corrected=False,
    by_channel=False,
):
    rng = np.random.default_rng(0)
    rounded = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
    precise = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    rate = (
        jnp.asarray(2 * rng.uniform(size=(1, HEADS, length)), jnp.float32).at[0, 0, 5].set(0) if is_corrected else None
    )
    given = Given(
        rounded(1, length, HEADS, features),
        rounded(1, length, KV_HEADS, features) * (features**-0.5 if is_corrected else 1),
        rounded(1, length, KV_HEADS, values),
        precise(1, HEADS, length) if is_counted else None,
        decays_of(rng, length, by_channel) if decays else None,
        State(precise(1, HEADS, features, values), jnp.zeros((1, HEADS, features)) if is_counted else None)
        if is_found
        else None,
    )
    recur = whole if is_whole or is_corrected or by_channel else in_parts
    (out, one, left), pull = jax.vjp(functools.partial(recur, scale), given, rate)
    pulled = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), (out, one, left))
    pulled = (*pulled[:2], pulled[2]._replace(ones=None if left.ones is None else 0 * left.ones))
    grads, d_rate = pull(pulled)
    assert not has_races()
    heads = [_of_one(given, pulled, n, scale, rate) for n in range(HEADS)]
    by_head = lambda name: np.stack([head[name] for head in heads])
    assert_close(jnp.moveaxis(out[0], 1, 0), by_head("out"), "out")
    assert_close(left.sums[0], by_head("left"), "left")
    assert_close(jnp.moveaxis(grads.read[0], 1, 0), by_head("read"), "d_read")
    for name in ("key", "value"):
        assert_close(getattr(grads, name)[0, :, 0], by_head(name).sum(axis=0), f"d_{name}")
    if is_counted:
        assert_close(one[0], by_head("one"), "one", 1e-3)
        assert_close(grads.value_one[0], by_head("value_one"), "d_value_one", 1e-3)
    if decays and by_channel:
        assert_close(grads.log_decay[0, :, 0], by_head("log_decay").sum(axis=0), "d_log_decay", 2 * TOLERANCE)
    elif decays and not is_counted:
        assert_close(grads.log_decay[0], by_head("log_decay"), "d_log_decay", 2 * TOLERANCE)
    if is_found:
        assert_close(grads.found.sums[0], by_head("found"), "d_found")
    if is_corrected:
        assert_close(d_rate[0], by_head("rate"), "d_rate", 2 * TOLERANCE)


def decays_of(rng, length, by_channel):
    """Of each head, or of each channel of shared keys."""
    if not by_channel:
        return jnp.asarray(strong_decays(rng, (1, HEADS, length)), jnp.float32)
    return jnp.asarray(np.moveaxis(strong_decays(rng, (1, KV_HEADS, 64, length)), 3, 1), jnp.bfloat16)


def in_parts(scale, given, rate):
    """The recurrence, whose heads may be in parts."""
    return gradient.recur(How(scale, warpgroups.interpreter()), given)


def whole(scale, given, rate):
    """The same where a block of threads holds the state, by channel, or with the delta rule."""
    told = hopper_whole.Given(given.read, given.key, given.value, [], [], None, given.log_decay, given.found, rate)
    how = hopper_whole.How(None, None, None, scale, warpgroups.interpreter())
    kernels = hopper_told.kernels_of(told)
    assert rate is not None or kernels.fits(told, how)
    out, left = kernels.recur(how, told)
    return out, None, left


def _of_one(given, pulled, n, scale, rate):
    of = lambda x, like: np.zeros(like) if x is None else np.asarray(x, np.float64)[0, n]
    d_out, d_one, d_left = pulled
    length, features, values = given.read.shape[1], given.read.shape[3], given.value.shape[3]
    row = lambda x, n: np.asarray(x, np.float64)[0, :, n]
    found = None if given.found is None else given.found.sums
    decays = given.log_decay
    decays = row(decays, 0) if decays is not None and decays.ndim == 4 else of(decays, length)
    expected = of_head(
        *(scale * row(given.read, n), row(given.key, 0), row(given.value, 0)),
        *(of(given.value_one, length), decays, of(found, (features, values))),
        *(row(d_out, n), of(d_one, length), of(d_left.sums, (features, values))),
        None if rate is None else of(rate, length),
    )
    return expected | {"read": scale * expected["read"]}


def test_decays_of_any_strength(ask):
    """Of a shared key, beside a state that was found, in which nothing may be NaN."""
    ask(check_kernel, length=128, decays=True, is_found=True, scale=-0.3, is_whole=True)


def test_channels_that_decay_by_themselves(ask):
    """Likewise, and of one channel nothing is left where others are."""
    ask(check_kernel, length=128, decays=True, is_found=True, scale=-0.3, by_channel=True)


@pytest.mark.slow
def test_channels_that_decay_by_themselves_beside_wide_values(ask):
    """Columns of values share decays of channels."""
    ask(check_kernel, length=192, values=128, decays=True, by_channel=True)


@pytest.mark.parametrize("by_channel", few([False, True], [True]))
def test_what_keys_recall_is_corrected(ask, by_channel):
    """Rates up to 2, of which one is 0, beside decays of any strength."""
    length = 128 if by_channel else 192
    ask(check_kernel, length=length, decays=True, is_found=True, scale=0.5, is_corrected=True, by_channel=by_channel)


@pytest.mark.slow
def test_what_many_keys_recall_of_wide_values(ask):
    """Columns of values are as heads, and so are those of the state that is found."""
    ask(check_kernel, length=128, features=128, values=128, is_found=True, is_corrected=True)


def check_parts(**how):
    """Few heads: sequences are cut into parts, each of which finds what those before it have left."""
    with mock.patch.object(parts, "SHORTEST", 1):
        check_kernel(**how | {"length": 256})


def test_parts_of_a_sequence_beside_each_other(ask):
    ask(check_parts, decays=True, is_found=True, scale=0.5)


def test_a_scale_is_told_from_other_ways_to_read():
    """It is the kernel's, which spares a pass over queries; what is traced, learned or no number is not."""
    at, q = jnp.zeros((1, 8), jnp.int32), jnp.ones((1, 8, 2, 4))

    def told(read):
        carried = SimpleNamespace(read=lambda constants, closed, q, slots: (read(q).astype(jnp.bfloat16),))
        return chunks.scale_of(carried, Learned((), [], None), q, Slots(at, at))

    assert [told(read) for read in (lambda q: q, lambda q: 2 * q * 0.125, lambda q: q / -4)] == [1.0, 0.25, None]
    others = [jnp.square, jax.nn.relu, lambda q: q * q, lambda q: q * jnp.arange(4.0), lambda q: 0 * q, lambda q: q + 1]
    assert [told(read) for read in others] == [None] * len(others)
    jax.make_jaxpr(lambda scale: told(lambda q: scale * q) is None or 1 / 0)(1.0)


def test_what_is_done_with_rows_is_told():
    """Tokens that meet, products and channels that are learned are not; what stands beside rows is made before."""
    rows = lambda tokens: jax.ShapeDtypeStruct((tokens, 64), jnp.float32)
    like = lambda tokens: (rows(tokens), jax.ShapeDtypeStruct((tokens,), jnp.int32))

    def told(function):
        return hopper_rows.parted(lambda *given: [function(*given).astype(jnp.bfloat16)], like, [0])

    def turned(x, at):
        return [jax.nn.relu(x) * jnp.cos(0.1 * jnp.minimum(at, 2))[:, None]]

    assert told(lambda x, at: x) == hopper_rows.Parted(None, [], [])
    part = hopper_rows.parted(turned, like, [0])
    made = hopper_rows.beside(turned, like(4), [jnp.zeros((4, 64)), jnp.arange(4)], part.places)
    assert part.read == [{1}] and part.rows.widths == [64]
    assert told(lambda x, at: jnp.tanh(x)).rows.pulled.jaxpr.eqns, "by whatever a jax derives it"
    np.testing.assert_allclose(made, [np.cos([0, 0.1, 0.2, 0.2])], rtol=1e-6)
    others = [lambda x, at: jnp.cumsum(x, axis=0), lambda x, at: x @ x.T @ x, lambda x, at: x * jnp.arange(64.0)]
    others += [lambda x, at: jnp.zeros_like(x), lambda x, at: x * np.arange(len(x), dtype=np.float32)[:, None]]
    others += [
        lambda x, at: x[:, ::2],
        lambda x, at: 1 / jnp.concatenate([x, x], axis=1),
        lambda x, at: x[:, :4] @ x[:4],
    ]
    assert [told(function) for function in others] == [None] * 8


def test_matrices_that_rows_are_multiplied_with_are_told():
    """And none that is met otherwise."""
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    like = lambda tokens: (shape(128, 64), shape(tokens, 64))
    told = lambda function: hopper_rows.parted(function, like, [1])
    part = told(lambda w, x: [jnp.exp(0.5 * x @ w.T), jnp.max(x, axis=1)])
    assert part.fixed == (0,) and not part.places
    others = [lambda w, x: [x * w[:1]], lambda w, x: [x @ (w[:64] * 2)], lambda w, x: [x @ (w.T @ w)]]
    assert [told(function) for function in others] == [None] * 3


def test_outputs_that_are_what_was_read_times_numbers_are_told():
    """Of which alone that can be made again; not where columns meet, or something is added."""
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    like = lambda tokens: (shape(tokens, 64), shape(tokens))
    told = lambda function: hopper_rows.parted(lambda *read: [function(*read)], like, [0, 1]).rows.is_factor
    each = [lambda x, one: normalised((x, one)), lambda x, one: -x * jnp.exp(one)[:, None], lambda x, one: x / 3]
    assert [told(lambda x, one, made=made: made(x, one) * one[:, None]) for made in each] == [True] * 3
    others = [lambda x, one: one[:, None] / x, lambda x, one: x * x, lambda x, one: x + one[:, None]]
    others += [lambda x, one: x * x.sum(axis=1, keepdims=True), lambda x, one: jnp.where(one[:, None] > 0, x, 1)]
    assert [told(lambda x, one, made=made: made(x, one) * one[:, None]) for made in others] == [False] * 5


PICKED = {
    "a product of all that is picked": lambda x, at, y: jnp.concatenate([x[:, 1:] * x[:, :-1], 0.5 * x**2], axis=1),
    "others beside it": lambda x, at, y: jnp.concatenate([jnp.ones_like(x), jnp.cos(2 * x[:, :3]), x + 1], axis=1),
    "one for all": lambda x, at, y: jnp.concatenate([x[:, 2:3] * jnp.sin(x), y[:, None] * x[:, 4:]], axis=1),
    "what is hidden": lambda x, at, y: jnp.where(at[:, None] > 5, jnp.concatenate([x, x], axis=1)[:, 3:11], 0),
}


@pytest.mark.parametrize("name", PICKED)
def test_columns_are_picked_by_matrices(name):
    """In values and gradients; what else stands in a row is 0."""
    rng, function = np.random.default_rng(0), lambda *given: [PICKED[name](*given)]
    shape = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct(sizes, dtype)
    like = lambda tokens: (shape(tokens, 12), shape(tokens, dtype=jnp.int32), shape(tokens))
    x, at, y = (jnp.asarray(rng.normal(size=s.shape) * 10, s.dtype) for s in like(hopper_rows.TOKENS))
    part = hopper_rows.parted(function, like, [0])
    beside = hopper_rows.beside(function, like(len(x)), [x, at, y], part.places)
    filled_up = [jnp.pad(x, ((0, 0), (0, 4))), *(b.reshape(p.aval.shape) for b, p in _given(part, beside)), *part.known]
    (expected,), pull = jax.vjp(lambda x: function(x, at, y), x)
    (found,) = core.jaxpr_as_fun(part.rows.made)(*filled_up)
    width = expected.shape[1]
    np.testing.assert_allclose(found, np.pad(expected, ((0, 0), (0, -width % 64))), rtol=1e-5)
    pulled = jnp.asarray(rng.normal(size=found.shape), jnp.float32)
    d_x, *_ = core.jaxpr_as_fun(part.rows.pulled)(*filled_up, pulled)
    np.testing.assert_allclose(d_x[:, :12], pull([pulled[:, :width]])[0], rtol=1e-4, atol=1e-4)


def _given(part, beside):
    """What stands beside rows, and the operands of their program that it is."""
    return zip(beside, part.rows.made.jaxpr.invars[1 : 1 + len(beside)], strict=True)


@pytest.mark.parametrize("is_fixed", [True, False])
def test_a_count_that_has_a_gradient_is_not_told(is_fixed):
    """Kernels that make features themselves give none by it."""

    def counting(constants):
        one = lambda v: jnp.ones(len(v)) if is_fixed else jnp.abs(v[:, 0])
        write = lambda k, v, at: Write((v, one(v)), (Channels(k),))
        return recurrence.Rule(lambda q, at: (q,), write, normalised)

    def call(*given):
        with asking(way(), "a test"):
            return recurrence.attend(counting, (), *given, Call(Mask(64, 64, is_causal=True)))

    told = mock.patch.object(hopper_whole, "recur", wraps=hopper_whole.recur)
    with told as recur, interpreted(quantum=64, largest=64, grain=64, platform="cuda"):
        jax.eval_shape(call, *[jax.ShapeDtypeStruct((1, 64, 2, 64), jnp.bfloat16)] * 3)
    assert recur.called == is_fixed


def test_parts_occupy_the_device():
    """Equal ones, not too short, and none where they would be few."""
    side = lambda batch, length, heads, width: hopper_recurrence.Side(jnp.zeros((batch, length, heads, width)))
    count = lambda *shape: parts.count(jax.eval_shape(lambda: hopper_recurrence.Sides(*[side(*shape)] * 3)))
    assert [count(1, 2**15, heads, 64) for heads in (1, 16, 33, 34)] == [64, 8, 4, 1]
    assert [count(1, length, 4, 128) for length in (2**15, 2048, 64 * 4 * 8 - 64, 64 * 37)] == [16, 4, 1, 1]


KERNELS = {
    "sums": {"length": 256},
    "counted values": {"is_counted": True, "features": 128, "is_found": True, "scale": 2.0},
    "counted values that are forgotten": {"is_counted": True, "decays": True},
    "decays": {"length": 128, "decays": True, "is_found": True, "scale": -0.3},
    "values in two parts": {"decays": True, "values": 128, "features": 128},
}


@pytest.mark.slow
@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_the_kernel_and_its_gradients(ask, name, is_cut):
    ask(check_parts if is_cut else check_kernel, **KERNELS[name])


def check(kernel, *, length=150, keys=None, widths=(64, 64), brought=None, is_causal=True, twins=False, **structure):
    """`attend` against the oracle of a kernel, and its gradients along one direction of each operand.

    Twins among keys are largest together, and a slope to both sides has the half of it by each.
    """
    rng, keys = np.random.default_rng(0), keys or length
    sizes = (length, HEADS, widths[0]), (keys, KV_HEADS, widths[0]), (keys, KV_HEADS, widths[1])
    rounded = lambda x: jnp.asarray(x, jnp.bfloat16)
    operands = {name: rounded(rng.normal(size=(1, *shape))) for name, shape in zip("qkv", sizes, strict=True)}
    operands |= {"k": jnp.repeat(operands["k"][:, ::2], 2, axis=1)} if twins else {}
    dims, structure = Dims(1, length, keys, HEADS, KV_HEADS, *widths), structure | {"is_causal": is_causal}
    of_tokens = {name: (1, keys, HEADS, *x.shape) for name, x in kernel.token_inputs(dims).items()}
    tokens = {name: rounded(make(rng, of_tokens[name])) for name, make in (brought or {}).items()}
    learned = kernel.init(jax.random.key(0), dims) or {}
    operands = operands | tokens | {f"learned {name}": x for name, x in learned.items()}
    d_out = rounded(rng.normal(size=(1, length, HEADS, widths[1])))
    array = lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x

    def call(given):
        beside = {"tokens": {name: given[name] for name in tokens}} if tokens else {}
        beside |= {"params": {name: given[f"learned {name}"] for name in learned}} if learned else {}
        q, k, v = (given[name] for name in "qkv")
        given = jax.tree.map(array, structure) | beside
        return attend(q, k, v, kernel=kernel, implementation="pallas", **given)

    with interpreted(quantum=64, largest=64, grain=64, platform="cuda"):
        out, pull = jax.vjp(call, operands)
        (grads,) = pull(d_out)
    assert not has_races()
    exact = {name: np.asarray(x, np.float64) for name, x in operands.items()}
    expected = _expected(kernel, exact, tokens, structure)
    assert_close(out, expected, "out")
    for name, x in exact.items():
        # What a step along a direction changes; decays stay negative, and steps positive.
        direction, step = rng.normal(size=x.shape) * (np.abs(x) if name in tokens else 1), 1e-4
        ends = [_expected(kernel, exact | {name: x + sign * step * direction}, tokens, structure) for sign in (1, -1)]
        slope = ((ends[0] - ends[1]) * np.asarray(d_out, np.float64)).sum() / (2 * step)
        grad = np.asarray(grads[name], np.float64)
        assert np.isfinite(grad).all()
        most = TOLERANCE * np.linalg.norm(grad) * np.linalg.norm(direction) / np.sqrt(grad.size)
        np.testing.assert_allclose((grad * direction).sum(), slope, rtol=0, atol=3 * most, err_msg=name)


def check_in_parts(kernel, **how):
    """Of a sequence, which are blocks of threads of their own, and some of which are shorter."""
    with mock.patch.multiple(passes, SHORTEST=1, BLOCKS=4):
        check(kernel, **how)


def _expected(kernel, exact, tokens, structure):
    """Output [1, T, N, Hv] of the oracle."""
    lengths = exact["q"].shape[1], exact["k"].shape[1]
    visible = visibility(1, HEADS, *lengths, **structure)
    dims = Dims(1, *lengths, HEADS, KV_HEADS, exact["q"].shape[3], exact["v"].shape[3])
    draws = jax.tree.leaves(kernel.draw(jax.random.key(0), dims))
    heads = [
        oracles.One(
            *(exact["q"][0, :, n], exact["k"][0, :, 0], exact["v"][0, :, 0], visible[0, n]),
            params={name.removeprefix("learned "): x[n] for name, x in exact.items() if name.startswith("learned")},
            draws=np.asarray(draws[0][n], np.float64) if draws else (),
            is_causal=structure["is_causal"],
            offset=structure.get("query_offset", 0),
            tokens={name: exact[name][0, :, n] for name in tokens},
        )
        for n in range(HEADS)
    ]
    return np.stack([oracle_of(kernel)(kernel, one) for one in heads], axis=1)[None]


def slow_decays(rng, shape):
    return -np.exp(rng.normal(size=shape) - 2)


def steps(rng, shape):
    return rng.uniform(size=shape)


def long_steps(rng, shape):
    return 2 * steps(rng, shape)


STATE_SPACE = {"log_decay": slow_decays, "beta": steps}
SEGMENTS = np.repeat([[3, 1, 7]], 50, axis=1)


CASES = {
    "segments of counted values": {
        "kernel": Linear(),
        "query_segment_ids": SEGMENTS,
        "key_value_segment_ids": SEGMENTS,
    },
    "padding": {"kernel": Linear("relu"), "key_value_seq_lengths": np.array([140])},
    "a decay for each head": {"kernel": Retention(), "widths": (40, 100)},
    "rows as they are, and decays without gradients": {"kernel": Retention(), "length": 100},
    "decays of tokens": {"kernel": StateSpace(), "brought": STATE_SPACE},
    "segments of tokens that decay": {
        "kernel": StateSpace(),
        "brought": STATE_SPACE,
        "query_segment_ids": SEGMENTS,
        "key_value_segment_ids": SEGMENTS,
    },
    "two groups of channels": {"kernel": CosFormer(max_length=200)},
    "features that a kernel does not make": {"kernel": Based(), "widths": (12, 100)},
    "pairs of channels beside padding": {
        "kernel": Based(),
        "length": 100,
        "widths": (16, 64),
        "key_value_seq_lengths": np.array([90]),
    },
    "pairs of channels in segments": {
        "kernel": Based(),
        "widths": (16, 64),
        "query_segment_ids": SEGMENTS,
        "key_value_segment_ids": SEGMENTS,
    },
    "pairs of few channels": {"kernel": Based(), "widths": (8, 64)},
    "pairs of many channels, which blocks of threads share, beside padding": {
        "kernel": Based(),
        "length": 100,
        "widths": (24, 64),
        "key_value_seq_lengths": np.array([90]),
    },
    "pairs of many channels of later queries, whose keys are as many": {
        "kernel": Based(),
        "length": 70,
        "keys": 140,
        "widths": (24, 64),
        "query_offset": 70,
    },
    "pairs of many channels in segments": {
        "kernel": Based(),
        "widths": (24, 64),
        "query_segment_ids": SEGMENTS,
        "key_value_segment_ids": SEGMENTS,
    },
    "decays by channel": {"kernel": GatedLinear(), "widths": (40, 100), "brought": {"log_decay": slow_decays}},
    "segments of channels that decay by themselves": {
        "kernel": GatedLinear(),
        "brought": {"log_decay": slow_decays},
        "query_segment_ids": SEGMENTS,
        "key_value_segment_ids": SEGMENTS,
    },
    "channels that decay by themselves beside padding": {
        "kernel": GatedLinear(),
        "brought": {"log_decay": slow_decays},
        "key_value_seq_lengths": np.array([140]),
    },
    "the delta rule by channel": {
        "kernel": KimiDelta(max_beta=2),
        "brought": {"beta": long_steps, "log_decay": slow_decays},
    },
    "the delta rule by channel of wide values": {
        "kernel": KimiDelta(),
        "length": 100,
        "widths": (40, 128),
        "brought": {"beta": steps, "log_decay": slow_decays},
    },
    "the delta rule by channel in segments": {
        "kernel": KimiDelta(),
        "brought": {"beta": steps, "log_decay": slow_decays},
        "query_segment_ids": SEGMENTS,
        "key_value_segment_ids": SEGMENTS,
    },
    "keys with gains beside padding": {
        "kernel": Performer(128),
        "length": 103,
        "key_value_seq_lengths": np.array([90]),
    },
    "many keys with gains": {"kernel": Performer(), "length": 256},
    "the delta rule": {"kernel": Delta(), "brought": {"beta": steps}},
    "the gated delta rule of wide values": {
        "kernel": GatedDelta(max_beta=2),
        "length": 100,
        "widths": (40, 128),
        "brought": {"beta": long_steps, "log_decay": slow_decays},
    },
    "the delta rule of wide keys": {"kernel": Delta(), "length": 100, "widths": (128, 64), "brought": {"beta": steps}},
    "the gated delta rule in segments": {
        "kernel": GatedDelta(),
        "brought": STATE_SPACE,
        "query_segment_ids": SEGMENTS,
        "key_value_segment_ids": SEGMENTS,
    },
    "the delta rule beside padding": {
        "kernel": Delta(),
        "brought": {"beta": steps},
        "key_value_seq_lengths": np.array([140]),
    },
}

# Queries that all see the same keys.
CASES |= {
    name: case | {"is_causal": False}
    for name, case in {
        "all keys": {"kernel": Linear("relu"), "length": 128},
        "other keys, some of which are hidden, at an offset": {
            "kernel": CosFormer(max_length=300),
            "length": 70,
            "keys": 140,
            "key_value_seq_lengths": np.array([135]),
            "query_offset": 3,
        },
        "many queries of few keys": {"kernel": Linear(), "length": 200, "keys": 5},
        "landmarks, of which those of keys are averages beside": {"kernel": Nystrom(landmarks=2), "length": 256},
        "keys and values that are projected by head": {"kernel": Linformer(), "length": 70, "keys": 130},
        "all keys of wide heads": {"kernel": Linear(), "widths": (128, 128)},
        "other keys by pairs of channels": {
            "kernel": Based(),
            "length": 70,
            "keys": 140,
            "widths": (16, 64),
            "key_value_seq_lengths": np.array([135]),
        },
        "other keys by pairs of many channels, which blocks of threads share": {
            "kernel": Based(),
            "length": 70,
            "keys": 140,
            "widths": (24, 64),
            "key_value_seq_lengths": np.array([135]),
        },
        "other keys with gains, each of which two have": {
            "kernel": Performer(128),
            "length": 70,
            "keys": 140,
            "twins": True,
            "key_value_seq_lengths": np.array([135]),
        },
        "all keys with many gains": {"kernel": Performer(), "length": 256},
        "all keys by features that a kernel does not make": {"kernel": Based(), "widths": (12, 100)},
        "all keys of segments": {
            "kernel": Linear(),
            "query_segment_ids": SEGMENTS,
            "key_value_segment_ids": SEGMENTS,
        },
    }.items()
}

# Features, outputs and gradients that kernels make of rows and of what stands beside them.
QUICK = [
    "rows as they are, and decays without gradients",
    "two groups of channels",
    "other keys, some of which are hidden, at an offset",
    "keys with gains beside padding",
]


@pytest.mark.parametrize("name", few(CASES, QUICK))
def test_outputs_and_gradients(ask, name):
    ask(check if CASES[name].get("is_causal", True) else check_in_parts, **CASES[name])


def check_states():
    """What one half of a sequence leaves is what the other one finds."""
    rng, length = np.random.default_rng(0), 128
    q, k, v = (jnp.asarray(rng.normal(size=(1, length, n, 64)), jnp.bfloat16) for n in (HEADS, KV_HEADS, KV_HEADS))

    def halving(constants):
        write = lambda k, v, at: Write((v,), (Channels(k, log_decay=jnp.log(jnp.full(len(k), 0.5))),))
        return recurrence.Rule(lambda q, at: (q,), write)

    @jax.jit
    def call(given, found):
        mask = Mask(length // 2, length // 2, is_causal=True)
        with asking(way(), "a test"):
            return recurrence.attend(halving, (), *given, Call(mask), found, leaves_state=True)

    with interpreted(quantum=64, largest=64, grain=64, platform="cuda"):
        first, left = call([x[:, :64] for x in (q, k, v)], None)
        second, [sums] = call([x[:, 64:] for x in (q, k, v)], left)
    assert not has_races()
    out = jnp.concatenate([first, second], axis=1)
    exact = [np.asarray(x, np.float64)[0] for x in (q, k, v)]
    state, zero = np.zeros((64, 64)), np.zeros
    for n in range(HEADS):
        half, nothing = np.full(length, np.log(0.5)), (zero((length, 64)), zero(length), zero((64, 64)))
        found = of_head(exact[0][:, n], exact[1][:, 0], exact[2][:, 0], zero(length), half, state, *nothing)
        assert_close(out[0, :, n], found["out"], "out")
        assert_close(sums.totals[0][0, 0], found["left"], "left")


def test_states_are_found_and_left(ask):
    ask(check_states)


def check_halves(kernel, width, growth):
    """What one half of a sequence leaves is what the other one finds, of keys that grow, and gradients through it."""
    rng, length = np.random.default_rng(0), 256
    growing = np.linspace(0.3, growth, length)[:, None, None]
    widths = (width, 1), (width, growing), (64, 1), (64, 1)
    q, k, v, d_out = (jnp.asarray(rng.normal(size=(1, length, HEADS, w)) * x, jnp.bfloat16) for w, x in widths)
    draws = kernel.draw(jax.random.key(0), Dims(1, length, length, HEADS, HEADS, width, 64))
    rule_of = lambda constants: kernel.rule((), constants, None)

    @functools.partial(jax.jit, static_argnums=2)
    def half(given, found, implementation):
        call = Call(Mask(length // 2, length // 2, is_causal=True))
        with asking(way(), "a test") if implementation == "pallas" else contextlib.nullcontext():
            return recurrence.attend(rule_of, draws, *given, call, found, leaves_state=True)

    def both(implementation, *given):
        first, left = half([x[:, : length // 2] for x in given], None, implementation)
        second, left = half([x[:, length // 2 :] for x in given], left, implementation)
        # What is pulled at sums, which stand for themselves times e^top.
        whole = lambda x: x.totals[0] if x.top is None else jnp.exp(x.top)[..., None, None] * x.totals[0]
        return jnp.concatenate([first, second], axis=1), tuple(map(whole, left))

    with interpreted(quantum=64, largest=64, grain=64, platform="cuda"):
        found, pull = jax.vjp(functools.partial(both, "pallas"), q, k, v)
        assert not has_races()
        pulled = jax.tree.map(
            lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape) / jnp.abs(x).max(), x.dtype), found[1]
        )
        grads = pull((d_out, pulled))
    assert not has_races()
    precise = [x.astype(jnp.float32) for x in (q, k, v)]
    expected, pull = jax.vjp(functools.partial(both, "xla"), *precise)
    expected = [*jax.tree.leaves(expected), *pull((d_out.astype(jnp.float32), pulled))]
    for x, like in zip([*jax.tree.leaves(found), *grads], expected, strict=True):
        assert_close(x, np.asarray(like, np.float64), "halves", 2 * TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "width", "growth"), [(Performer(64), 64, 2), (Based(), 16, 1), (Based(), 24, 1)])
def test_features_by_blocks_are_found_and_left(ask, kernel, width, growth):
    ask(check_halves, kernel, width, growth)


FINISHED = {
    "what may be divided by any count": (lambda read: 2 * read[0] / read[1][:, None], True),
    "what does not tell what was read and goes by features": (lambda read: jnp.square(normalised(read)), False),
}


def check_powers(name):
    """Outputs that a rule finishes otherwise, and their gradients, against XLA's; the last chunk is not full."""
    rng, length, widths = np.random.default_rng(0), 100, ((HEADS, 24), (KV_HEADS, 24), (KV_HEADS, 64), (HEADS, 64))
    q, k, v, d_out = (jnp.asarray(rng.normal(size=(1, length, *shape)), jnp.bfloat16) for shape in widths)
    finish, is_factor = FINISHED[name]
    ruled = lambda constants: Based().rule((), constants, None)._replace(finish=finish)

    @functools.partial(jax.jit, static_argnums=0)
    def call(implementation, *given):
        call = Call(Mask(length, length, is_causal=True))
        with asking(way(), "a test") if implementation == "pallas" else contextlib.nullcontext():
            return recurrence.attend(ruled, (), *given, call)

    told = mock.patch.object(powers_back, "outputs", wraps=powers_back.outputs)
    with told as by_powers, interpreted(quantum=64, largest=64, grain=64, platform="cuda"):
        out, pull = jax.vjp(functools.partial(call, "pallas"), q, k, v)
        grads = pull(d_out)
    assert not has_races() and by_powers.called == is_factor
    expected, pull = jax.vjp(functools.partial(call, "xla"), *(x.astype(jnp.float32) for x in (q, k, v)))
    for x, like in zip((out, *grads), (expected, *pull(d_out.astype(jnp.float32))), strict=True):
        assert_close(x, np.asarray(like, np.float64), "powers", 2 * TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", FINISHED)
def test_powers_of_products_are_finished(ask, name):
    ask(check_powers, name)


DECLINED = {
    "float32: it takes bfloat16": {"kernel": Linear(), "dtype": jnp.float32},
    "192 channels of a head: it takes up to 128": {"kernel": Delta(), "tokens": {"beta": ()}, "width": 192},
    "128 channels of a head with decays of their own: it takes up to 64": {
        "kernel": GatedLinear(),
        "tokens": {"log_decay": (128,)},
        "width": 128,
    },
    "100 channels of keys with gains: it takes multiples of 64 up to 256": {"kernel": Performer(100)},
    "keys of 128 and values of 128 beside gains: it takes 64": {"kernel": Performer(), "width": 128},
    "segments, or queries of whose positions the program learns, beside gains": {
        "kernel": Performer(),
        "query_segment_ids": np.zeros((1, 8), int),
        "key_value_segment_ids": np.zeros((1, 8), int),
    },
    "channels in groups": {
        "kernel": LogLinear(levels=3),
        "tokens": {"log_decay": (), "beta": (), "log_level": (3,)},
    },
}


@pytest.mark.parametrize("reason", DECLINED)
def test_reasons(reason):
    given = DECLINED[reason]
    operand = lambda *shape: jnp.ones((1, 8, 1, *shape), given.get("dtype", jnp.bfloat16))
    tokens = {name: operand(*shape) for name, shape in given.get("tokens", {}).items()}
    beside = {"tokens": tokens} if tokens else {}
    beside |= {name: x for name, x in given.items() if name.endswith("segment_ids")}
    call = functools.partial(attend, kernel=given["kernel"], is_causal=True, implementation="pallas", **beside)
    with interpreted(platform="cuda"), pytest.raises(NotImplementedError, match=reason):
        call(*[operand(given.get("width", 64))] * 3)


@pytest.mark.parametrize("is_causal", [True, False])
def test_many_features_that_a_kernel_does_not_make_are_refused(is_causal):
    """Such as by a scale that the program learns."""
    narrow, values = (jax.ShapeDtypeStruct((1, 64, 1, width), jnp.bfloat16) for width in (16, 64))

    def call(q, v, scale):
        return attend(q, q, v, kernel=Based(), is_causal=is_causal, scale=scale, implementation="pallas")

    with interpreted(platform="cuda"), pytest.raises(NotImplementedError, match="153 channels: a kernel of a Hopper"):
        jax.eval_shape(call, narrow, values, jax.ShapeDtypeStruct((), jnp.float32))


@pytest.mark.parametrize(
    ("kernel", "is_causal"),
    [
        *((kernel, True) for kernel in (Linear(), Softmax(), Delta(), KimiDelta(), Performer(64), Based())),
        *((kernel, False) for kernel in (Linear(), Performer(64))),
    ],
)
def test_each_device_of_a_mesh_has_kernels_of_its_part(kernel, is_causal):
    """Without its compiler, in a process that knows numbers of 64 bits; no chunk divides the length."""
    mesh = jax.sharding.AbstractMesh((2, 2), ("a", "b"), (jax.sharding.AxisType.Explicit,) * 2)
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a", None, "b"))
    given = [jax.ShapeDtypeStruct((2, 100, 2, 64), jnp.bfloat16, sharding=split)] * 3
    brought = kernel.token_inputs(Dims(2, 100, 100, 2, 2, 64, 64)).items()
    tokens = {
        name: jax.ShapeDtypeStruct((2, 100, 2, *x.shape), jnp.bfloat16, sharding=split) for name, x in brought
    } or None
    call = functools.partial(attend, kernel=kernel, is_causal=is_causal, implementation="pallas")
    slopes = jax.jit(
        jax.value_and_grad(lambda *x, tokens: call(*x, tokens=tokens).astype(jnp.float32).sum(), (0, 1, 2))
    )
    with jax.enable_x64(True), jax.sharding.use_abstract_mesh(mesh):
        program = slopes.trace(*given, tokens=tokens).lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("mosaic_gpu_v2") >= 3
