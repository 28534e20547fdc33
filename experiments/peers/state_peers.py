"""Kernels whose tokens have an order in time, in PyTorch; a factory takes the work and gives a `Function`.

Those of fla are references, which its own kernels are tested against. Those of transformers give way to fla's kernels
where these are installed, which no CPU runs, and so they are unwrapped.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math

import numpy as np
import torch

from experiments.peers.calls import BNTH, Function
from experiments.peers.works import Work

CHUNK, BLOCK = 64, 16
EPSILON = 1e-6  # beside squared norms, as in public code


def _public(module: str, name: str):
    return inspect.unwrap(getattr(importlib.import_module(module), name))


def _fla(folder: str, name: str):
    return _public(f"fla.ops.{folder}.naive", name)


def _unit(x):
    return x * torch.rsqrt((x**2).sum(-1, keepdim=True) + EPSILON)


def retention_of_mamba(work: Work) -> Function:
    decays = torch.tensor(np.asarray(work.constants()[1]))
    return Function(lambda q, k, v: _scan()(q, k, v, decays.expand(v.shape[:3])))


def retention_of_gla(work: Work) -> Function:
    decays, chunked = torch.tensor(np.asarray(work.constants()[1])), _fla("simple_gla", "naive_chunk_simple_gla")
    return Function(lambda q, k, v: chunked(q, k, v, decays.expand(v.shape[:3]))[0])


def state_space(work: Work) -> Function:
    return Function(lambda q, k, v, log_decay, beta: _scan()(q, k, v * beta[..., None], log_decay))


def _scan():
    """Of Mamba-2, with steps of 1: what it multiplies them by may be of each token, and is the logarithm of decays."""
    scan = _public("transformers.models.mamba2.modeling_mamba2", "mamba2_chunk_scan")

    def call(q, k, v, log_decay):
        return scan(v, torch.ones_like(log_decay), log_decay, k, q * q.shape[-1] ** -0.5, 2 * CHUNK)

    return call


def simple_gla(work: Work) -> Function:
    chunked = _fla("simple_gla", "naive_chunk_simple_gla")
    return Function(lambda q, k, v, log_decay, beta: chunked(q, k, v * beta[..., None], log_decay)[0])


def gated_linear(work: Work) -> Function:
    recurrent = _fla("gla", "naive_recurrent_gla")
    return Function(lambda *given: recurrent(*given)[0])


def gated_linear_in_chunks(work: Work) -> Function:
    """As one would write it in PyTorch: what is left between two tokens is a ratio of what is left from the start."""
    inside = torch.ones(CHUNK, CHUNK).tril()

    def call(q, k, v, log_decay):
        q, k, v, log_decay = (x.unflatten(2, (-1, CHUNK)) for x in (q * q.shape[-1] ** -0.5, k, v, log_decay))
        upto = log_decay.cumsum(dim=3)
        q, last = q * upto.exp(), upto[..., -1:, :]
        own = (q @ (k * (-upto).exp()).mT * inside) @ v
        written = (k * (last - upto).exp()).mT @ v
        kept, state, states = last.exp().mT, torch.zeros_like(written[:, :, 0]), []
        for chunk in range(written.shape[2]):
            states.append(state)
            state = state * kept[:, :, chunk] + written[:, :, chunk]
        return (own + q @ torch.stack(states, dim=2)).flatten(2, 3)

    return Function(call, BNTH)


def delta(work: Work) -> Function:
    recurrence = _fla("delta_rule", "delta_rule_recurrence")
    return Function(lambda q, k, v, beta: recurrence(_unit(q), _unit(k), v, beta.mT)[0], BNTH)


def delta_in_chunks(work: Work) -> Function:
    chunked = _fla("delta_rule", "delta_rule_chunkwise")
    return Function(lambda q, k, v, beta: chunked(_unit(q), _unit(k), v, beta.mT)[0], BNTH)


def delta_rule_in_chunks(work: Work) -> Function:
    """As one would write it in PyTorch: what tokens write is solved for in all chunks at once, what they find apart."""

    def call(q, k, v, *brought):
        *decays, beta = (x if x.ndim == 4 else x.mT[..., None] for x in brought)
        q, k, v, beta, *decays = (x.unflatten(2, (-1, CHUNK)) for x in (_unit(q), _unit(k), v, beta, *decays))
        products, found, behind, kept = _left_of(*decays)
        q, right = q * q.shape[-1] ** -0.5, torch.cat([beta * v, beta * k * found], dim=-1)
        solved = torch.linalg.solve_triangular(beta * products(k, k), right, upper=False, unitriangular=True)
        (values, turned), own = solved.split([v.shape[-1], k.shape[-1]], dim=-1), products(q, k).tril()
        q, written, state, outs = q * found, (k * behind).mT, torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1]), []
        for chunk in range(q.shape[2]):
            at = (slice(None), slice(None), chunk)
            new = values[at] - turned[at] @ state
            outs.append(q[at] @ state + own[at] @ new)
            state = (state if kept is None else state * kept[at]) + written[at] @ new
        return torch.stack(outs, dim=2).flatten(2, 3)

    return Function(call, BNTH)


def _left_of(log_decay=None):
    """What is left where decays [..., t, 1 or H] are of tokens, or of channels, too.

    Returns products of queries and keys [..., t, s], right where t >= s; and factors: up to each token, behind each,
    and of a chunk.
    """
    if log_decay is None:
        return (lambda x, key: x @ key.mT), 1, 1, None
    upto = log_decay.cumsum(dim=-2)
    last = upto[..., -1:, :]
    of = _products_by_channel if upto.shape[-1] > 1 else _products_by_token
    return functools.partial(of, upto), upto.exp(), (last - upto).exp(), last.exp().mT


def _products_by_token(upto, x, key):
    return x @ key.mT * (upto - upto.mT).tril().exp()


def _products_by_channel(upto, x, key):
    """Relative to where blocks of queries start, so that keys in them are divided by what these forget, and no more."""
    starts = torch.nn.functional.pad(upto[..., BLOCK - 1 : -1 : BLOCK, :], (0, 0, 1, 0))[..., None, :]
    blocks = torch.arange(CHUNK) // BLOCK
    is_later = (blocks > torch.arange(CHUNK // BLOCK)[:, None])[..., None]
    keys = key[..., None, :, :] * (starts - upto[..., None, :, :]).masked_fill(is_later, -torch.inf).exp()
    queries = x.unflatten(-2, (-1, BLOCK)) * (upto.unflatten(-2, (-1, BLOCK)) - starts).exp()
    return (queries @ keys.mT).flatten(-3, -2)


def gated_delta(work: Work) -> Function:
    chunked = _public("transformers.models.qwen3_next.modeling_qwen3_next", "torch_chunk_gated_delta_rule")
    return Function(lambda *given: chunked(*given, CHUNK, use_qk_l2norm_in_kernel=True)[0])


def delta_of_gated(work: Work) -> Function:
    gated = gated_delta(work).call
    return Function(lambda q, k, v, beta: gated(q, k, v, torch.zeros_like(beta), beta))


def gated_delta_by_token(work: Work) -> Function:
    recurrent = _fla("gated_delta_rule", "naive_recurrent_gated_delta_rule")
    return Function(lambda q, k, v, log_decay, beta: recurrent(_unit(q), _unit(k), v, beta, log_decay)[0])


def kimi(work: Work) -> Function:
    chunked = _public("transformers.models.kimi_linear.modeling_kimi_linear", "chunk_kimi_delta_attention")
    return Function(lambda *given: chunked(*given, CHUNK, use_qk_l2norm_in_kernel=True)[0])


def kimi_by_token(work: Work) -> Function:
    recurrent = _fla("kda", "naive_recurrent_kda")
    return Function(lambda q, k, *rest: recurrent(_unit(q), _unit(k), *rest)[0])


def log_linear(work: Work) -> Function:
    pairs = _fla("log_linear_attn", "naive_log_linear_attn")

    def call(q, k, v, log_decay, beta, log_level):
        return pairs(q, k, v * beta[..., None], log_decay, log_level.exp(), None)

    return Function(call)


def forgetting(work: Work) -> Function:
    return Function(_fla("forgetting_attn", "naive_forgetting_attn"))


def forgetting_of_flex(work: Work) -> Function:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention)
    sizes = (None, None, work.length, work.length, "cpu")
    blocks = create_block_mask(lambda b, h, i, j: j <= i, *sizes, _compile=True)

    def call(q, k, v, log_forget):
        upto = log_forget.cumsum(dim=1)
        return compiled(q, k, v, score_mod=lambda s, b, h, i, j: s + upto[b, i, h] - upto[b, j, h], block_mask=blocks)

    return Function(call, BNTH)


def based_of_pairs(work: Work) -> Function:
    return Function(_fla("based", "naive_parallel_based"), BNTH)


def based_in_chunks(work: Work) -> Function:
    return Function(_fla("based", "naive_chunk_based"), BNTH)


def cosformer(work: Work) -> Function:
    """Linear attention in chunks over twice as many features."""
    from experiments.peers import torch_peers

    angles = torch.arange(work.length)[:, None] * (math.pi / 2 / work.kernel.max_length)

    def features(x):
        x = torch.relu(x)
        return torch.cat([x * angles.cos(), x * angles.sin()], dim=-1)

    attend = functools.partial(torch_peers.in_chunks, epsilon=work.kernel.epsilon)
    return Function(lambda q, k, v: attend(features(q), features(k), v), BNTH)
