"""Implementations in JAX; a factory takes the work and gives a `Function`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

import attnzoo
from experiments.peers.calls import BNTH, Function
from experiments.peers.patterns import PATTERNS
from experiments.peers.works import HEADS, Work


def ours(work: Work) -> Function:
    """attnzoo. Peers are given the same parameters and draws; of drawn features the first head's, for all heads."""
    params, draws = work.constants()
    options = {"kernel": work.kernel, "params": params, "draws": draws, "is_causal": work.is_causal}
    names = work.kernel.token_inputs(work.dims)
    if work.pattern:
        mask, score = PATTERNS[work.pattern](work.length, jnp.asarray)
        options |= {"mask_mod": mask, "score_mod": score}

    def attend(query, key, value, *brought):
        return attnzoo.attend(query, key, value, tokens=dict(zip(names, brought, strict=True)), **options)

    def layer(x, *weights):
        operands = [(x @ w.T).reshape(*x.shape[:2], HEADS, -1) for w in weights[:3]]
        out = attend(*operands).reshape(x.shape)
        return out @ weights[3].T if len(weights) > 3 else out

    return Function(layer if work.projections else attend)


def jax_nn(work: Work) -> Function:
    return Function(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=work.is_causal))


def tokamax_xla(work: Work) -> Function:
    return _tokamax(work, "xla")


def tokamax_chunked(work: Work) -> Function:
    return _tokamax(work, "xla_chunked")


def _tokamax(work, implementation):
    import tokamax

    def call(q, k, v):
        return tokamax.dot_product_attention(q, k, v, is_causal=work.is_causal, implementation=implementation)

    return Function(call)


def attnax(work: Work) -> Function:
    import attnax

    return Function(attnax.memory_efficient_attention, BNTH)


def flash_attention_jax(work: Work) -> Function:
    import flash_attention_jax as package

    return Function(lambda q, k, v: package.flash_attention(q, k, v, jnp.ones(k.shape[::2][:2], bool)), BNTH)
