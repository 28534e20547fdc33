"""The recurrences of `gated_kernels.py`, and two more, on the engine of states."""

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo import Kernel
from attnzoo.engines import recurrence
from attnzoo.engines.state import Channels, Write
from tests import gated_kernels
from tests.gated_kernels import FORGETS

SUPPORTS = dataclasses.replace(gated_kernels.GatedDelta.supports, mask=False, work=1.0, memory=1.0)


class OnStates:
    """Whose `rule_of` says of one head what `head` says of it."""

    supports = SUPPORTS

    def batched(self, params, draws, q, k, v, call):
        return recurrence.attend(self.rule_of, draws, q, k, v, call)

    def start(self, params, draws, dims, max_length, dtype):
        shapes = {name: x.shape for name, x in self.token_inputs(dims).items()}
        sizes = dims.batch, dims.num_heads, dims.head_dim, dims.value_dim
        return recurrence.start(self.rule_of, draws, *sizes, dtype, shapes)

    def step(self, params, draws, cache, q, k, v, positions, call):
        return recurrence.step(self.rule_of, draws, cache, q, k, v, positions, call)

    def rule_of(self, constants):
        def write(k, v, at, log_decay=None, beta=None):
            k = k * jax.lax.rsqrt(1 + jnp.sum(k**2, axis=-1, keepdims=True)) if beta is not None else k
            return Write((v,), (Channels(k, self.decay(constants, log_decay)),), beta)

        return recurrence.Rule(lambda q, at: (q,), write)

    def decay(self, constants, log_decay):
        return log_decay


@dataclasses.dataclass(frozen=True)
class GatedDelta(OnStates, gated_kernels.GatedDelta):
    """A decay for each token, and the delta rule."""


@dataclasses.dataclass(frozen=True)
class Delta(OnStates, gated_kernels.Delta):
    """No decay, and the delta rule."""


@dataclasses.dataclass(frozen=True)
class GatedLinear(OnStates, gated_kernels.GatedLinear):
    """A decay for each token and channel."""


@dataclasses.dataclass(frozen=True)
class ChannelDelta(OnStates, gated_kernels.GatedDelta):
    """A decay for each token and channel, and the delta rule: Kimi Team 2025, arXiv:2510.26692."""

    def token_inputs(self, dims):
        return super().token_inputs(dims) | {"log_decay": FORGETS._replace(shape=(dims.head_dim,))}

    def head(self, params, draws, q, k, v, visible, *, log_decay, beta):
        return gated_kernels.recurrent(q, k, v, visible, log_decay, beta, is_delta=True)


@dataclasses.dataclass(frozen=True)
class Retention(OnStates, Kernel):
    """S <- e^g S + k v^T, g of each head: Sun et al. 2023, arXiv:2307.08621, eq. 5. Hidden positions count."""

    supports = dataclasses.replace(SUPPORTS, positions=True)

    def draw(self, rng, dims):
        return jnp.log1p(-jnp.exp2(-3.0 - jnp.arange(dims.num_heads)))

    def head(self, params, draws, q, k, v, visible, *, positions):
        precise = jnp.promote_types(q.dtype, jnp.float32)
        distance = jnp.arange(len(q))[:, None] + positions.query_offset - jnp.arange(len(k))
        kept = jnp.where(visible, jnp.exp(draws.astype(precise) * jnp.where(visible, distance, 0)), 0)
        q, k, v, dtype = *(x.astype(precise) for x in (q, k, v)), v.dtype
        return (q @ k.T * kept @ v).astype(dtype)

    def decay(self, constants, log_decay):
        return constants
