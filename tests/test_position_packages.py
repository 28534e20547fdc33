"""Positions beside independent implementations from the package index, in float64 (extra `peers`)."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import ALiBi, LinearBias, ShawBias, T5Bias, T5Buckets, attend, rotate, sinusoidal
from attnzoo.positions import t5
from tests.test_packages import (
    BATCH,
    DIM,
    HEADS,
    LENGTH,
    arrays,
    assert_agree,
    heads_first,
    layer_inputs,
    operands,
    peer,
    projected,
    without_biases,
)

torch = pytest.importorskip("torch", reason="torch is not here: install the extra `peers`")
attention = torch.nn.functional.scaled_dot_product_attention


@pytest.mark.parametrize("width", [DIM, 4])
def test_interleaved_rotation_is_that_of_rotary_embedding_torch(width):
    """Its frequencies are kept in float32, which the tolerance allows for."""
    layer = peer("rotary_embedding_torch").RotaryEmbedding(dim=width, cache_if_possible=False)
    theirs = lambda x: heads_first(functools.partial(layer.rotate_queries_or_keys, offset=5))(x)
    ours = lambda x: rotate(x, jnp.arange(LENGTH) + 5, width=width)
    assert_agree(ours, theirs, arrays((BATCH, LENGTH, HEADS, DIM)), tolerance=2e-6)


def test_half_rotation_is_that_of_llama():
    llama = peer("transformers.models.llama.modeling_llama")
    positions = np.array([np.arange(LENGTH), np.arange(LENGTH)[::-1] * 3])
    angles = positions[..., None] / 10000.0 ** (np.arange(0, DIM, 2) / DIM)
    cos, sin = (torch.tensor(np.tile(f(angles), 2)) for f in (np.cos, np.sin))

    def theirs(q, k, v):
        q, k = llama.apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
        return attention(q, k, v.transpose(1, 2)).transpose(1, 2)

    def ours(q, k, v):
        return attend(rotate(q, positions, pairing="half"), rotate(k, positions, pairing="half"), v)

    assert_agree(ours, theirs, operands())


def test_sinusoids_of_transformers():
    distilbert = peer("transformers.models.distilbert.modeling_distilbert")
    expected = torch.zeros(LENGTH, 10)
    distilbert.create_sinusoidal_embeddings(LENGTH, 10, expected)
    np.testing.assert_allclose(sinusoidal(np.arange(LENGTH), 10), expected.numpy(), atol=2e-6)


@pytest.mark.parametrize("num_heads", range(1, 34))
def test_slopes_of_x_transformers(num_heads):
    theirs = peer("x_transformers.x_transformers").AlibiPositionalBias(num_heads)
    np.testing.assert_allclose(ALiBi.of(num_heads).slopes, theirs.slopes.flatten().numpy(), rtol=1e-6)


def test_alibi_of_x_transformers():
    theirs = peer("x_transformers.x_transformers").AlibiPositionalBias(HEADS).double()
    bias = theirs(LENGTH, LENGTH)

    def ours(q, k, v):
        return attend(q, k, v, LinearBias(jnp.asarray(theirs.slopes.flatten().numpy())), is_causal=True)

    causal = bias.masked_fill(torch.ones(LENGTH, LENGTH, dtype=bool).triu(1), -torch.inf)[None]
    assert_agree(ours, heads_first(functools.partial(attention, attn_mask=causal)), operands())


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("kind", [(32, 128), (16, 128), (8, 20), (64, 1000)], ids=str)
def test_buckets_of_transformers_and_x_transformers(kind, bidirectional):
    distance = np.arange(-kind[1], kind[1] + 1)
    found = t5.of_distances(T5Buckets(*kind, bidirectional))
    module = peer("transformers.models.t5.modeling_t5")
    bucket = module.T5Attention._relative_position_bucket
    np.testing.assert_array_equal(found, bucket(torch.tensor(distance), bidirectional, *kind))
    bucket = peer("x_transformers.x_transformers").RelativePositionBias._relative_position_bucket
    np.testing.assert_array_equal(found, bucket(torch.tensor(distance), not bidirectional, *kind))


@pytest.mark.parametrize("is_decoder", [False, True])
def test_attention_of_t5(is_decoder):
    """Their whole layer, which leaves scores unscaled, with the gradient of the table."""
    module = peer("transformers.models.t5.modeling_t5")
    config = module.T5Config(
        d_model=HEADS * DIM, d_kv=DIM, num_heads=HEADS, relative_attention_max_distance=12, dropout_rate=0.0,
        relative_attention_num_buckets=8, is_decoder=is_decoder,
    )  # fmt: skip
    layer = module.T5Attention(config, has_relative_attention_bias=True, layer_idx=0).double().eval()

    def theirs(table, x, *weights):
        own = {f"{part}.weight": w for part, w in zip("qkv", weights, strict=True)}
        own |= {"relative_attention_bias.weight": table.T, "o.weight": torch.eye(HEADS * DIM).double()}
        hidden = torch.full((LENGTH, LENGTH), -1e30 if is_decoder else 0.0).triu(1).double()[None, None]
        return torch.func.functional_call(layer, own, (x,), {"mask": hidden})[0].reshape(BATCH, LENGTH, HEADS, DIM)

    def ours(table, x, *weights):
        bias = T5Bias(table, max_distance=12, bidirectional=not is_decoder)
        return attend(*projected(x, *weights), bias, scale=1.0, is_causal=is_decoder)

    assert_agree(ours, theirs, arrays((HEADS, 8), seed=4) + layer_inputs())


def test_shaws_vectors_of_wav2vec2_bert():
    """Their `relative_key`, with the gradient of the vectors; beyond the clip as well as within."""
    module = peer("transformers.models.wav2vec2_bert.modeling_wav2vec2_bert")
    config = module.Wav2Vec2BertConfig(
        hidden_size=HEADS * DIM, num_attention_heads=HEADS, position_embeddings_type="relative_key",
        left_max_position_embeddings=5, right_max_position_embeddings=5, attention_dropout=0.0,
        attn_implementation="eager",
    )  # fmt: skip
    layer = module.Wav2Vec2BertSelfAttention(config).double().eval()
    parts = ["linear_q", "linear_k", "linear_v"]
    zeros = without_biases(layer, [*parts, "linear_out"]) | {"linear_out.weight": torch.eye(HEADS * DIM).double()}

    def theirs(table, x, *weights):
        own = {f"{part}.weight": w for part, w in zip(parts, weights, strict=True)}
        own |= {"distance_embedding.weight": table}
        return torch.func.functional_call(layer, own | zeros, (x,))[0].reshape(BATCH, LENGTH, HEADS, DIM)

    def ours(table, x, *weights):
        return attend(*projected(x, *weights), ShawBias(table[None]))

    assert_agree(ours, theirs, arrays((11, DIM), seed=4) + layer_inputs())
