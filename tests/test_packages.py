"""Values and gradients beside independent implementations from the package index, in float64 (extra `peers`)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import (
    BigBird,
    Linear,
    Linformer,
    NadarayaWatson,
    Nystrom,
    Performer,
    SlidingWindow,
    attend,
    attention_weights,
)
from attnzoo.kernels import performer
from tests.oracles.bigbird import block_pattern

torch = pytest.importorskip("torch", reason="torch is not here: install the extra `peers`")

BATCH, LENGTH, HEADS, DIM = 2, 24, 4, 6
SOME = np.array([LENGTH, 17])


def peer(module):
    return pytest.importorskip(module, reason=f"{module} is not here: install the extra `peers`", exc_type=ImportError)


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def operands(kv_heads=HEADS, length=LENGTH, heads=HEADS, batch=BATCH):
    return arrays((batch, length, heads, DIM), *[(batch, length, kv_heads, DIM)] * 2)


def assert_agree(ours, theirs, inputs, tolerance=1e-9, dtype=torch.float64):
    """The outputs of both, and the gradients of all inputs along one random direction of the output."""
    tensors = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in inputs]
    expected = theirs(*tensors)
    (direction,) = arrays(tuple(expected.shape), seed=9)
    slopes = torch.autograd.grad(expected, tensors, torch.tensor(direction, dtype=dtype))
    with jax.enable_x64(True):
        out, pull = jax.vjp(ours, *map(jnp.asarray, inputs))
        pairs = zip((out, *pull(jnp.asarray(direction))), (expected, *slopes), strict=True)
        for a, b in pairs:
            b = b.detach().numpy()
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))


def heads_first(function):
    """`function` of [B, N, T, H] as one of [B, T, N, H]."""
    return lambda *operands: function(*(x.transpose(1, 2) for x in operands)).transpose(1, 2)


def projected(x, *weights, heads=HEADS):
    """The projections of torch's layers, without their biases: [B, T, N, H] each."""
    return [(x @ w.T).reshape(*x.shape[:2], heads, -1) for w in weights]


def layer_inputs(width=HEADS * DIM, length=LENGTH, batch=BATCH, projections=3):
    x, *weights = arrays((batch, length, width), *[(width, width)] * projections)
    return [x, *(w / width**0.5 for w in weights)]


def without_biases(layer, parts):
    return {f"{part}.bias": torch.zeros_like(getattr(layer, part).bias) for part in parts}


# Softmax and the windows, beside torch's own.

RULES = {
    "plain": ({}, lambda i, j: i >= 0),
    "causal": ({"is_causal": True}, lambda i, j: i >= j),
    "window": ({"local_window_size": (3, 5)}, lambda i, j: (i - j <= 3) & (j - i <= 5)),
    "sliding": ({"kernel": SlidingWindow(4, 2)}, lambda i, j: (i - j <= 4) & (j - i <= 2)),
    "dilated": (
        {"kernel": SlidingWindow(2, 3, dilation=3)},
        lambda i, j: (i - j <= 6) & (j - i <= 9) & ((i - j) % 3 == 0),
    ),
    "offset": (
        {"is_causal": True, "query_offset": 3, "kernel": SlidingWindow(4, 0)},
        lambda i, j: (i + 3 >= j) & (i - j <= 1),
    ),
    "global": ({"kernel": SlidingWindow(1, 1, global_tokens=3)}, lambda i, j: (abs(i - j) <= 1) | (i < 3) | (j < 3)),
}


@pytest.mark.parametrize("rule", RULES)
def test_scaled_dot_product_attention_of_torch(rule):
    """With grouped heads, a bias that is learned, and a key that no query of an example may see."""
    arguments, joined = RULES[rule]
    i, j = np.ogrid[:LENGTH, :LENGTH]
    shown = np.ones((BATCH, LENGTH), bool)
    shown[0, 5] = False
    visible = torch.tensor((joined(i, j) & np.ones((LENGTH, LENGTH), bool))[None, None] & shown[:, None, None])

    def ours(q, k, v, bias):
        return attend(q, k, v, bias, key_mask=shown, **arguments)

    def theirs(q, k, v, bias):
        scores = bias.masked_fill(~visible, -torch.inf)
        function = functools.partial(
            torch.nn.functional.scaled_dot_product_attention, attn_mask=scores, enable_gqa=True
        )
        return heads_first(function)(q, k, v)

    assert_agree(ours, theirs, operands(kv_heads=2) + arrays((1, HEADS, LENGTH, LENGTH), seed=3))


def test_nadaraya_watson_is_torch_with_a_bias_of_norms():
    """-|q - k|^2 / 2h^2 is q.k / h^2 - |k|^2 / 2h^2, and a number that all keys of a query share."""

    def theirs(q, k, v):
        norms = -(k**2).sum(-1).transpose(1, 2)[:, :, None] / (2 * 0.7**2)
        attention = torch.nn.functional.scaled_dot_product_attention
        return heads_first(functools.partial(attention, attn_mask=norms, scale=0.7**-2))(q, k, v)

    assert_agree(lambda *qkv: attend(*qkv, kernel=NadarayaWatson(0.7)), theirs, operands())


@pytest.mark.parametrize("is_causal", [True, False])
def test_local_attention(is_causal):
    """Their window is exact on request: W keys before a query and, unless causal, W after it."""
    package = peer("local_attention")
    size, forward = 6, int(not is_causal)
    layer = package.LocalAttention(
        size, is_causal, look_forward=forward, exact_windowsize=True, use_rotary_pos_emb=False
    )
    shown = np.arange(LENGTH) < SOME[:, None]
    # A query beside padding alone averages it there; here it gives 0 and is padding itself.
    theirs = heads_first(functools.partial(layer, mask=torch.tensor(shown)))

    def masked(*qkv):
        return theirs(*qkv) * torch.tensor(shown)[..., None, None]

    def ours(q, k, v):
        kernel = SlidingWindow(size, forward * size)
        return attend(q, k, v, kernel=kernel, is_causal=is_causal, key_mask=shown, query_seq_lengths=SOME)

    assert_agree(ours, masked, operands())


# Longformer and BigBird, beside transformers.


@pytest.mark.parametrize("tokens", [0, 3], ids=["local", "global"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_longformer_of_transformers(tokens, padded):
    """Their window of w keys is w / 2 to each side; global tokens get the projections of the others here."""
    longformer = peer("transformers.models.longformer.modeling_longformer")
    parts = ["query", "key", "value"]
    config = longformer.LongformerConfig(
        hidden_size=HEADS * DIM,
        num_attention_heads=HEADS,
        num_hidden_layers=1,
        attention_window=[8],
        attention_probs_dropout_prob=0.0,
    )
    layer = longformer.LongformerSelfAttention(config, layer_id=0).eval()
    shown = np.arange(LENGTH) < (SOME if padded else SOME.max(keepdims=True).repeat(BATCH))[:, None]
    is_global = np.broadcast_to(np.arange(LENGTH) < tokens, shown.shape)
    mask = torch.tensor(np.where(is_global, 10000.0, np.where(shown, 0.0, -10000.0)))
    zeros = without_biases(layer, parts + [f"{part}_global" for part in parts])

    def theirs(x, *weights):
        own = {f"{part}.weight": w for part, w in zip(parts, weights, strict=True)}
        own |= {f"{part}_global.weight": w for part, w in zip(parts, weights, strict=True)}
        arguments = (mask, torch.tensor(~shown), torch.tensor(is_global.copy()), tokens > 0)
        out = torch.func.functional_call(layer, own | zeros, (x, *arguments))[0]
        return out.reshape(BATCH, LENGTH, HEADS, DIM)

    def ours(x, *weights):
        kernel = SlidingWindow(left=4, right=4, global_tokens=tokens)
        return attend(*projected(x, *weights), kernel=kernel, key_mask=shown, query_seq_lengths=shown.sum(axis=1))

    # Their softmax is in float32, where the lowest float64 would be infinite.
    assert_agree(ours, theirs, layer_inputs(), tolerance=5e-6, dtype=torch.float32)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_bigbird_of_transformers(padded):
    """With the random blocks that we draw put in place of theirs; the padding ends within the last block."""
    big_bird = peer("transformers.models.big_bird.modeling_big_bird")
    parts, size, blocks, drawn = ["query", "key", "value"], 4, 12, 2
    length, lengths = size * blocks, np.array([size * blocks, size * blocks - 3])
    kernel = BigBird(block_size=size, num_random=drawn)
    config = big_bird.BigBirdConfig(
        hidden_size=HEADS * DIM, num_attention_heads=HEADS, block_size=size, num_random_blocks=drawn, use_bias=False
    )
    layer = big_bird.BigBirdBlockSparseAttention(config, seed=0).double().train()
    random_blocks = random_blocks_of(kernel, length)
    layer._bigbird_block_rand_mask_with_head = lambda **plan: random_blocks
    shown = np.arange(length) < (lengths if padded else lengths.max(keepdims=True).repeat(BATCH))[:, None]
    make = big_bird.BigBirdModel.create_masks_for_block_sparse_attn
    blocked, band, rows, columns = make(torch.tensor(shown, dtype=torch.float64), size)

    def theirs(x, *weights):
        own = {f"{part}.weight": w for part, w in zip(parts, weights, strict=True)}
        out = torch.func.functional_call(layer, own, (x, band, rows, columns, blocked, blocked))[0]
        return out.reshape(BATCH, length, HEADS, DIM)

    def ours(x, *weights):
        lengths = shown.sum(axis=1)
        q, k, v = projected(x, *weights)
        return attend(q, k, v, kernel=kernel, query_seq_lengths=lengths, key_value_seq_lengths=lengths)

    assert_agree(ours, theirs, layer_inputs(length=length))


def random_blocks_of(kernel, length):
    """What our weights show beside the fixed pattern: for each head an array of [rows but the global ones, random]."""
    blocks = length // kernel.block_size
    ones = jnp.ones((1, length, HEADS, DIM))
    seen = np.asarray(attention_weights(ones, ones, kernel=kernel)[0] > 0)
    seen = seen.reshape(HEADS, blocks, kernel.block_size, blocks, kernel.block_size).any(axis=(2, 4))
    fixed = block_pattern(np.arange(blocks), length, kernel, is_causal=False)
    return [np.array([np.flatnonzero(row) for row in (head & ~fixed)[1:-1]]) for head in seen]


# The approximations.


def test_linear_attention_of_performer_pytorch():
    """Theirs has no epsilon."""
    package = peer("performer_pytorch.performer_pytorch")
    phi = lambda x: torch.nn.functional.elu(x) + 1
    theirs = heads_first(lambda q, k, v: package.linear_attention(phi(q), phi(k), v))
    assert_agree(lambda *qkv: attend(*qkv, kernel=Linear(epsilon=1e-30)), theirs, operands())


@pytest.mark.parametrize("is_causal", [False, True])
def test_performer_pytorch(monkeypatch, is_causal):
    """Without the floors that both add to features (theirs also 1e-6 to the normaliser when causal).

    Then stabilisers cancel, so that theirs, a maximum over all keys, may be compared with ours.
    """
    package = peer("performer_pytorch.performer_pytorch")
    (projection,) = arrays((16, DIM), seed=4)
    features = functools.partial(package.softmax_kernel, eps=0.0, projection_matrix=torch.tensor(projection))
    attention = package.linear_attention
    if is_causal:
        attention = functools.partial(package.causal_linear_attention_noncuda, chunk_size=7, eps=0.0)
    monkeypatch.setattr(performer, "FLOOR", 0.0)

    def theirs(q, k, v):
        return attention(features(q, is_query=True), features(k, is_query=False), v)

    def ours(q, k, v):
        return attend(q, k, v, kernel=Performer(16), draws=jnp.asarray(projection)[None], is_causal=is_causal)

    jax.clear_caches()
    assert_agree(ours, heads_first(theirs), operands())
    jax.clear_caches()


@pytest.mark.parametrize("share", ["heads", "kv"])
@pytest.mark.parametrize("length", [LENGTH, 15])
def test_linformer_of_its_package(share, length):
    """One E for all heads; with `share_kv` their keys are the values, too. A shorter input takes the first columns."""
    package = peer("linformer")
    width = HEADS * DIM
    layer = package.LinformerSelfAttention(width, LENGTH, k=5, heads=HEADS, share_kv=share == "kv").double()
    fixed = {"to_out.weight": torch.eye(width, dtype=torch.float64), "to_out.bias": torch.zeros(width).double()}
    x, *weights = layer_inputs(length=length, projections=2 if share == "kv" else 3)
    mixers = arrays(*[(LENGTH, 5)] * (len(weights) - 1), seed=6)

    def names():
        parts = ["q", "k", "v"][: len(weights)]
        return [f"to_{part}.weight" for part in parts] + [f"proj_{part}" for part in parts[1:]]

    def theirs(x, *given):
        own = dict(zip(names(), given, strict=True))
        return torch.func.functional_call(layer, own | fixed, (x,)).reshape(BATCH, length, HEADS, DIM)

    def ours(x, *given):
        given = dict(zip(names(), given, strict=True))
        q, k = projected(x, given["to_q.weight"], given["to_k.weight"])
        v = k if share == "kv" else projected(x, given["to_v.weight"])[0]
        params = {"key": given["proj_k"].T[None]}
        params |= {"value": given["proj_v"].T[None]} if share == "heads" else {}
        return attend(q, k, v, kernel=Linformer(rank=5, share=share), params=params)

    assert_agree(ours, theirs, [x, *weights, *mixers])


@pytest.mark.parametrize("padding", [0, 7])
def test_nystrom_attention(padding):
    """One head of one example, since their pseudo-inverse starts from a maximum over all. Padding is ours alone."""
    package = peer("nystrom_attention")
    layer = package.NystromAttention(DIM, dim_head=DIM, heads=1, num_landmarks=8, residual=False).double()
    fixed = {"to_out.0.weight": torch.eye(DIM, dtype=torch.float64), "to_out.0.bias": torch.zeros(DIM).double()}

    def theirs(x, *weights):
        own = {"to_qkv.weight": torch.cat(weights)}
        return torch.func.functional_call(layer, own | fixed, (x,))[:, :, None]

    def ours(x, *weights):
        operands = projected(jnp.pad(x, ((0, 0), (0, padding), (0, 0)), constant_values=1.0), *weights, heads=1)
        lengths = jnp.array([LENGTH])
        arguments = {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths} if padding else {}
        return attend(*operands, kernel=Nystrom(8), **arguments)[:, :LENGTH]

    assert_agree(ours, theirs, layer_inputs(width=DIM, batch=1))


def test_nystromformer_of_transformers():
    """With the start of each matrix by itself, which they call the exact coefficient; no convolution."""
    module = peer("transformers.models.nystromformer.modeling_nystromformer")
    parts = ["query", "key", "value"]
    config = module.NystromformerConfig(
        hidden_size=HEADS * DIM,
        num_attention_heads=HEADS,
        num_landmarks=8,
        segment_means_seq_len=LENGTH,
        attention_probs_dropout_prob=0.0,
    )
    layer = module.NystromformerSelfAttention(config).double().eval()
    layer.init_option, layer.conv_kernel_size = "exact", None
    zeros = without_biases(layer, parts)

    def theirs(x, *weights):
        own = {f"{part}.weight": w for part, w in zip(parts, weights, strict=True)}
        return torch.func.functional_call(layer, own | zeros, (x,))[0].reshape(BATCH, LENGTH, HEADS, DIM)

    assert_agree(lambda x, *weights: attend(*projected(x, *weights), kernel=Nystrom(8)), theirs, layer_inputs())
