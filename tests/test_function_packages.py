"""Masks and scores as functions of positions, caps and sinks beside independent implementations, in float64.

Extra `peers`. FlexAttention has no gradients on a CPU: those are of the same functions over dense scores.
"""

import functools
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import LinearBias, SlidingWindow, attend
from tests.test_packages import BATCH, DIM, HEADS, LENGTH, arrays, assert_agree, operands, peer

torch = pytest.importorskip("torch", reason="torch is not here: install the extra `peers`")
flex = pytest.importorskip("torch.nn.attention.flex_attention", exc_type=ImportError)

KV_HEADS = 2
DOCUMENTS = np.array([3, 0, 7])[np.arange(LENGTH) // 5 % 3]  # in turns: ids that return are the same document
WIDTHS = np.array([2, 5, 1, 30])


def masks(asarray):
    """By name, of a head and two positions; `asarray` makes arrays of one library or the other."""
    documents, widths = asarray(DOCUMENTS), asarray(WIDTHS)
    return {
        "causal": lambda h, i, j: j <= i,
        "window": lambda h, i, j: (j <= i) & (i - j < 6),
        "prefix": lambda h, i, j: (j <= i) | (j < 7),
        "documents": lambda h, i, j: (documents[i] == documents[j]) & (j <= i),
        "windows by head": lambda h, i, j: abs(i - j) <= widths[h],
        "window with sinks": lambda h, i, j: (j <= i) & ((i - j < 5) | (j < 2)),
    }


def scores(library, slopes, biases):
    """By name, of a score, a head and two positions: `slopes` [N] and `biases` [N, 2 T] are learned."""
    return {
        "none": lambda s, h, i, j: s,
        "ALiBi": lambda s, h, i, j: s - slopes[h] ** 2 * abs(i - j),
        "relative": lambda s, h, i, j: s + biases[h, i - j + LENGTH],
        "cap": lambda s, h, i, j: 2 * library.tanh(s / 2),
        "temperature": lambda s, h, i, j: s * (1 + slopes[h] ** 2),
    }


CASES = [(mask, "none") for mask in masks(np.asarray)]
CASES += [("causal", "ALiBi"), ("prefix", "relative"), ("documents", "cap"), ("windows by head", "temperature")]


def of_flex(mask, score):
    """Their signatures, which have the example, too."""
    return lambda b, h, i, j: mask(h, i, j), lambda s, b, h, i, j: score(s, h, i, j)


def with_flex(mask, score, q, k, v, attention=flex.flex_attention):
    mask_mod, score_mod = of_flex(mask, score)
    blocks = flex.create_block_mask(mask_mod, None, HEADS, q.shape[1], k.shape[1], device="cpu")
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return attention(*heads_first, score_mod=score_mod, block_mask=blocks, enable_gqa=True).transpose(1, 2)


def densely(mask, score, q, k, v):
    """The same functions over all pairs at once, which has gradients."""
    mask_mod, score_mod = of_flex(mask, score)
    places = torch.arange(HEADS)[:, None, None], torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=2) for x in (k, v))
    products = torch.einsum("btnh,bsnh->bnts", q, k) / DIM**0.5
    seen = flex.create_mask(mask_mod, None, HEADS, LENGTH, LENGTH, device="cpu")
    weights = score_mod(products, None, *places).masked_fill(~seen, -torch.inf).softmax(dim=-1)
    return torch.einsum("bnts,bsnh->btnh", weights, v)


@pytest.mark.parametrize("mask, score", CASES)
def test_functions_of_flex_attention(mask, score):
    """Values, and the gradients of all operands and of what a function closes over."""
    learned = arrays((HEADS,), (HEADS, 2 * LENGTH), seed=5)
    inputs = [*operands(kv_heads=KV_HEADS), *learned]

    def theirs(q, k, v, slopes, biases):
        mods = masks(torch.tensor)[mask], scores(torch, slopes, biases)[score]
        out = densely(*mods, q, k, v)
        mods = masks(torch.tensor)[mask], scores(torch, slopes.detach(), biases.detach())[score]
        torch.testing.assert_close(out, with_flex(*mods, *(x.detach() for x in (q, k, v))), rtol=0, atol=1e-12)
        return out + 0 * (slopes.sum() + biases.sum())  # that gradients are there where a function has none of both

    def ours(q, k, v, slopes, biases):
        mods = {"mask_mod": masks(jnp.asarray)[mask], "score_mod": scores(jnp, slopes, biases)[score]}
        return attend(q, k, v, **mods)

    assert_agree(ours, theirs, inputs)


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
@pytest.mark.parametrize("mask, score", [("prefix", "ALiBi"), ("windows by head", "cap")])
def test_compiled_flex_attention(mask, score):
    """In float32, which is what it knows, over more than one of its blocks."""
    q, k, v = (np.tile(x, (1, 8, 1, 1)).astype(np.float32) for x in operands(kv_heads=KV_HEADS))
    learned = [x.astype(np.float32) for x in arrays((HEADS,), (HEADS, 2 * LENGTH), seed=5)]
    compiled = torch.compile(flex.flex_attention)
    mods = masks(torch.tensor)[mask], scores(torch, *map(torch.tensor, learned))[score]
    expected = with_flex(*mods, *map(torch.tensor, (q, k, v)), attention=compiled)
    mods = {"mask_mod": masks(jnp.asarray)[mask], "score_mod": scores(jnp, *map(jnp.asarray, learned))[score]}
    np.testing.assert_allclose(attend(q, k, v, **mods), expected, atol=5e-6)


def test_segments_and_log_sum_exp_of_flex_attention():
    """Packed segments, causality and ALiBi at once, and the log-sum-exp; a segment without keys gives 0 in both."""
    query_ids, key_ids = np.repeat([0, 1, 3], [7, 9, 8]), np.repeat([0, 1, 2], [7, 9, 8])
    slopes = np.array([0.5, 0.25, 0.125, 0.0625])
    q, k, v = operands(kv_heads=2)
    ids = [torch.tensor(x) for x in (query_ids, key_ids)]
    block_mask = flex.create_block_mask(
        lambda b, h, i, j: (i >= j) & (ids[0][i] == ids[1][j]), None, None, LENGTH, LENGTH, device="cpu"
    )
    rates = torch.tensor(slopes)
    tensors = [torch.tensor(x).transpose(1, 2) for x in (q, k, v)]
    with torch.no_grad():
        expected, auxiliary = flex.flex_attention(
            *tensors,
            score_mod=lambda score, b, h, i, j: score - rates[h] * (i - j).abs(),
            block_mask=block_mask,
            enable_gqa=True,
            return_aux=flex.AuxRequest(lse=True),
        )
    with jax.enable_x64(True):
        packed = [jnp.broadcast_to(x, (BATCH, LENGTH)) for x in (query_ids, key_ids)]
        out, lse = attend(
            *map(jnp.asarray, (q, k, v)),
            LinearBias(jnp.asarray(slopes)),
            is_causal=True,
            query_segment_ids=packed[0],
            key_value_segment_ids=packed[1],
            return_residual=True,
        )
    np.testing.assert_allclose(out, expected.transpose(1, 2), atol=1e-9)
    assert (np.asarray(out)[:, 16:] == 0).all() and np.abs(out[:, :16]).min(axis=-1).max() > 0
    np.testing.assert_allclose(lse[:, :16], auxiliary.lse.transpose(1, 2)[:, :16], atol=1e-9)


SEEN = np.tri(LENGTH, dtype=bool) & ~np.tri(LENGTH, k=-6, dtype=bool)
HIDDEN = torch.tensor(np.where(SEEN, 0.0, -np.inf))[None, None]


def eagerly(module, **options):
    """Attention of a model in transformers, over a causal window of 6 keys."""
    layer = types.SimpleNamespace(num_key_value_groups=HEADS // KV_HEADS, head_dim=DIM, training=False, **options)

    def call(q, k, v, **asked):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return module.eager_attention_forward(layer, q, k, v, HIDDEN, scaling=0.3, **asked)[0]

    return call


@pytest.mark.parametrize("kernel", [None, SlidingWindow(left=5, right=0)], ids=["softmax", "window"])
def test_sinks_of_gpt_oss(kernel):
    module = peer("transformers.models.gpt_oss.modeling_gpt_oss")
    asked = {"mask": SEEN} if kernel is None else {"kernel": kernel}

    def theirs(q, k, v, sinks):
        return eagerly(module, sinks=sinks)(q, k, v)

    def ours(q, k, v, sinks):
        return attend(q, k, v, sinks=sinks, scale=0.3, is_causal=True, **asked)

    assert_agree(ours, theirs, operands(kv_heads=KV_HEADS) + arrays((HEADS,), seed=5))


def test_sinks_of_fla():
    module = peer("fla.ops.attn.naive")

    def theirs(q, k, v, sinks):
        return module.naive_parallel_attn(q, k, v, window_size=6, sink_bias=sinks)[0]

    def ours(q, k, v, sinks):
        return attend(q, k, v, sinks=sinks, kernel=SlidingWindow(left=5, right=0), is_causal=True)

    assert_agree(ours, theirs, operands(kv_heads=KV_HEADS) + arrays((HEADS,), seed=5))


def test_caps_of_gemma(monkeypatch):
    """Their softmax is in float32 whatever it is given: float64 is what they call so here."""
    module = peer("transformers.models.gemma2.modeling_gemma2")
    monkeypatch.setattr(torch, "float32", torch.float64)
    theirs = functools.partial(eagerly(module), softcap=0.7)
    ours = lambda q, k, v: attend(q, k, v, mask=SEEN, soft_cap=0.7, scale=0.3)
    assert_agree(ours, theirs, operands(kv_heads=KV_HEADS))
