"""What `test_meshes` asks of a process that has eight devices, all of them this machine's processor."""

import contextlib
import dataclasses
import functools
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import attnzoo.linen
import attnzoo.nnx
from attnzoo import (
    ALiBi,
    Dims,
    GatedDelta,
    LearnedPositions,
    Rotary,
    Shaw,
    SlidingWindow,
    Softmax,
    T5Buckets,
    attend,
    attention_weights,
    start,
    step,
)
from attnzoo.costs import traffic
from attnzoo.engines import heads, recurrence, streaming
from attnzoo.models import (
    BlockConfig,
    Classifier,
    EncoderDecoder,
    LanguageModel,
    RecurrentEncoderDecoder,
    RecurrentLanguageModel,
    generate,
    partition,
)
from attnzoo.models.recurrent import Pairs
from attnzoo.testing import laws
from attnzoo.testing.subject import Subject, brought
from experiments.bench.brought import normal
from experiments.bench.program import Program
from experiments.bench.settings import parsed
from experiments.scaling import sends
from experiments.train import checkpoints
from experiments.train.sweep import models as trained_models
from experiments.train.sweep.cells import cells
from experiments.train.sweep.settings import Settings

DEVICES = 8
BATCH, LENGTH, HEADS, DIM = 4, 24, 4, 8
SENT = re.compile(r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")
WIDTHS = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1}


@functools.cache
def mesh(kind):
    return jax.make_mesh((2, 2, 2), ("data", "model", "spare"), (getattr(AxisType, kind),) * 3)


def put(x, *names, kind="Explicit"):
    return jax.device_put(x, NamedSharding(mesh(kind), P(*names)))


def same(found, expected, tolerance=2e-5):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * max(1, np.abs(np.asarray(y, np.float64)).max(initial=0)))


def curved_sum(out):
    """A number with other gradients by each output, and not by chance near 0, where it would be rounding."""
    return jnp.sin(3 * out + 0.5).sum()


@contextlib.contextmanager
def small_is(numbers):
    """What all heads hold is small up to so many numbers; 0 asks for loops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "SMALL", numbers)
        yield


def in_chunks_of_four(at_once, question, *args):
    """A question of recurrences, whose chunks meet their states all at once, or one after another."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("chunk", 4), ("at_once", at_once)):
            patch.setitem(recurrence.attend.__kwdefaults__, name, value)
        jax.clear_caches()
        question(*args)
    jax.clear_caches()


def operands(kv_heads):
    rng = np.random.default_rng(0)
    sizes = (HEADS, kv_heads, kv_heads)
    return [jnp.asarray(rng.normal(size=(BATCH, LENGTH, n, DIM)), jnp.float32) for n in sizes]


def learned(kernel, kv_heads):
    dims = Dims(BATCH, LENGTH, LENGTH, HEADS, kv_heads, DIM, DIM)
    return jax.tree.map(lambda x: x + 0.1, kernel.init(jax.random.key(3), dims))


def tokens_of(kernel, batch, length, num_heads, dim=DIM):
    """What tokens bring to each head, by name."""
    dims = Dims(batch, length, length, num_heads, num_heads, dim, dim)
    return normal(kernel, dims, (batch, length, num_heads), jax.random.key(6), jnp.float32)


def pulled(kernel, **asked):
    """Output and gradients of a kernel, as a function of operands, parameters and a bias."""

    def call(q, k, v, params, bias):
        given = {} if bias is None else {"bias": bias}
        given |= brought(kernel, (q, k, v))
        return curved_sum(attend(q, k, v, kernel=kernel, params=params, **given, **asked))

    return jax.jit(jax.value_and_grad(call, (0, 1, 2, 3, 4)))


def with_all_that_it_supports(kernel, kv_heads):
    """Types tell that batch and heads are split: the same numbers, under whatever is asked, dropout included."""
    q, k, v = operands(kv_heads)
    two = [x[:2] for x in (q, k, v)]
    asked = laws._arguments(Subject("meshes", kernel), laws.Operands(*two))
    bias = asked.pop("bias", None)
    call, params = pulled(kernel, **asked), learned(kernel, kv_heads)
    of_keys = "model" if kv_heads % 2 == 0 else None
    placed = [put(x, "data", None, names) for x, names in zip(two, ("model", of_keys, of_keys), strict=True)]
    expected = call(*two, params, bias)
    with jax.set_mesh(mesh("Explicit")):
        found = call(*placed, params, bias)
        out = attend(*placed, kernel=kernel, params=params, **asked, **brought(kernel, placed))
    same(found, expected)
    assert jax.typeof(out).sharding.spec[:3] == ("data", None, "model")


def without_a_word_between_devices(kernel, kind):
    """No device sends what is as large as its part of the queries, in loops over heads or all at once."""
    arrays, params = operands(2), learned(kernel, 2)
    placed = [put(x, "data", None, "model", kind=kind) for x in arrays]
    asked = {"is_causal": not kernel.supports.bidirectional or kernel.supports.causal}
    loss = lambda *x: curved_sum(attend(*x, kernel=kernel, params=params, **asked, **brought(kernel, x)))
    call = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    with small_is(0):
        program = call.lower(*placed).compile()
    same(program(*placed), call(*arrays))
    sent = [size_of(shape) for shape in SENT.findall(program.as_text())]
    assert max(sent, default=0) < arrays[0].nbytes / 4, sent


def temporary_memory(kernel):
    """With gradients a device needs less than a third of what one alone does: its share, and the tile at hand."""
    over = jax.make_mesh((4, 2), ("data", "model"))
    both = jax.jit(jax.grad(lambda *x: curved_sum(attend(*x, kernel=kernel, is_causal=True)), (0, 1, 2)))
    needed = []
    for split in (None, NamedSharding(over, P("data", None, "model"))):
        x = jax.ShapeDtypeStruct((64, 1024, 4, 32), jnp.float32, sharding=split)
        needed.append(both.lower(x, x, x).compile().memory_analysis().temp_size_in_bytes)
    assert needed[1] < needed[0] / 3, needed


def keys_that_devices_share(kernel, kv_heads):
    """Of keys with fewer heads than devices, gradients are added up, as large as the heads that these share."""
    arrays, heads = operands(kv_heads), ("model", "spare")
    placed = [put(arrays[0], "data", None, heads), *(put(x, "data", None, heads[: kv_heads - 1]) for x in arrays[1:])]
    call = jax.jit(jax.value_and_grad(lambda *x: curved_sum(attend(*x, kernel=kernel)), (0, 1, 2)))
    program = call.lower(*placed).compile()
    same(program(*placed), call(*arrays))
    part = arrays[1].nbytes / 2 / kv_heads
    devices = DEVICES / 2 / kv_heads
    assert traffic.total(traffic.sent(program)) <= 2 * part * 2 * (devices - 1) / devices + 16  # and the sum of a loss


def key_heads_that_devices_do_not_divide():
    """Three of them beside six heads over two devices: both look at the one in the middle."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(BATCH, LENGTH, heads, DIM)), jnp.float32) for heads in (6, 3, 3)]
    placed = [put(arrays[0], None, None, "model"), *(put(x) for x in arrays[1:])]
    call = jax.jit(jax.value_and_grad(lambda *x: curved_sum(attend(*x, is_causal=True)), (0, 1, 2)))
    same(call(*placed), call(*arrays))


def size_of(shapes):
    """Bytes of all arrays in the text of a type."""
    found = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    return sum(WIDTHS[kind] * math.prod(map(int, filter(None, sizes.split(",")))) for kind, sizes in found)


def in_a_shard_map_of_the_caller(kernel, small):
    """With its checks: gradients of what all devices share are summed."""
    (q, k, v), params = operands(2), learned(kernel, 2)
    bias = np.random.default_rng(1).normal(size=(1, HEADS, LENGTH, LENGTH)) if kernel.supports.bias else None
    call = pulled(kernel, is_causal=not kernel.supports.bidirectional or kernel.supports.causal)
    expected = call(q, k, v, params, bias)
    split = P("data"), P("data"), P("data")

    def here(*given):
        value, grads = call(*given)
        return jax.lax.psum(value, "data"), grads

    with small_is(small):
        mapped = jax.shard_map(
            here, mesh=mesh("Auto"), in_specs=(*split, P(), P()), out_specs=(P(), (*split, P(), P()))
        )
        same(jax.jit(mapped)(q, k, v, params, bias), expected)


def _asked_of_a_sequence(length):
    """What may be asked of attention over a sequence of this length, by name."""
    rng = np.random.default_rng(2)
    tokens = np.array([[3, length // 2, -1], [length - 1, 0, 5]])
    pairs = rng.normal(size=(1, HEADS, length, length)).astype(np.float32)
    dims = Dims(2, length, length, HEADS, 2, DIM, DIM)
    learned = lambda positions: jax.tree.map(lambda x: x + 0.1, positions.init(jax.random.key(1), dims))
    random_ids, ids = rng.integers(0, 3, (2, length)), np.sort(rng.integers(0, 3, (2, length)), axis=1)
    begin = [[length // 4, length // 2 + 1], [length // 2, length // 2 + 1]]  # some where a device's part does
    documents = np.stack([np.array([2, 0, 1])[np.searchsorted(x, np.arange(length), "right")] for x in begin])
    dropped = {"dropout_rate": 0.3, "rng": jax.random.key(1)}
    sinks = {"sinks": np.linspace(-1, 1, HEADS, dtype=np.float32)}
    segments = lambda ids: {"query_segment_ids": ids, "key_value_segment_ids": ids}
    lengths = {"key_value_seq_lengths": np.array([length, 3]), "query_seq_lengths": np.array([length, 3])}
    return {
        "nothing": {},
        "the past": {"is_causal": True},
        "packed documents": {"is_causal": True, **segments(ids), **dropped},
        "segments in any order": segments(random_ids),
        "segments in any order and the past": {"is_causal": True, **segments(random_ids)},
        "padding of whole parts": {"is_causal": True, **lengths},
        "a rule of biases": {"is_causal": True, "bias": T5Buckets().bias(learned(T5Buckets()), HEADS), **dropped},
        "a rule that looks at queries": {"is_causal": True, "bias": Shaw().bias(learned(Shaw()), HEADS)},
        "arrays": {"is_causal": True, "bias": pairs, "mask": np.random.default_rng(3).random(pairs.shape) < 0.6},
        "columns of biases": {"bias": pairs[:, :, :1], "mask": pairs[:, :1, :, :1] < 1},
        "documents": segments(documents),
        "documents and the past": {"is_causal": True, **segments(documents)},
        "an offset": {"is_causal": True, "query_offset": 3},
        "an offset for each example": {"is_causal": True, "query_offset": np.array([-2, 4])},
        "a window": {
            "local_window_size": (3, 2), "bias": ALiBi().bias((), HEADS), "soft_cap": 2.0, "scale": 0.7, **sinks,
        },
        "global tokens": {"is_causal": True, "global_tokens": tokens, **dropped},
        "global tokens in both directions": {
            "global_tokens": tokens, "bias": pairs, **segments(ids),
        },
        "functions": {
            "mask_mod": lambda h, i, j: (i - j) % (2 + h) != 1,
            "score_mod": lambda s, h, i, j: s - 0.1 * h * abs(i - j),
        },
        "a residual": {"is_causal": True, "return_residual": True, **sinks},
    }  # fmt: skip


ASKED_OF_A_SEQUENCE = tuple(_asked_of_a_sequence(8))


@functools.cache
def row_of_devices(kind, count):
    return jax.make_mesh((count,), ("sequence",), (getattr(AxisType, kind),), devices=jax.devices()[:count])


def of_a_split_sequence(kernel, name, count, length, kind="Explicit", kv_heads=2):
    """Values and all gradients are those of one device, where types tell of the split, or an argument."""
    asked = _asked_of_a_sequence(length)[name]
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, length, n, DIM)), jnp.float32) for n in (HEADS, kv_heads, kv_heads))
    params = jax.tree.map(
        lambda x: x + 0.1, kernel.init(jax.random.key(3), Dims(2, length, length, HEADS, kv_heads, DIM, DIM))
    )
    bias, row, tokens = asked.pop("bias", None), row_of_devices(kind, count), tokens_of(kernel, 2, length, kv_heads)

    def call(sequences, params, bias, **how):
        (q, k, v, tokens), given = sequences, {} if bias is None else {"bias": bias}
        out = attend(q, k, v, kernel=kernel, params=params, tokens=tokens or None, **given, **asked, **how)
        out = jax.tree.map(lambda x: jnp.where(jnp.isinf(x), 0, x), out)
        return sum(map(curved_sum, jax.tree.leaves(out))), out

    def pulled(**how):
        """What comes out and all gradients; the sum of many terms that is differentiated has their order in it."""
        given = functools.partial(call, **how)
        (_, out), grads = jax.jit(jax.value_and_grad(given, (0, 1, 2), has_aux=True))(sequences, params, bias)
        return out, grads

    sequences = q, k, v, tokens
    expected = pulled()
    how = {"sequence_axis": "sequence"}
    if kind == "Explicit":
        how, sequences = {}, jax.device_put(sequences, NamedSharding(row, P(None, "sequence")))
    with jax.set_mesh(row):
        found = pulled(**how)
    same(found, expected, 5e-5)


OF_A_PART = ("mask", "query_segment_ids", "key_mask", "key_value_segment_ids")


def in_a_shard_map_over_the_sequence(kernel):
    """Of whose parts the caller has one on each device: arrays are theirs, numbers count in the whole."""
    q, k, v = (x[:2] for x in operands(2))
    params, row = learned(kernel, 2), row_of_devices("Auto", 4)
    asked = laws._arguments(Subject("meshes", kernel), laws.Operands(q, k, v))
    bias = asked.pop("bias", None)
    expected = pulled(kernel, **asked)(q, k, v, params, bias)
    sequence, rows = P(None, "sequence"), P(None, None, "sequence")
    specs = {name: rows if name == "mask" else sequence for name in OF_A_PART if name in asked}
    arrays = {name: jnp.asarray(asked.pop(name)) for name in specs}
    of_bias = None if bias is None else rows if bias.shape[2] > 1 else P()

    def here(q, k, v, params, bias, arrays):
        given = {} if bias is None else {"bias": bias}
        given |= {"sequence_axis": "sequence"} | brought(kernel, (q, k, v))
        out = attend(q, k, v, kernel=kernel, params=params, **given, **asked, **arrays)
        return jax.lax.psum(curved_sum(out), "sequence")

    mapped = jax.shard_map(here, mesh=row, in_specs=(sequence, sequence, sequence, P(), of_bias, specs), out_specs=P())
    found = jax.jit(jax.value_and_grad(mapped, (0, 1, 2, 3, 4)))(q, k, v, params, bias, arrays)
    same(found, expected)


def parts_sent(kernel, is_causal, most, kinds, **asked):
    """Each of 8 devices sends at most so many times its part of the queries, in messages of these kinds alone; where
    data decide, in the way that sends less.
    """
    row, shape = row_of_devices("Explicit", DEVICES), (1, 512, 8, 16)
    given = jnp.ones(shape), tokens_of(kernel, 1, 512, 8, 16)
    x, tokens = jax.device_put(given, NamedSharding(row, P(None, "sequence")))
    params = kernel.init(jax.random.key(0), Dims(1, 512, 512, 8, 8, 16, 16))
    asked |= {"kernel": kernel, "params": params, "is_causal": is_causal}
    with jax.set_mesh(row):
        call = lambda x, tokens: attend(x, x, x, tokens=tokens or None, **asked)
        messages = traffic.sent(jax.jit(call).lower(x, tokens).compile(), min)
    parts = traffic.total(messages) / (x.nbytes / DEVICES)
    assert parts <= most * 1.01, (parts, messages)
    assert bool(messages) == bool(kinds) and set(messages) <= set(kinds), messages


def documents_sent(kernel, is_causal, most):
    """The same of packed documents, each a run of tokens: as without them, and ids to all."""
    ids = np.arange(512)[None] // 100
    kinds = ["collective-permute", "all-gather", "all-reduce"]
    parts_sent(kernel, is_causal, most, kinds, query_segment_ids=ids, key_value_segment_ids=ids)


def window_over_more_keys(kernel, most):
    """Of fewer queries, which stand at the end: keys are fetched from neighbours, whose distance differs by device."""
    rng, asked = np.random.default_rng(0), {"is_causal": True, "query_offset": 8}
    arrays = [jnp.asarray(rng.normal(size=(2, n, 2, DIM)), jnp.float32) for n in (LENGTH - 8, LENGTH, LENGTH)]
    bias = jnp.asarray(rng.normal(size=(1, 2, LENGTH - 8, LENGTH)), jnp.float32)

    def call(q, k, v, bias):
        return curved_sum(attend(q, k, v, bias, kernel=kernel, dropout_rate=0.3, rng=jax.random.key(1), **asked))

    both = jax.jit(jax.value_and_grad(call, (0, 1, 2, 3)))
    row = row_of_devices("Explicit", 8)
    placed = [jax.device_put(x, NamedSharding(row, P(None, "sequence"))) for x in arrays]
    with jax.set_mesh(row):
        same(both(*placed, bias), both(*arrays, bias))
        messages = traffic.sent(jax.jit(call).lower(*placed, bias).compile())
    sent = messages.pop("collective-permute")[1]
    assert set(messages) <= {"all-reduce"} and sent <= most * arrays[1].nbytes / 8 + 100, (sent, messages)  # a loss


def keys_of_few_heads_sent(kernel, most):
    """Each of 8 devices sends so many times its part of the keys, of which there are fewer heads than of queries."""
    row = row_of_devices("Explicit", DEVICES)
    q, k = (jax.device_put(jnp.ones((1, 512, n, 16)), NamedSharding(row, P(None, "sequence"))) for n in (8, 2))
    params = kernel.init(jax.random.key(0), Dims(1, 512, 512, 8, 2, 16, 16))
    with jax.set_mesh(row):
        call = jax.jit(lambda q, k: attend(q, k, k, kernel=kernel, params=params))
        assert traffic.total(traffic.sent(call.lower(q, k).compile())) <= most * k.nbytes / DEVICES


def visits_of_a_ring(asked, expected):
    """How often one of 8 devices meets the keys of another: where some of its queries may see some of these."""
    row, visits = row_of_devices("Explicit", DEVICES), []
    arrays = [jax.device_put(x, NamedSharding(row, P(None, "sequence"))) for x in operands(2)]
    found = streaming.Pass._found

    def counted(*args, **given):
        jax.debug.callback(lambda: visits.append(1))
        return found(*args, **given)

    static = {name: asked[name] for name in asked if name in ("is_causal", "local_window_size")}
    traced = {name: asked[name] for name in asked if name not in static}
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(row):
        patch.setattr(streaming.Pass, "_found", counted)
        jax.clear_caches()
        out = jax.jit(lambda traced, *x: attend(*x, **static, **traced))(traced, *arrays)
        jax.effects_barrier()
    jax.clear_caches()
    same(out, attend(*operands(2), **asked))
    assert len(visits) == expected, len(visits)


def keys_in_parts(kernel, name, length, most, kinds):
    """Queries that all devices have, beside keys that they have parts of: each sends so many numbers a head."""
    asked = _asked_of_keys(length)[name]
    q, k, v = (x[:2] for x in operands(2))
    q, params, bias = q[:, :length], learned(kernel, 2), asked.pop("bias", None)
    row, of_each = row_of_devices("Explicit", 4), lambda out: sum(map(curved_sum, jax.tree.leaves(out)))

    def call(q, k, v, params, bias):
        given = {} if bias is None else {"bias": bias}
        return of_each(attend(q, k, v, kernel=kernel, params=params, **given, **asked))

    both = jax.jit(jax.value_and_grad(call, (0, 1, 2, 3, 4)))
    expected = both(q, k, v, params, bias)
    split = [jax.device_put(x, NamedSharding(row, P(None, "sequence"))) for x in (k, v)]
    with jax.set_mesh(row):
        same(both(q, *split, params, bias), expected)
        messages = traffic.sent(jax.jit(call).lower(q, *split, params, bias).compile())
    assert set(messages) <= set(kinds)
    assert traffic.total(messages) <= 4 * len(q) * HEADS * most + 100, messages


def _asked_of_keys(length):
    rng = np.random.default_rng(2)
    pairs = rng.normal(size=(2, HEADS, length, LENGTH)).astype(np.float32)
    return {
        "arrays": {"bias": pairs, "mask": pairs < 1, "query_seq_lengths": np.array([length, 1])},
        "the past": {
            "is_causal": True, "query_offset": np.array([4, 17]), "sinks": np.linspace(-1, 1, HEADS, dtype=np.float32),
            "dropout_rate": 0.3, "rng": jax.random.key(1), "return_residual": True, "bias": ALiBi().bias((), HEADS),
        },
        "padding": {"key_value_seq_lengths": np.array([LENGTH, 3])},
    }  # fmt: skip


def sends_as_formulas_say(kernel, is_causal, num_heads):
    """What each of 8 devices sends, forward and with gradients, but for the sum of a loss and counts of tokens."""
    dims = Dims(1, 512, 512, num_heads, num_heads, 16, 16)
    for is_train in (False, True):
        found = Program(kernel, dims, "float32", is_causal, is_train, f"sequence={DEVICES}").compiled[1]
        messages = sends.sends(kernel, sends.Call(dims, DEVICES, is_causal, is_train, width=4))
        assert abs(found["sent_bytes"] - sum(x.bytes for x in messages)) <= 100, (messages, found["sent"])
        for kind in {x.kind for x in messages}:  # sums are brought together in fewer messages
            count = sum(x.count for x in messages if x.kind == kind)
            assert 1 <= found["sent"][kind]["messages"] <= count, (kind, messages, found["sent"])


def messages_in_loops():
    """A loop's messages count as often as it runs, and each of n devices sends its part to n - 1."""
    row = row_of_devices("Auto", 4)

    def here(x):
        turned = jax.lax.fori_loop(0, 5, lambda _, x: jax.lax.ppermute(x, "sequence", [(0, 1), (1, 0)]), x)
        return jax.lax.all_gather(turned, "sequence", tiled=True)

    mapped = jax.shard_map(here, mesh=row, in_specs=P("sequence"), out_specs=P("sequence"))
    messages = traffic.sent(jax.jit(mapped).lower(jnp.ones((4, 16))).compile())
    assert messages == {"collective-permute": (5, 5 * 64), "all-gather": (1, 3 * 64)}, messages


def messages_to_oneself():
    """What a device hands on around a ring of one, or to neighbours that are not there, is not sent."""
    row = row_of_devices("Auto", 1)
    for pairs in ([(0, 0)], []):
        here = lambda x, pairs=pairs: jax.lax.ppermute(x, "sequence", pairs)
        mapped = jax.shard_map(here, mesh=row, in_specs=P("sequence"), out_specs=P("sequence"))
        compiled = jax.jit(mapped).lower(jnp.ones((4, 16))).compile()
        assert traffic.sent(compiled) == {}, compiled.as_text()


def axes_that_are_not_there():
    q, k, v = operands(2)
    for axes in ("nowhere", ("sequence", "nowhere"), ("sequence", "sequence"), 3):
        with jax.set_mesh(row_of_devices("Auto", 4)), pytest.raises(ValueError, match="sequence_axis="):
            attend(q, k, v, sequence_axis=axes)


def axes_that_split_something_else():
    """Queries, and what is asked, come before what the types of keys tell."""
    arrays = operands(2)
    call = jax.jit(lambda q, k, v, **asked: attend(q, k, v, is_causal=True, **asked), static_argnames="sequence_axis")
    expected, of_keys = call(*arrays), ("model", "data")
    with jax.set_mesh(mesh("Explicit")):
        same(call(put(arrays[0], None, None, "model"), *(put(x, *of_keys) for x in arrays[1:])), expected)
        same(call(*(put(x, "data", None, "model") for x in arrays), sequence_axis="data"), expected)


def functions_of_what_is_split():
    """A function closes over an array that Auto axes split, beside a sequence that is."""
    q, k, v = operands(2)
    slopes = np.linspace(0, 1, HEADS, dtype=np.float32)

    def call(q, slopes, **asked):
        bent = lambda score, head, i, j: score + slopes[head] * (i - j)
        return curved_sum(attend(q, k, v, score_mod=bent, is_causal=True, **asked))

    expected = jax.value_and_grad(call, (0, 1))(q, slopes)
    with jax.set_mesh(mesh("Auto")):
        placed = put(q, "data", None, "model", kind="Auto"), put(slopes, "model", kind="Auto")
        same(jax.jit(jax.value_and_grad(functools.partial(call, sequence_axis="spare"), (0, 1)))(*placed), expected)


def step_by_step(kernel, kv_heads):
    q, k, v = operands(kv_heads)
    constants = learned(kernel, kv_heads), kernel.draw(jax.random.key(4), Dims.of(q, k, v))

    def decoded(constants, q, k, v):
        given = dict(zip(("params", "draws"), constants, strict=True))
        state = start(
            batch=BATCH, num_heads=HEADS, head_dim=DIM, max_length=LENGTH, num_key_value_heads=kv_heads, kernel=kernel,
            **given,
        )  # fmt: skip
        advance = lambda state, chunk, **how: step(state, *chunk, **given, **how, **brought(kernel, chunk))
        state, first = advance(state, [x[:, :9] for x in (q, k, v)], query_seq_lengths=[9, 5, 1, 7])
        later = jax.tree.map(lambda x: jnp.stack([x[:, i : i + 1] for i in range(9, 13)]), (q, k, v))
        state, out = jax.lax.scan(advance, state, later)
        return first, out, state.positions

    of_keys = "model" if kv_heads % 2 == 0 else None
    placed = [put(x, "data", None, names) for x, names in zip((q, k, v), ("model", of_keys, of_keys), strict=True)]
    split = jax.tree.map(lambda x: put(x, "model" if len(x) == HEADS else None), constants)
    expected = jax.jit(decoded)(constants, q, k, v)
    same(jax.jit(decoded)(split, *placed), expected)
    same(jax.jit(decoded)(constants, *(put(x, "data", kind="Auto") for x in (q, k, v))), expected)


def decoded_over_the_length(kernel, kind):
    """A prompt, padded for one example, and steps: each device has some slots, and sees no others."""
    q, k, v = (x[:2] for x in operands(2))
    params, row = learned(kernel, 2), row_of_devices("Explicit" if kind == "Explicit" else "Auto", 4)

    def decoded(q, k, v, **how):
        given = {"max_length": LENGTH, "num_key_value_heads": 2, "kernel": kernel, "params": params, **how}
        state = start(batch=2, num_heads=HEADS, head_dim=DIM, **given)
        state, first = step(state, *(x[:, :9] for x in (q, k, v)), params=params, query_seq_lengths=[9, 4], **how)
        later = jax.tree.map(lambda x: jnp.stack([x[:, i : i + 1] for i in range(9, 13)]), (q, k, v))
        _, out = jax.lax.scan(lambda state, token: step(state, *token, params=params, **how), state, later)
        return first, out, curved_sum(out)

    call = functools.partial(decoded, sequence_axis="sequence")
    if kind == "Manual":
        call = jax.shard_map(call, mesh=row, in_specs=P(), out_specs=P())
    graded = lambda call: jax.grad(lambda *x: call(*x)[2])
    with jax.set_mesh(row):
        compiled = jax.jit(call).lower(q, k, v).compile()
        found, grads = compiled(q, k, v), jax.jit(graded(call))(q, k, v)
    same(found, jax.jit(decoded)(q, k, v))
    same(grads, jax.jit(graded(decoded))(q, k, v))
    if kernel.meets_cache():
        assert set(traffic.sent(compiled)) == {"all-reduce"}, traffic.sent(compiled)


def decoded_over_all_axes():
    """Batch, heads and length of a cache, of a function and of a layer, whose types tell."""
    q, k, v = operands(2)
    state = start(batch=BATCH, num_heads=HEADS, head_dim=DIM, max_length=LENGTH, num_key_value_heads=2)
    split = jax.tree.map(lambda x: put(x, "data", "spare", "model"), state.cache)
    call = jax.jit(lambda state, *x: step(state, *(x[:, :9] for x in x)))
    expected = call(state, q, k, v)
    found = call(dataclasses.replace(state, cache=split), *(put(x, "data", None, "model") for x in (q, k, v)))
    same(found, expected)
    assert jax.tree.leaves(found[0].cache)[0].sharding.spec == P("data", "spare", "model", None)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 8, 32)), jnp.float32)
    decoder = attnzoo.nnx.MultiHeadAttention(HEADS, 32, decode=False, rngs=nnx.Rngs(0))

    def outputs(x, *names):
        decoder.init_cache(x.shape)
        for name in ("cached_key", "cached_value"):
            held = getattr(decoder, name)
            held.set_value(put(held[...], *names) if names else held[...])
        return [decoder(x[:, i:j], decode=True) for i, j in ((0, 5), (5, 6), (6, 8))]

    expected = outputs(x)
    with jax.set_mesh(mesh("Explicit")):
        same(outputs(put(x, "data"), "data", "spare"), expected)
    assert decoder.cached_key[...].sharding.spec[1] == "spare"
    with jax.set_mesh(mesh("Auto")):
        decoder.init_cache(x.shape)
        same([decoder(x[:, i:j], decode=True, sequence_axis="spare") for i, j in ((0, 5), (5, 6), (6, 8))], expected)
    part = lambda x: decoder(x[:, :1], decode=True, sequence_axis="spare")
    decoder.init_cache(x.shape)
    with pytest.raises(NotImplementedError, match="sequence_axis='spare' of a shard_map"):
        jax.shard_map(part, mesh=mesh("Auto"), in_specs=P(), out_specs=P())(x)


def caches_in_parts():
    """Each device is given its slots alone; lengths that they do not divide are refused."""
    given = {"batch": 1, "num_heads": 1, "head_dim": 8, "sequence_axis": "sequence"}
    for kind in ("Explicit", "Auto"):
        with jax.set_mesh(row_of_devices(kind, 4)):
            for make in (start, lambda **given: jax.jit(lambda: start(**given))()):
                held = make(**given, max_length=24).cache["key"]
                assert [part.data.shape[1] for part in held.addressable_shards] == [6] * 4, (kind, held.sharding)
    with (
        jax.set_mesh(row_of_devices("Auto", 4)),
        pytest.raises(ValueError, match=r"max_length=10 over 4 .* such as 12"),
    ):
        start(**given, max_length=10)
    with pytest.raises(ValueError, match="sequence_axis='sequence'"):
        start(**given, max_length=12)


def unsplit(x):
    """Its sequence in one piece, where a type tells that it is not."""
    split = jax.typeof(x).sharding
    if split.mesh.empty or split.spec[1] is None:
        return x
    return jax.sharding.reshard(x, NamedSharding(split.mesh, P(split.spec[0], None, *split.spec[2:])))


def of_two_batch_axes(q, k, v, **asked):
    """Either of which may be split, and what is given is split alike."""
    swapped = [jnp.swapaxes(x, 0, 1) for x in (q, k, v)]
    return q + attend(q, k, v, **asked), swapped[0] + attend(*swapped, **asked)


CALLS = {
    "of a mask split likewise": lambda q, k, v: attend(
        q, k, v, mask=put(np.random.default_rng(1).random((BATCH, HEADS, LENGTH, LENGTH)) < 0.7, "data", "model")
    ),
    "of a residual": lambda q, k, v: attend(q, k, v, return_residual=True),
    "of an offset for each example": lambda q, k, v: attend(q, k, v, is_causal=True, query_offset=np.arange(BATCH)),
    "of global tokens": lambda q, k, v: attend(q, k, v, kernel=SlidingWindow(2, 2), global_tokens=np.eye(4, 24) > 0),
    "of two batch axes": lambda q, k, v: of_two_batch_axes(
        *(x.reshape(2, 2, *x.shape[1:]) for x in (q, k, v)), dropout_rate=0.3, rng=jax.random.key(2)
    ),
    "of weights": lambda q, k, v: attention_weights(q, k, is_causal=True),
    "of weights of a few queries": lambda q, k, v: attention_weights(unsplit(q)[:, :3], k),
    "under vmap": jax.vmap(lambda q, k, v: attend(q, k, v, is_causal=True)),
    "under remat": jax.grad(lambda q, k, v: curved_sum(jax.checkpoint(attend)(q, k, v))),
    "in forward mode": lambda q, k, v: jax.jvp(lambda q: attend(q, k, v, implementation="forward"), (q,), (q,)),
    "of keys whose sequence is not split": lambda q, k, v: attend(q, unsplit(k)[:, :9], unsplit(v)[:, :9]),
    "of a sequence of keys alone": lambda q, k, v: attend(unsplit(q)[:, :1], k, v),
    "of queries alone that are split": lambda q, k, v: attend(q, jnp.asarray(np.asarray(k)), np.asarray(v)),
}
WAYS = {
    "of batch and heads": ("data", None, "model"),
    "of a sequence, too": ("data", "spare", "model"),
    "of nothing": (),
}


def a_call(name, way, context):
    arrays = operands(2)
    call = CALLS[name] if name == "of queries alone that are split" else jax.jit(CALLS[name])
    placed = [put(x, *WAYS[way]) for x in arrays]
    if not context:
        return same(call(*placed), call(*arrays))
    with jax.set_mesh(mesh("Explicit")):
        found = call(*placed)
    return same(found, call(*arrays))


def in_layers(kernel):
    """Outputs, gradients and decoding of both layers; batch and sequence are split."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 8, 32)), jnp.float32)
    given = {"attention": kernel, "positions": Rotary()}
    linen = attnzoo.linen.MultiHeadAttention(HEADS, **given)
    graph, state = nnx.split(attnzoo.nnx.MultiHeadAttention(HEADS, 32, decode=False, rngs=nnx.Rngs(0), **given))
    params = linen.init(jax.random.key(0), x)
    calls = [
        (lambda params, x: linen.apply(params, x, is_causal=True), params),
        (lambda state, x: nnx.merge(graph, state)(x, is_causal=True), state),
    ]
    decoder = nnx.merge(graph, state)

    def decoded(x):
        decoder.init_cache(x.shape)
        return [decoder(x[:, i:j], decode=True) for i, j in ((0, 5), (5, 6), (6, 8))]

    for call, learned in calls:
        both = jax.jit(jax.value_and_grad(lambda learned, x, call=call: curved_sum(call(learned, x))))
        expected = both(learned, x)
        with jax.set_mesh(mesh("Explicit")):
            same(both(learned, put(x, "data", "spare")), expected)
    over = jax.shard_map(
        lambda state, x: nnx.merge(graph, state)(x, is_causal=True, sequence_axis="spare"),
        mesh=mesh("Auto"), in_specs=(P(), P("data", "spare")), out_specs=P("data", "spare"),
    )  # fmt: skip
    same(jax.jit(over)(state, x), nnx.merge(graph, state)(x, is_causal=True))
    same(decoded(put(x, "data")), decoded(x))


def in_recurrent_layers():
    """Short convolutions, norms and gates: batch and sequence are split, and a cache over examples."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 8, 32)), jnp.float32)
    given = {
        "attention": GatedDelta(),
        "conv_width": 3,
        "qkv_activation": "silu",
        "normalize_out": True,
        "gate": "silu",
    }
    layer = attnzoo.nnx.MultiHeadAttention(HEADS, 32, decode=False, rngs=nnx.Rngs(0), **given)
    graph, state = nnx.split(layer)
    both = jax.jit(jax.value_and_grad(lambda state, x: curved_sum(nnx.merge(graph, state)(x, is_causal=True))))
    expected = both(state, x)
    with jax.set_mesh(mesh("Explicit")):
        split = put(x, "data", "spare")
        same(both(state, split), expected)
        forward = jax.jit(lambda x: layer(x, is_causal=True))
        assert set(traffic.sent(forward.lower(split).compile())) == {"collective-permute"}  # none is brought together

    def decoded(x):
        layer.init_cache(x.shape)
        return [layer(x[:, i:j], decode=True) for i, j in ((0, 5), (5, 6), (6, 8))]

    same(decoded(put(x, "data")), decoded(x))
    ids = jnp.array([[0, 0, 1, 1, 1, 1, 0, 0]] * BATCH)
    packed = {"is_causal": True, "query_segment_ids": ids, "key_value_segment_ids": ids}
    lengths = {"is_causal": True, "query_seq_lengths": jnp.array([8, 3, 1, 6])}
    for asked in (packed, lengths):
        own = {name: P("data", "spare") if name.endswith("ids") else P("data") for name in asked if name != "is_causal"}
        arrays = {name: asked[name] for name in own}
        split = jax.shard_map(
            lambda x, arrays: layer(x, is_causal=True, sequence_axis="spare", **arrays),
            mesh=mesh("Auto"), in_specs=(P("data", "spare"), own), out_specs=P("data", "spare"),
        )  # fmt: skip
        same(jax.jit(split)(x, arrays), layer(x, **asked))
        with jax.set_mesh(mesh("Auto")):
            named = jax.jit(lambda x, asked=asked: layer(x, **asked, sequence_axis=("data", "spare")))
            same(named(x), layer(x, **asked))


def in_models():
    """Losses and gradients of all models, and text."""
    config = BlockConfig(width=32, num_heads=HEADS)
    given = {"max_length": 24, "rngs": nnx.Rngs(0)}
    window = [SlidingWindow(3, 0), Softmax()]
    language = LanguageModel(50, config, num_layers=2, attention=window, positions=LearnedPositions(), **given)
    classifier = Classifier(50, 3, config, num_layers=1, attention=Softmax(), **given)
    translator = EncoderDecoder(50, 50, config, max_source_length=24, num_layers=1, **given)
    tokens = jax.random.randint(jax.random.key(0), (BATCH, 12), 0, 50)
    lengths = jnp.array([12, 3, 7, 1])
    given = [(language, (), {}), (classifier, (), {"lengths": lengths}), (translator, (tokens[:, :5],), {})]
    for model, rest, keywords in given:
        graph, state = nnx.split(model)
        loss = lambda state, *given, graph=graph, keywords=keywords: curved_sum(
            nnx.merge(graph, state)(*given, **keywords)
        )
        call = jax.jit(jax.value_and_grad(loss, allow_int=True))
        with jax.set_mesh(mesh("Explicit")):
            value, grads = call(
                state, *(put(x, "data", "spare" if x.shape[1] % 2 == 0 else None) for x in (tokens, *rest))
            )
        expected, of_one = call(state, tokens, *rest)
        same(value, expected)
        same(*(nnx.to_pure_dict(nnx.filter_state(x, nnx.Param)) for x in (grads, of_one)), 1e-4)
    for how in ({}, {"temperature": 1.0, "rng": jax.random.key(1), "lengths": jnp.array([4, 2, 1, 3])}):
        found, alone = (generate(language, x, 6, **how) for x in (put(tokens[:, :4], "data"), tokens[:, :4]))
        np.testing.assert_array_equal(found, alone)


def text_from_parameters_in_parts():
    """The text of one device; parameters stay in parts meanwhile, as prompts do, and what few tokens are is sent."""
    model = LanguageModel(
        64, BlockConfig(width=128, num_heads=HEADS), max_length=16, num_layers=1, is_tied=True, rngs=nnx.Rngs(0)
    )
    prompt = jax.random.randint(jax.random.key(0), (BATCH, 5), 0, 64)
    how = {"temperature": 1.0, "top_k": 9, "rng": jax.random.key(1), "lengths": jnp.array([4, 2, 1, 3]), "stop": 3}
    expected = generate(model, prompt, 6, **how)
    partition(model, mesh("Explicit"), model_axis="model", fsdp_axis="data")
    graph, state = nnx.split(model)
    call = jax.jit(lambda state, prompt: generate(nnx.merge(graph, state), prompt, 6, **how))
    program = call.lower(state, split := put(prompt, "data")).compile()
    np.testing.assert_array_equal(program(state, split), expected)
    whole = sum(x.nbytes for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    held, sent = program.memory_analysis(), traffic.total(traffic.sent(program))
    assert held.argument_size_in_bytes < 0.27 * whole and held.temp_size_in_bytes < 0.1 * whole, (held, whole)
    assert sent < 0.25 * whole, (sent, whole)


def pairs_of_documents():
    """A classifier of two documents, by the output at a vector before them."""
    model = Classifier(
        50, 3, BlockConfig(width=32, num_heads=HEADS), pooling="cls", pairing="joined", num_layers=1, max_length=12,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    tokens = jax.random.randint(jax.random.key(0), (BATCH, 2, 12), 0, 50)
    graph, state = nnx.split(model)
    call = jax.jit(
        jax.value_and_grad(lambda state, tokens: curved_sum(nnx.merge(graph, state)(tokens)), allow_int=True)
    )
    with jax.set_mesh(mesh("Explicit")):
        value, grads = call(state, put(tokens, "data", None, "spare"))
    expected, of_one = call(state, tokens)
    same(value, expected)
    same(*(nnx.to_pure_dict(nnx.filter_state(x, nnx.Param)) for x in (grads, of_one)), 1e-4)


RULES = (("heads", "model"), ("mlp", "model"), ("vocab", "model"), ("embed", "data"))


def trained(config, tokens, kernel, steps=3, rules=None):
    """Losses of a model, and the bytes that one device has of it and of its optimiser's state; tokens tell the mesh."""
    model = LanguageModel(
        64, config, num_layers=1, attention=kernel, positions=Rotary(), max_length=16, rngs=nnx.Rngs(0)
    )
    over = getattr(tokens.sharding, "mesh", None)
    if over is not None:
        partition(model, over, **{"rules": rules} if rules else {"model_axis": "model", "fsdp_axis": "data"})
    optimizer = nnx.Optimizer(model, optax.adamw(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, tokens):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(tokens), tokens).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    with contextlib.nullcontext() if over is None else jax.set_mesh(over):
        losses = [float(step(model, optimizer, tokens)) for _ in range(steps)]
    held = jax.tree.leaves((nnx.state(model, nnx.Param), nnx.state(optimizer)))
    return losses, sum(x.addressable_shards[0].data.nbytes for x in held)


def training_in_parts(kind, config, rules=None, kernel=SlidingWindow(3, 0)):
    """Over data, model and sequence: the losses of one device, each with a quarter of parameters and their moments."""
    tokens = jax.random.randint(jax.random.key(0), (BATCH, 16), 0, 64)
    losses, held = trained(config, put(tokens, "data", "spare", kind=kind), kernel, rules=rules)
    expected, whole = trained(config, tokens, kernel)
    np.testing.assert_allclose(losses, expected, rtol=1e-5 if config.dtype == "float32" else 1e-2)
    assert held < 0.33 * whole, (held, whole)


def learned_on_a_mesh(out, given):
    """A cell of a sweep, split over data, model and sequence, learns what one device does."""
    shared = {"lengths": "32", "widths": "16", "layers": 1, "heads": 2, "tokens": 128, "steps": 3, "test_examples": 10}
    shared |= {
        "kernels": "softmax",
        "positions": "learned",
        "learning_rates": "3e-3",
        "isolate": False,
        "save_every": 0,
    }
    found = []
    for how in ({}, {"mesh": "data=2, model=2, sequence=2", "fsdp": True}):
        settings = parsed(Settings, **shared | given | how, out=out)
        [cell] = cells(settings)
        found.append(trained_models.train(settings, cell, lambda progress: None))
    one, several = found
    examples = (shared | given)["tokens"] // 32
    assert several["devices"] == (4 if examples % 2 else 8) and several["mesh"] == "data=2, model=2, sequence=2"
    for name in ("bits", "validation"):
        np.testing.assert_allclose(several[name], one[name], rtol=1e-4)
    np.testing.assert_allclose(several["curve"], one["curve"], rtol=1e-4)


def axes_of_no_mesh():
    model = LanguageModel(64, BlockConfig(width=32, num_heads=4), num_layers=1, max_length=16, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="model_axis='nowhere': the mesh has the axes data, model, spare"):
        partition(model, mesh("Explicit"), model_axis="nowhere")
    with pytest.raises(ValueError, match="rules: 'embed'='nowhere': the mesh has the axes"):
        partition(model, mesh("Explicit"), rules=[("embed", "nowhere")])
    with pytest.raises(ValueError, match="model is a Linear: expected one that has parameters of some modules named"):
        partition(nnx.Linear(32, 32, rngs=nnx.Rngs(0)), mesh("Explicit"), model_axis="model")
    with pytest.raises(ValueError, match="rules came beside Axes"):
        partition(model, mesh("Explicit"), model_axis="model", rules=RULES)
    with pytest.raises(ValueError, match=r"rules: 'heads' came over .*has 4 there, which 8 devices"):
        partition(model, mesh("Explicit"), rules=[("heads", ("data", "model", "spare"))])


def in_recurrent_models():
    """Values and gradients of one device, with parameters whole and in parts; and where a decoder looks."""
    tokens = jax.random.randint(jax.random.key(0), (BATCH, 6), 0, 64)
    pairs = Pairs(tokens, jnp.array([6, 3, 1, 5]), tokens[:, :4])
    over, split = mesh("Explicit"), lambda tree: jax.tree.map(lambda x: put(x, "data"), tree)
    translator = RecurrentEncoderDecoder(64, 64, width=32, rngs=nnx.Rngs(0))
    language = RecurrentLanguageModel(64, width=32, num_layers=1, cell="lstm", rngs=nnx.Rngs(0))
    both = nnx.jit(nnx.value_and_grad(lambda model, given: curved_sum(model(given))))
    decode = nnx.jit(lambda model, given: model.decode(given.source, given.lengths, 1, 3))
    for model, given in ((language, tokens), (translator, pairs)):
        expected = jax.tree.map(np.asarray, both(model, given))
        decoded = decode(model, given) if model is translator else ()
        for parted in (False, True):
            if parted:
                partition(model, over, model_axis="model", fsdp_axis="data")
                held = jax.tree.leaves(nnx.state(model, nnx.Param))
                assert sum(x.addressable_shards[0].data.nbytes for x in held) < sum(x.nbytes for x in held) * 0.6
            with jax.set_mesh(over):
                same(both(model, split(given)), expected)
                same(decode(model, split(given)) if decoded else (), decoded)


def logical_names_of_flax(kind, kernel):
    """An NNX layer made with logical names under rules, and a Linen one whose parameters are placed by them: those of
    gates, too, which may be one number for each head and have an axis less.
    """
    x = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 8, 32)), jnp.float32)
    rules, init, over = (*RULES, ("kv", None)), nnx.initializers.lecun_normal(), mesh(kind)
    asked = {"is_causal": not kernel.supports.bidirectional}
    names = {"kernel_init": ("embed", "heads", "kv"), "out_kernel_init": ("heads", "kv", "embed")}
    of_nnx = lambda named: attnzoo.nnx.MultiHeadAttention(
        HEADS, 32, attention=kernel, decode=False, rngs=nnx.Rngs(0), **{x: named(init, y) for x, y in names.items()}
    )
    alone = of_nnx(lambda init, _: init)
    with jax.set_mesh(over), nnx.logical_axis_rules(rules):
        layer = of_nnx(nnx.with_partitioning)
        assert tuple(layer.query.kernel[...].sharding.spec)[:2] == ("data", "model")
        found = jax.jit(lambda layer, x: layer(x, **asked))(layer, put(x, "data", "spare", kind=kind))
        same(found, alone(x, **asked))

    layer = attnzoo.linen.MultiHeadAttention(
        HEADS, attention=kernel, **{x: nn.with_logical_partitioning(init, y) for x, y in names.items()}
    )
    params = layer.init(jax.random.key(0), x, **asked)
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(params), over, rules)
    params = nn.unbox(params)
    split = jax.device_put(params, shardings)
    assert split["params"]["out"]["kernel"].sharding.spec == P("model", None, "data")
    call = jax.jit(lambda params, x: layer.apply(params, x, **asked))
    expected = call(params, x)
    with jax.set_mesh(over), nn.logical_axis_rules(rules):
        same(call(split, put(x, "data", "spare", kind=kind)), expected)


def checkpoint_of_a_mesh(folder):
    """What devices have written is read by one, and the other way round."""
    alone, split = jnp.arange(8.0), put(jnp.arange(8.0), "data")
    for written, like in ((split, jnp.zeros(8)), (alone, put(jnp.zeros(8), "model"))):
        checkpoints.write(pathlib.Path(folder), {"x": written}, {})
        found = checkpoints.read(pathlib.Path(folder), {"x": like})[0]["x"]
        assert found.sharding == like.sharding and (found == alone).all()


def linen_in_parts():
    """Flax's own names on the kernels of a Linen layer, over Explicit axes."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 8, 32)), jnp.float32)
    layer = attnzoo.linen.MultiHeadAttention(HEADS)
    params = layer.init(jax.random.key(0), x)
    names = lambda path: ("model",) if "out" in str(path) else ("data", "model")
    split = jax.tree.map_with_path(
        lambda path, x: put(x, *names(path)[: x.ndim - 1]) if x.ndim == 3 else put(x), params
    )
    both = jax.jit(jax.value_and_grad(lambda params, x: curved_sum(layer.apply(params, x)), (0, 1)))
    expected = both(params, x)
    with jax.set_mesh(mesh("Explicit")):
        same(both(split, put(x, "data", "spare")), expected)
