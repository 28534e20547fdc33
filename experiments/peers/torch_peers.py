"""Implementations in PyTorch; a factory takes the work and gives a `Function`. Layers are called without biases."""

from __future__ import annotations

import contextlib
import io
import itertools

import jax.numpy as jnp
import numpy as np
import torch

from attnzoo import Linear
from experiments.peers.calls import BNTH, Function
from experiments.peers.patterns import PATTERNS
from experiments.peers.works import HEAD_DIM, HEADS, Work

WIDTH = HEADS * HEAD_DIM
CHUNK = 128


def sdpa(work: Work) -> Function:
    attention = torch.nn.functional.scaled_dot_product_attention
    return Function(lambda q, k, v: attention(q, k, v, is_causal=work.is_causal), BNTH)


def flex(work: Work) -> Function:
    """Compiled, with a block mask of the pattern or the window where there is one."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention)
    if work.pattern:
        mask, score = PATTERNS[work.pattern](work.length, torch.tensor)
        sizes = (None, HEADS, work.length, work.length, "cpu")
        blocks = create_block_mask(lambda b, h, i, j: mask(h, i, j), *sizes, _compile=True)
        changed = None if score is None else lambda s, b, h, i, j: score(s, h, i, j)
        return Function(lambda q, k, v: compiled(q, k, v, score_mod=changed, block_mask=blocks), BNTH)
    left, right = getattr(work.kernel, "left", work.length), getattr(work.kernel, "right", work.length)
    right = 0 if work.is_causal else right

    def joined(batch, head, i, j):
        return (i - j <= left) & (j - i <= right)

    everything = min(left, right) >= work.length
    sizes = (None, None, work.length, work.length, "cpu")
    block_mask = None if everything else create_block_mask(joined, *sizes, _compile=True)
    return Function(lambda q, k, v: compiled(q, k, v, block_mask=block_mask), BNTH)


def local_attention(work: Work) -> Function:
    from local_attention import LocalAttention

    layer = LocalAttention(work.kernel.left, work.is_causal, exact_windowsize=True, use_rotary_pos_emb=False)
    return Function(layer, BNTH)


def longformer(work: Work) -> Function:
    from transformers.models.longformer import modeling_longformer as module

    window = work.kernel.left + work.kernel.right
    config = module.LongformerConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_hidden_layers=1,
        attention_window=[window],
        attention_probs_dropout_prob=0.0,
    )
    layer = _without_biases(module.LongformerSelfAttention(config, layer_id=0).eval())
    nowhere = torch.zeros(1, work.length)
    arguments = (nowhere, nowhere.bool(), nowhere.bool(), False)

    def call(x, *weights):
        return _called(layer, ("query", "key", "value"), weights, (x, *arguments))[0].reshape(x.shape)

    return Function(call)


def big_bird(work: Work) -> Function:
    """In training mode, since it draws no random blocks otherwise; with ours in place of its own."""
    from transformers.models.big_bird import modeling_big_bird as module

    kernel, length = work.kernel, work.length
    config = module.BigBirdConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        block_size=kernel.block_size,
        num_random_blocks=kernel.num_random,
        use_bias=False,
        max_position_embeddings=length,
    )
    layer = module.BigBirdBlockSparseAttention(config, seed=0).train()
    turns = itertools.cycle(_random_blocks(work))
    layer._bigbird_block_rand_mask = lambda *_, **__: next(turns)
    make = module.BigBirdModel.create_masks_for_block_sparse_attn
    blocked, band, rows, columns = make(torch.ones(1, length), kernel.block_size)
    arguments = (band, rows, columns, blocked, blocked)

    def call(x, *weights):
        return _called(layer, ("query", "key", "value"), weights, (x, *arguments))[0].reshape(x.shape)

    return Function(call)


def _random_blocks(work) -> list[np.ndarray]:
    """Of each head, for the rows between the global ones: int [rows, num_random]."""
    kernel, (_, draws) = work.kernel, work.constants()
    blocks = work.length // kernel.block_size
    first = kernel.num_global + kernel.num_window
    listed = [np.asarray(kernel.listed_blocks(draw, jnp.arange(blocks), blocks, False)) for draw in draws]
    return [own[1:-1, first : first + kernel.num_random] for own in listed]


def performer_pytorch(work: Work) -> Function:
    """Their causal attention on a CPU, with our features, or with their own elu for linear attention."""
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of CUDA code that is not there
        from performer_pytorch import performer_pytorch as package
    query_features, key_features = _features(work)

    def call(q, k, v):
        return package.causal_linear_attention_noncuda(query_features(q), key_features(k), v)

    return Function(call, BNTH)


def chunked(work: Work) -> Function:
    query_features, key_features = _features(work)
    epsilon = getattr(work.kernel, "epsilon", 0.0)
    return Function(lambda q, k, v: in_chunks(query_features(q), key_features(k), v, epsilon), BNTH)


def in_chunks(phi, psi, values, epsilon: float):
    """Causal linear attention in chunks, as one would write it in PyTorch: no loop, sums by `cumsum` over chunks."""
    inside = torch.ones(CHUNK, CHUNK).tril()
    phi, psi, values = (x.unflatten(2, (-1, CHUNK)) for x in (phi, psi, values))
    states, sums = psi.transpose(-1, -2) @ values, psi.sum(dim=-2)
    states, sums = states.cumsum(dim=2) - states, sums.cumsum(dim=2) - sums
    weights = phi @ psi.transpose(-1, -2) * inside
    above = weights @ values + phi @ states
    below = weights.sum(dim=-1) + (phi @ sums[..., None])[..., 0]
    return (above / (below + epsilon)[..., None]).flatten(2, 3)


def _features(work):
    if isinstance(work.kernel, Linear):
        phi = lambda x: torch.nn.functional.elu(x) + 1
        return phi, phi
    from performer_pytorch import performer_pytorch as package

    projection = torch.tensor(np.asarray(work.constants()[1][0]))
    query = lambda x: package.softmax_kernel(x, projection_matrix=projection, is_query=True)
    key = lambda x: package.softmax_kernel(x, projection_matrix=projection, is_query=False)
    return query, key


def nystrom(work: Work) -> Function:
    from nystrom_attention import NystromAttention

    kernel = work.kernel
    layer = NystromAttention(
        WIDTH, HEAD_DIM, HEADS, kernel.landmarks, pinv_iterations=kernel.iterations, residual=False
    )
    layer = _without_biases(layer.eval())

    def call(x, query, key, value, out):
        own = {"to_qkv.weight": torch.cat([query, key, value]), "to_out.0.weight": out}
        return torch.func.functional_call(layer, own, (x,))

    return Function(call)


def nystromformer(work: Work) -> Function:
    """Without its convolution, and with the start of each pseudo-inverse by itself."""
    from transformers.models.nystromformer import modeling_nystromformer as module

    config = module.NystromformerConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_landmarks=work.kernel.landmarks,
        segment_means_seq_len=work.length,
        attention_probs_dropout_prob=0.0,
    )
    layer = _without_biases(module.NystromformerSelfAttention(config).eval())
    layer.init_option, layer.conv_kernel_size = "exact", None

    def call(x, *weights):
        return _called(layer, ("query", "key", "value"), weights, (x,))[0]

    return Function(call)


def linformer(work: Work) -> Function:
    import linformer as package

    params, _ = work.constants()
    layer = package.LinformerSelfAttention(WIDTH, work.length, k=work.kernel.rank, heads=HEADS).eval()
    layer = _without_biases(layer)
    fixed = {f"proj_{name[0]}": torch.tensor(np.asarray(params[name][0].T)) for name in ("key", "value")}

    def call(x, *weights):
        own = {f"to_{part}.weight": w for part, w in zip(("q", "k", "v", "out"), weights, strict=True)}
        return torch.func.functional_call(layer, own | fixed, (x,))

    return Function(call)


def _called(layer, parts, weights, arguments):
    own = {f"{part}.weight": weight for part, weight in zip(parts, weights, strict=True)}
    return torch.func.functional_call(layer, own, arguments)


def _without_biases(layer):
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    return layer
