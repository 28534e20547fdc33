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
from attnzoo.contract.shards import Shards
from attnzoo.contract.support import TokenInput
from attnzoo.engines import dense, heads, recurrence
from attnzoo.engines.state import Channels, Write
from attnzoo.recurrent import IN_TIME, Recurrent, scaled

DIGITS = 32  # of a position


@dataclasses.dataclass(frozen=True)
class LogLinear(Recurrent):
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

    def rule(self, params, draws, scale):
        read = scaled(scale)

        def of_each_level(q, at):
            width = q.shape[1] - 2 * self.levels
            q, rounded, rest = jnp.split(q, [width, width + self.levels], axis=1)
            return ((rounded + rest).T[..., None] * read(q, at)[0][None],)

        def write(k, v, at, log_decay, beta, begins):
            level = jax.lax.broadcasted_iota(jnp.int32, (self.levels, k.shape[0]), 0)
            is_new = (begins[None] > level.astype(begins.dtype)) & (level < self.levels - 1)  # the last one has no end
            keys = jnp.broadcast_to(beta[:, None] * k, (self.levels, *k.shape))
            return Write((v,), (Channels(keys, jnp.where(is_new, -jnp.inf, log_decay[None])),))

        return recurrence.Rule(of_each_level, write)

    def batched(self, params, draws, q, k, v, call):
        length = k.shape[1] if call.shards is None else call.shards.key_length
        if self.levels > (used := _levels(length)):
            tokens = call.tokens | {"log_level": call.tokens["log_level"][..., :used]}
            fewer = dataclasses.replace(self, levels=used)
            return fewer.batched(params, draws, q, k, v, dataclasses.replace(call, tokens=tokens))
        of_queries = functools.partial(_of_queries, call.mask)
        q, call = self._levelled(q, call, _places(call.mask, call.shards), of_queries)
        return super().batched(params, draws, q, k, v, call)

    def start(self, params, draws, dims, max_length, dtype):
        """The state of each query head and level."""
        sizes = dims.batch, dims.num_heads, dims.head_dim, dims.value_dim, dtype
        brought = dict.fromkeys(("log_decay", "beta", "begins"), ())
        return recurrence.start(self._rule_of(None), (params, draws), *sizes, brought)

    def step(self, params, draws, cache, q, k, v, positions, call):
        q, call = self._levelled(q, call, positions[:, None], lambda x: x)
        return super().step(params, draws, cache, q, k, v, positions, call)

    def _levelled(self, q: jax.Array, call: Call, places: jax.Array, of_queries: Callable) -> tuple[jax.Array, Call]:
        """Queries [B, T, N, H + 2 levels] with what they weigh each level with beside the ones before it, and tokens
        that bring in place of that how many levels begin anew with them. A weight is two numbers, the second of which
        was rounded off the first: weights are differences, which bfloat16 would tell too little of.

        Args:
          places: int [S] or [B, 1, S], where tokens stand in their documents, -1 for padding.
          of_queries: what queries bring, of what tokens bring [B, S, N, levels].
        """
        rest = of_each_head(call.tokens, q.shape[2])
        of_levels = jnp.exp(of_queries(heads.precise(rest.pop("log_level"))))
        weights = of_levels - jnp.pad(of_levels[..., 1:], [(0, 0)] * 3 + [(0, 1)])
        place = jnp.maximum(places, 0).astype(jnp.int32)
        begins = DIGITS - jax.lax.clz(place & -place)  # level l with each place that 2^l divides
        begins = jnp.broadcast_to(begins, (q.shape[0], 1, rest["beta"].shape[1]))
        rest["begins"] = jnp.broadcast_to(jnp.swapaxes(begins, 1, 2), rest["beta"].shape).astype(jnp.float32)
        dtype = q.dtype if q.dtype == jnp.bfloat16 else weights.dtype  # float16 does not reach as far
        rounded = weights.astype(dtype)
        parts = q.astype(dtype), rounded, (weights - rounded).astype(dtype)
        return jnp.concatenate(parts, axis=-1), dataclasses.replace(call, tokens=rest)


def _levels(length: int) -> int:
    """How many levels so many tokens have; all further ones would hold all of them."""
    return (length - 1).bit_length() + 1 if isinstance(length, int) else DIGITS


def _places(mask: Mask, shards: Shards | None) -> jax.Array:
    """Where keys stand in their documents, int [S] or [B, 1, S]."""
    if shards is None:
        return mask.key_places
    if mask.key_segments is None:
        return shards.indices(mask.query_length, mask.key_length)[1]
    whole = dataclasses.replace(mask, key_segments=shards.gathered(mask.key_segments, 2))
    return shards.part(whole.key_places, 2)


def _of_queries(mask: Mask, of_tokens: jax.Array) -> jax.Array:
    """What the tokens [B, S, N, levels] bring that queries [B, T, N, levels] are, 0 where they are none."""
    stands = jnp.broadcast_to(mask.stands, (of_tokens.shape[0], mask.query_length))
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
