"""Three recurrences and a gated softmax by their equations alone: gates, which the contract must carry."""

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo import Kernel, Support, TokenInput
from attnzoo.engines import dense

FORGETS = TokenInput(activation=lambda x: -jax.nn.softplus(x))
WRITES = TokenInput(activation=jax.nn.sigmoid)


@dataclasses.dataclass(frozen=True)
class GatedDelta(Kernel):
    """S <- e^g S, then S <- S + beta k (v - S^T k)^T: Yang, Kautz and Hatamizadeh 2024, arXiv:2412.06464, eq. 10."""

    supports = Support(
        causal=True, bidirectional=False, key_mask=True, segments=True, mask=True, cross=True, decode=True,
        why="its state is written in the order of time, by keys and values as they are",
    )  # fmt: skip

    def token_inputs(self, dims):
        return {"log_decay": FORGETS, "beta": WRITES}

    def head(self, params, draws, q, k, v, visible, *, log_decay, beta):
        return recurrent(q, k, v, visible, log_decay[:, None], beta, is_delta=True)


@dataclasses.dataclass(frozen=True)
class Delta(GatedDelta):
    """S <- S + beta k (v - S^T k)^T: Schlag, Irie and Schmidhuber 2021, arXiv:2102.11174, eq. 21-24."""

    def token_inputs(self, dims):
        return {"beta": WRITES}

    def head(self, params, draws, q, k, v, visible, *, beta):
        return recurrent(q, k, v, visible, jnp.zeros((len(k), 1), k.dtype), beta, is_delta=True)


@dataclasses.dataclass(frozen=True)
class GatedLinear(GatedDelta):
    """S <- diag(e^g) S + k v^T: Yang et al. 2023, arXiv:2312.06635, eq. 3. A decay for each token and channel."""

    def token_inputs(self, dims):
        return {"log_decay": FORGETS._replace(shape=(dims.head_dim,))}

    def head(self, params, draws, q, k, v, visible, *, log_decay):
        return recurrent(q, k, v, visible, log_decay, jnp.ones(len(k), k.dtype), is_delta=False)


@dataclasses.dataclass(frozen=True)
class GatedSoftmax(Kernel):
    """Softmax over values that tokens let through: no recurrence, and so for any place in a model."""

    supports = Support(causal=True, key_mask=True, cross=True, decode=True)

    def token_inputs(self, dims):
        return {"gate": WRITES}

    def head(self, params, draws, q, k, v, visible, *, gate):
        return dense.attend(dense.scores(q, k), gate[:, None].astype(v.dtype) * v, visible)[0]


def recurrent(q, k, v, visible, log_decay, beta, is_delta):
    """What each query reads from a state of its own [T, H, Hv], into which the keys that it sees were written."""
    dtype = v.dtype
    q, k, v, log_decay, beta = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (q, k, v, log_decay, beta))
    k = k * jax.lax.rsqrt(1 + jnp.sum(k**2, axis=-1, keepdims=True)) if is_delta else k

    def write(state, token):
        k, v, log_decay, beta, seen = token
        state = state * jnp.exp(jnp.where(seen[:, None], log_decay, 0))[:, :, None]
        new = v - jnp.einsum("thv,h->tv", state, k) if is_delta else jnp.broadcast_to(v, (len(seen), len(v)))
        return state + jnp.where(seen, beta, 0)[:, None, None] * k[None, :, None] * new[:, None, :], None

    empty = jnp.zeros((len(q), k.shape[1], v.shape[1]), v.dtype)
    state, _ = jax.lax.scan(write, empty, (k, v, log_decay, beta, visible.T))
    return jnp.einsum("th,thv->tv", q, state).astype(dtype)
