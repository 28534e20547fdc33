"""Log-linear attention: a state space whose past is cut into blocks that grow by powers of two, each with a weight.

    o_i = scale sum_j lambda_i^(l(i, j)) e^(g_(j+1) + ... + g_i) beta_j (q_i . k_j) v_j
    l(i, j) = the number of binary digits of i xor j, at most `levels` - 1

over the keys j that query i may see, i and j counted from the first token of their document. Level 0 is the token
itself, level l > 0 a block of 2^(l - 1) tokens, of which a Fenwick tree has no two of one length before a query. Guo et
al. 2025, arXiv:2506.04761.

Levels up to l are the block of 2^l positions around i, which is a state that is forgotten where blocks end. So the sum
is one over `levels` state spaces, weighted by lambda^l - lambda^(l + 1). Cost O(levels (T + S) H Hv), state levels H Hv
for each head: with levels = log2 T + 1, beyond which pairs share the last weight, O(T log T) and O(log T).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from attnzoo.contract import fields, gates
from attnzoo.contract.call import Call, of_each_head
from attnzoo.contract.mask import Mask
from attnzoo.contract.support import TokenInput
from attnzoo.engines import dense, heads, recurrence
from attnzoo.engines.state import Channels, Write
from attnzoo.kernel import Kernel
from attnzoo.recurrent import IN_TIME, scaled

DIGITS = 32  # of a position


@dataclasses.dataclass(frozen=True)
class LogLinear(Kernel):
    """Log-linear Mamba-2: a state for each power of two of the past. Tokens bring `log_level` [levels], too.

    It is the logarithm of lambda, with which a token weighs the levels of its own past. A query is the token of its
    segment that stands at its position; where none does, or it is hidden, all levels weigh alike.

    Attributes:
      levels: how many weights a token has; 2^(levels - 1) tokens have levels of their own, and beyond is the last one.

    Raises:
      ValueError: `levels` is no integer from 1 to 32.

    Example:
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> brought = {"log_decay": jnp.zeros((1, 4, 2)), "beta": jnp.ones((1, 4, 2))}
      >>> levels = {"log_level": jnp.log(jnp.broadcast_to(jnp.array([1.0, 10.0, 100.0]), (1, 4, 2, 3)))}
      >>> given = {"tokens": brought | levels, "scale": 1 / 8, "is_causal": True}
      >>> attend(q, k, v, kernel=LogLinear(levels=3), **given)[0, :, 0, 0].round(2)
      Array([  1.,  11., 201., 211.], dtype=float32)
    """

    levels: int = 16

    supports = dataclasses.replace(IN_TIME, positions=True)

    def __post_init__(self):
        fields.positive_integer(self, "levels")
        if self.levels > DIGITS:
            raise ValueError(f"LogLinear(levels={self.levels}): levels must be at most {DIGITS}, digits of a position")

    def token_inputs(self, dims):
        of_levels = TokenInput((self.levels,), _log_softplus)
        return {"log_decay": gates.log_decay(), "beta": gates.step(), "log_level": of_levels}

    def head(self, params, draws, q, k, v, visible, *, scale, positions, log_decay, beta, log_level):
        precise = jnp.promote_types(q.dtype, jnp.float32)
        stands, places = jnp.arange(len(q)) + positions.query_offset, positions.key_places
        is_token = jnp.any(visible & (stands[:, None] == jnp.arange(len(k))[None]), axis=1)
        apart = _at(places, stands)[:, None] ^ places[None]
        level = jnp.minimum(DIGITS - jax.lax.clz(apart.astype(jnp.int32)), self.levels - 1)
        of_levels = jnp.where(is_token[:, None], _at(log_level.astype(precise), stands), 0)
        exponent = dense.behind(log_decay.astype(precise), visible) + jnp.take_along_axis(of_levels, level, axis=1)
        kept = jnp.where(visible, jnp.exp(exponent), 0)
        return (dense.scores(q, k, scale) * kept * beta[None] @ v.astype(precise)).astype(v.dtype)

    def batched(self, params, draws, q, k, v, call):
        weights, call = self._weights(call, functools.partial(_of_queries, call.mask), q.shape[2])
        places = jnp.broadcast_to(call.mask.key_places, (len(k), 1, k.shape[1]))[:, 0]

        def add(total, level):
            block, weight = level
            given = q * weight[..., None], k, heads.precise(v), _forgetting(call, places, block)
            return total + recurrence.attend(_rule_of(call), (), *given), None

        nothing = jnp.zeros_like(q * weights[0][..., None], shape=(*q.shape[:3], v.shape[-1]))
        return jax.lax.scan(jax.checkpoint(add), nothing, (self._blocks(), weights))[0].astype(v.dtype)

    def start(self, params, draws, dims, max_length, dtype):
        """The state of each query head and level: [B, levels, N, H, Hv]."""
        state = recurrence.start(
            _rule_of(None),
            (),
            *(dims.batch, dims.num_heads, dims.head_dim, dims.value_dim, dtype),
            {"log_decay": (), "beta": ()},
        )
        return jax.tree.map(lambda x: jnp.repeat(x[:, None], self.levels, axis=1), state)

    def step(self, params, draws, cache, q, k, v, positions, call):
        weights, call = self._weights(call, lambda x: x, q.shape[2])

        def add(total, level):
            block, weight, found = level
            given = q * weight[..., None], k, heads.precise(v), positions, _forgetting(call, positions, block)
            left, out = recurrence.step(_rule_of(call), (), found, *given)
            return total + out, left

        nothing = jnp.zeros_like(q * weights[0][..., None], shape=(*q.shape[:3], v.shape[-1]))
        by_level = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), cache)
        out, left = jax.lax.scan(add, nothing, (self._blocks(), weights, by_level))
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), left), out

    def _blocks(self):
        """The logarithms of the lengths of blocks: the last one has no end."""
        return jnp.arange(self.levels).at[-1].set(DIGITS - 1)

    def _weights(self, call: Call, of_queries: Callable, num_heads: int) -> tuple[jax.Array, Call]:
        """What queries weigh each block with that holds the ones before it, [levels, B, T, N], and what is left."""
        rest = of_each_head(call.tokens, num_heads)
        of_levels = jnp.exp(of_queries(heads.precise(rest.pop("log_level"))))
        weights = of_levels - jnp.pad(of_levels[..., 1:], [(0, 0)] * 3 + [(0, 1)])
        return jnp.moveaxis(weights, -1, 0), dataclasses.replace(call, tokens=rest)


def _rule_of(call: Call | None):
    """The rule of one level."""
    read = scaled(None if call is None else call.scale)

    def write(k, v, at, log_decay, beta):
        return Write((v,), (Channels(beta[:, None] * k, log_decay),))

    return lambda _: recurrence.Rule(read, write)


def _forgetting(call: Call, places: jax.Array, block: jax.Array) -> Call:
    """The same, where tokens at `places` [B, S] forget all before the block of 2^block that they begin."""
    begins = (places >= 0) & (places >> block << block == places)
    log_decay = jnp.where(begins[..., None], -jnp.inf, call.tokens["log_decay"])
    return dataclasses.replace(call, tokens=call.tokens | {"log_decay": log_decay})


def _of_queries(mask: Mask, of_tokens: jax.Array) -> jax.Array:
    """What the tokens [B, S, N, levels] bring that queries [B, T, N, levels] are, 0 where they are none."""
    stands = jnp.broadcast_to(mask.stands, (len(of_tokens), mask.query_length))
    if mask.segments is not None:
        of_query, of_key = (ids[:, 0] for ids in mask.segments)
        stands = jnp.where(jax.vmap(_at)(of_key, stands) == of_query, stands, -1)
    return jax.vmap(_at)(of_tokens, stands)


def _at(x, positions):
    """Rows of x [S, ...] at positions [T], 0 where there is none."""
    return x.at[positions].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _log_softplus(x):
    """log softplus(x), which is x where that vanishes."""
    return jnp.where(x < -15, x, jnp.log(jax.nn.softplus(jnp.maximum(x, -15))))
