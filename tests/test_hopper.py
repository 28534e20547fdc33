"""The kernels of a Hopper GPU, interpreted by a CPU that looks for races, against the oracles and their gradients."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import (
    BigBird,
    Dims,
    Linear,
    Local,
    NadarayaWatson,
    Reformer,
    SlidingWindow,
    Softmax,
    SparseTransformer,
    attend,
)
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Mask
from attnzoo.engines import few
from attnzoo.engines.fused.hopper import averaged, indexed, passes, warpgroups
from attnzoo.engines.fused.hopper import softmax as hopper
from attnzoo.engines.fused.way import asking as asking_for
from attnzoo.engines.fused.way import interpreted, way
from tests import asking, oracles
from tests.marks import of_hopper
from tests.oracles import oracle_of, visibility
from tests.oracles.nystrom import members_of_runs

pytestmark = of_hopper

HEADS, KV_HEADS = 2, 1
LEARNED = {"bias", "scale", "soft_cap"}  # beside operands
LENGTH = 150  # three tiles of 64, the last of which is not full
TOLERANCES = {jnp.bfloat16: 1e-2, jnp.float16: 1.5e-3}
ONLY_CUDA = [jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")]


@pytest.fixture(scope="module")
def ask():
    """Puts a question to a process where the three threads of a kernel, which wait for each other, all run."""
    with asking.process(NPROC="8") as asked:
        yield asked


def operands(length, key_length, width, value_width, dtype, batch=1):
    rng = np.random.default_rng(0)
    shapes = (length, HEADS, width), (key_length, KV_HEADS, width), (key_length, KV_HEADS, value_width)
    made = [rng.normal(size=(batch, *shape)) for shape in (*shapes, (length, HEADS, value_width))]
    return [jnp.asarray(x, dtype) for x in made]


def expected(kernel, q, k, v, d_out, arguments):
    """Output, and gradients of q, k, v and of what else is learned, float64 all."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q, k, v, d_out))
    learned = {name: np.asarray(arguments[name], np.float64) for name in LEARNED & arguments.keys()}
    structure = {name: x for name, x in arguments.items() if name not in LEARNED}
    if (mod := structure.pop("mask_mod", None)) is not None:
        structure["mask"] = mod(*np.ogrid[:HEADS, : q.shape[1], : k.shape[1]])[None]
    visible = visibility(len(q), HEADS, q.shape[1], k.shape[1], **structure)
    dims = Dims(len(q), q.shape[1], k.shape[1], HEADS, KV_HEADS, q.shape[3], v.shape[3])
    draws = kernel.draw(jax.random.key(kernel.seed), dims) if isinstance(kernel, BigBird | Reformer) else [()] * HEADS
    out, grads = np.zeros_like(d_out), jax.tree.map(np.zeros_like, {"q": q, "k": k, "v": v, **learned})
    for b, n in np.ndindex(len(q), HEADS):
        group = n // (HEADS // KV_HEADS)
        one = oracles.One(
            *(q[b, :, n], k[b, :, group], v[b, :, group], visible[b, n]),
            draws=np.asarray(draws[n]),
            is_causal=structure.get("is_causal", False),
            offset=structure.get("query_offset", 0),
            bias=np.broadcast_to(learned["bias"], visible.shape)[b, n] if "bias" in learned else None,
            **{name: float(learned[name]) for name in ("scale", "soft_cap") if name in learned},
        )
        out[b, :, n], of = of_head(kernel, one, d_out[b, :, n])
        places = {"q": (b, slice(None), n), "k": (b, slice(None), group), "v": (b, slice(None), group)}
        for name, grad in grads.items():
            grad[places.get(name, (b, n) if name == "bias" else ())] += of[name]
    return out, grads


def of_head(kernel, one, d_out):
    """Output and gradients of one head, by the weights of its oracle."""
    weights = oracle_of(kernel)(kernel, one._replace(v=np.eye(len(one.v))))
    d_weights = d_out @ one.v.T
    d_scores = weights * (d_weights - (weights * d_weights).sum(axis=1, keepdims=True))
    is_distance = isinstance(kernel, NadarayaWatson)
    scale = 1 / kernel.bandwidth**2 if is_distance else oracles.scale_of(one)
    products, d_products, d_cap = one.q @ one.k.T, d_scores, 0
    if one.soft_cap is not None:
        squashed = np.tanh(scale * products / one.soft_cap)
        d_products = d_scores * (1 - squashed**2)
        d_cap = (d_scores * squashed - d_products * scale * products / one.soft_cap).sum()
    d_k = d_products.T @ one.q - is_distance * d_products.sum(axis=0)[:, None] * one.k
    of_operands = {"q": scale * d_products @ one.k, "k": scale * d_k, "v": weights.T @ d_out}
    of_scores = {"scale": (d_products * products).sum(), "soft_cap": d_cap}
    return weights @ one.v, of_operands | of_scores | {"bias": d_scores.sum(axis=0, keepdims=True)}


def found(kernel, q, k, v, d_out, arguments, tile):
    """The same of the kernels."""
    arguments = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in arguments.items()}
    learned = {name: jnp.asarray(arguments.pop(name)) for name in LEARNED & arguments.keys()}

    def call(given, learned):
        given = [given[name] for name in "qkv"]
        return attend(*given, kernel=kernel, implementation="pallas", **learned, **arguments)

    with interpreted(quantum=tile, largest=tile, grain=64, platform="cuda"):
        out, pull = jax.vjp(call, {"q": q, "k": k, "v": v}, learned)
        of_operands, of_learned = pull(d_out)
    return out, of_operands | of_learned


def has_races():
    from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call  # nothing public tells

    return interpret_pallas_call.get_races().races_found


def check(
    kernel=Softmax(), *, sizes=(LENGTH, LENGTH), widths=(64, 64), dtype=jnp.bfloat16, tile=64, factor=1.0, **arguments
):
    *given, d_out = operands(*sizes, *widths, dtype)
    d_out = (d_out * factor).astype(dtype)
    out, grads = found(kernel, *given, d_out, arguments, tile)
    assert not has_races()
    wanted, of = expected(kernel, *given, d_out, arguments)
    for name, x, y in [("out", out, wanted), *((name, grads[name], of[name]) for name in of)]:
        x = np.asarray(x, np.float64)
        # A cap's or a scale's gradient is one sum over all pairs, which mostly cancel.
        most = TOLERANCES[dtype] * (10 if y.ndim == 0 else 1) * np.abs(y).max()
        np.testing.assert_allclose(x, y, rtol=0, atol=most, err_msg=name)


def test_causal_in_tiles_of_two_warpgroups(ask):
    ask(check, sizes=(256, 256), tile=128, is_causal=True)


def test_all_that_is_asked_at_once(ask):
    """Padding, segments, a bias of keys that hides one and makes another the lowest there is, scale and cap."""
    bias = np.random.default_rng(1).normal(size=(1, HEADS, 1, LENGTH)).astype(np.float32)
    bias[0, 0, 0, 3], bias[0, 1, 0, 5] = -np.inf, np.finfo(np.float32).min
    segments = (np.arange(LENGTH) // 40)[None]
    arguments = {"key_value_seq_lengths": np.array([140]), "bias": bias, "scale": -0.2, "soft_cap": 1.5}
    arguments |= {"query_segment_ids": segments, "key_value_segment_ids": segments}
    ask(check, SlidingWindow(left=20, right=9, dilation=2), **arguments)


def some(head, i, j):
    return (i + j + head) % 3 > 0


FEW = {
    "few keys": {"sizes": (LENGTH, 50), "mask_mod": some},
    "few keys, of wide heads": {"sizes": (256, 64), "widths": (128, 128), "tile": 128, "is_causal": True},
    "few queries": {"sizes": (50, LENGTH), "is_causal": True, "query_offset": 90},
    "few queries, wide values": {"sizes": (64, 256), "widths": (40, 100), "tile": 128, "mask_mod": some},
}


@pytest.mark.parametrize("name", FEW)
def test_gradients_where_keys_or_queries_are_few(ask, name):
    ask(check, **FEW[name])


def check_averages(length, runs, width):
    """Beside what few queries find, of parts of a sequence, and gradients of both."""
    q, k, v, d_out = operands(5, length, width, 64, jnp.bfloat16)
    d_averages = jnp.asarray(np.random.default_rng(1).normal(size=(1, runs, KV_HEADS, width)), jnp.float32)

    @jax.jit
    def call(*given):
        with asking_for(way(), "a test"):
            return few.averaged(*given, Call(Mask(5, length)), runs)

    kernel = mock.patch.object(averaged, "forward", wraps=averaged.forward)
    in_parts = mock.patch.multiple(passes, SHORTEST=1, BLOCKS=4)
    with in_parts, kernel as forward, interpreted(64, 64, 64, platform="cuda"):
        (out, averages), pull = jax.vjp(call, q, k, v)
        grads = dict(zip("qkv", pull((d_out, d_averages)), strict=True))
    assert forward.called and not has_races()
    wanted, of = expected(Softmax(), q, k, v, d_out, {})
    members = members_of_runs(length, runs)
    of["k"] += np.einsum("rs,brkh->bskh", members, np.asarray(d_averages, np.float64))
    found = {"out": (out, wanted), "averages": (averages, np.einsum("rs,bskh->brkh", members, np.float64(k)))}
    for name, (x, y) in (found | {name: (grads[name], of[name]) for name in "qkv"}).items():
        np.testing.assert_allclose(np.asarray(x, np.float64), y, rtol=0, atol=1e-2 * np.abs(y).max(), err_msg=name)


AVERAGES = {
    "runs as long": {"length": 256, "runs": 2, "width": 64},
    "some longer by a token": {"length": 250, "runs": 3, "width": 64},
    "of wide heads": {"length": 248, "runs": 3, "width": 100},
}


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_beside_what_few_queries_find(ask, name):
    ask(check_averages, **AVERAGES[name])


CASES = {
    "full, of other lengths": {"sizes": (70, 130)},
    "causal with an offset": {"sizes": (70, 130), "is_causal": True, "query_offset": 60},
    "queries that see nothing": {"is_causal": True, "query_offset": -30},
    "a window": {"kernel": SlidingWindow(left=20, right=9)},
    "a causal window": {"kernel": SlidingWindow(left=70, right=0), "is_causal": True},
    "dilation": {"kernel": SlidingWindow(left=7, right=7, dilation=3)},
    "global tokens": {"kernel": SlidingWindow(left=7, right=7, global_tokens=3)},
    "blocks drawn": {"kernel": BigBird(block_size=32, num_random=1, num_window=1)},
    "blocks drawn, causal": {"kernel": BigBird(block_size=32, num_random=1, num_window=1), "is_causal": True},
    "own blocks": {"kernel": Local(block_size=24)},
    "summaries": {"kernel": SparseTransformer(block_size=32, summary=5), "is_causal": True},
    "distances": {"kernel": NadarayaWatson(bandwidth=8.0)},
    "a mask_mod": {"mask_mod": some},
    "narrow heads, wide values": {"widths": (40, 100), "is_causal": True},
    "wide heads": {"widths": (128, 128), "sizes": (256, 256), "tile": 128},
    "float16, small gradients": {"dtype": jnp.float16, "factor": 2e-5, "is_causal": True},
    "float16, large gradients": {"dtype": jnp.float16, "factor": 2e3, "soft_cap": 2.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients(ask, name):
    ask(check, **CASES[name])


def test_an_end_that_copies_know(ask):
    """No tile divides the length, nor does eight."""
    ask(check, SlidingWindow(left=70, right=0), sizes=(103, 103), is_causal=True)


@pytest.mark.parametrize(("length", "width", "rows"), [(200, 64, 200), (196, 64, 196), (196, 128, 200)])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kernel", [Softmax(), Linear()], ids=repr)
def test_kernels_are_given_rows_as_many_as_there_are(kernel, is_causal, length, width, rows):
    """Or, of wide rows, as eight divides: those that fill up a tile are neither read nor written in both passes."""
    operands = [jax.ShapeDtypeStruct((1, length, 2, width), jnp.bfloat16)] * 3
    call = lambda *x: attend(*x, kernel=kernel, is_causal=is_causal, implementation="pallas").astype(float).sum()
    launching = mock.patch.object(warpgroups, "launched", wraps=warpgroups.launched)
    with launching as launched, interpreted(quantum=128, largest=128, grain=64, platform="cuda"):
        jax.eval_shape(jax.grad(call, (0, 1, 2)), *operands)
    assert launched.call_count >= 3
    for one in launched.call_args_list:
        moved = [*one.args[2], *one.kwargs["out_type"]]
        assert {x.shape[1] for x in moved if x.ndim == 4 and x.dtype == jnp.bfloat16 and x.shape[1] != 2} == {rows}


def check_gathered(run, length, **case):
    """Runs of so many chunks, which meet at their ends."""
    with mock.patch.object(indexed, "RUN", run):
        check(sizes=(length, length), **case)


def test_chunks_of_tokens_that_hash_alike(ask):
    """Heads that share keys, some of which are hidden, in chunks of which the last one is not full."""
    ask(check_gathered, 1, 70, kernel=Reformer(buckets=8), key_value_seq_lengths=np.array([67]))


GATHERED = {
    "two rounds": {"length": 70, "kernel": Reformer(buckets=8, rounds=2), "key_value_seq_lengths": np.array([67])},
    "a run of two chunks and one of one": {"length": 150, "run": 2},
    "wide heads": {"length": 70, "widths": (128, 128)},
    "narrow heads, wide values, many buckets": {"length": 70, "widths": (40, 100), "kernel": Reformer(buckets=100)},
    "float16, small gradients, a cap": {"length": 70, "dtype": jnp.float16, "factor": 2e-4, "soft_cap": 2.0},
    "a scale, queries hidden": {"length": 70, "scale": -0.2, "query_seq_lengths": np.array([67])},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GATHERED)
def test_chunks_of_tokens_that_hash_alike_otherwise(ask, name):
    case = {"run": 1, "kernel": Reformer(buckets=8)} | GATHERED[name]
    ask(check_gathered, case.pop("run"), case.pop("length"), **case)


def check_residuals(rounds=2):
    """Log-sum-exps of all rounds, and gradients by them, against XLA's in float32."""
    *given, d_out = operands(70, 70, 64, 64, jnp.bfloat16)
    d_lse = jnp.asarray(np.random.default_rng(1).normal(size=(1, 70, HEADS)), jnp.float32)
    call = lambda how, *x: attend(
        *x, kernel=Reformer(buckets=8, rounds=rounds), implementation=how, return_residual=True
    )
    with interpreted(64, 64, 64, platform="cuda"):
        found, pull = jax.vjp(functools.partial(call, "pallas"), *given)
        grads = pull((d_out, d_lse))
    assert not has_races()
    precise = [x.astype(jnp.float32) for x in given]
    wanted, pull = jax.vjp(functools.partial(call, "xla"), *precise)
    for x, y in zip((*found, *grads), (*wanted, *pull((d_out.astype(jnp.float32), d_lse))), strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), y, rtol=0, atol=1e-2 * np.abs(y).max())


@pytest.mark.slow
def test_residuals_of_rounds(ask):
    ask(check_residuals)


GATHERED_DECLINED = {
    "chunks of 32 tokens: it takes 64": (Reformer(chunk_size=32), {}),
    "5 lists of each head: it takes 4": (Reformer(rounds=5), {}),
    "a bias came": (Reformer(), {"bias": np.zeros((1, 1, 8, 8), np.float32)}),
    "dropout came": (Reformer(), {"dropout_rate": 0.5, "rng": jax.random.key(0)}),
}


@pytest.mark.parametrize("reason", GATHERED_DECLINED)
def test_what_is_not_gathered(reason):
    kernel, arguments = GATHERED_DECLINED[reason]
    *given, _ = operands(8, 8, 64, 64, jnp.bfloat16)
    with pytest.raises(NotImplementedError, match=f"'pallas' declines Reformer.*{reason}"):
        jax.eval_shape(lambda *x: attend(*x, kernel=kernel, implementation="pallas", **arguments), *given)


DECLINED = {
    "float32: it takes bfloat16 or float16": {"dtype": jnp.float32},
    "head_dim=256: it takes up to 128": {"widths": (256, 64)},
}


@pytest.mark.parametrize("reason", DECLINED)
def test_reasons(reason):
    q, k, v, _ = operands(8, 8, *DECLINED[reason].get("widths", (64, 64)), DECLINED[reason].get("dtype", jnp.bfloat16))
    assert any(reason in told for told in hopper.declined(q, k, v))


@pytest.mark.parametrize("kernel", [Softmax(), Reformer(rounds=2)], ids=repr)
@pytest.mark.parametrize("x64", [False, True])
def test_export_for_cuda(x64, kernel):
    """Without its compiler, for a process of any precision."""
    *given, _ = operands(256, 256, 64, 64, jnp.bfloat16)
    call = lambda q, k, v: attend(q, k, v, kernel=kernel, implementation="pallas").astype(jnp.float32).sum()
    with jax.enable_x64(x64):
        program = jax.jit(jax.grad(call, (0, 1, 2)))
        exported = jax.export.export(program, platforms=["cuda"], disabled_checks=ONLY_CUDA)(*given)
    assert exported.mlir_module().count("mosaic_gpu_v2") >= 3
