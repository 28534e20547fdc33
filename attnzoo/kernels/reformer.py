"""LSH attention: queries and keys that hash alike are sorted together, and meet in chunks.

    y_i = sum_{j in P(i)} softmax_j(scale q_i . k_j + b_ij) v_j,    h(x) = argmax([x R; -x R])
    P(i) = union over rounds of {j : chunk(i) - 1 <= chunk(j) <= chunk(i)},    chunk = floor(place / chunk_size)

where the place is that in the order of (h, position), for queries and for keys, and R [H, buckets / 2] is drawn for
each round. Cost O(T rounds (chunk_size + buckets) H), memory O(T rounds chunk_size), beside the sort. Kitaev, Kaiser
and Levskaya 2020, arXiv:2001.04451, eq. 4 and appendix A: a pair that meets in several rounds counts once.

The paper ties keys to queries, k_j = q_j / |q_j|. Here they come apart: both are hashed by the same R and sorted each
for itself, as in SMYRF (Daras et al. 2020, arXiv:2010.05315), which is the paper's order where a layer ties them; keys
are not normalised, so that the kernel nears softmax, and the rule against attending to oneself belongs to tied ones.
Buckets are a number, not a share of the length, and hidden tokens come last in the order: padding moves no chunk. A
token whose key is hidden is hidden as a query too. The gradient is that of the scores; the hash has none.

There is no causal form: where chunks begin depends on the hashes of later tokens, so that they would change which
earlier ones an earlier query meets. The paper and its code mask the future after the sort, and leak that much.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo.contract import fields, randomness
from attnzoo.contract.support import Support
from attnzoo.engines import dense, gathered, hashed, heads
from attnzoo.engines.fused import way
from attnzoo.engines.gathered import Order
from attnzoo.kernel import Kernel


@dataclasses.dataclass(frozen=True)
class Reformer(Kernel):
    """Tokens of like hash meet in chunks, after a sort. More `rounds` let more pairs meet.

    Attributes:
      chunk_size: tokens that meet those of their own chunk and of the one before.
      buckets: of the hash, an even number.
      rounds: hashes that are drawn; pairs that any of them brings together meet.
      seed: what `draw` starts from unless a call has draws of its own.

    Raises:
      ValueError: a field is no integer, or too small; `buckets` is odd.

    Example:
      >>> q = k = v = jax.random.normal(jax.random.key(0), (1, 4, 2, 8))
      >>> out = attend(q, k, v, kernel=Reformer(chunk_size=4, buckets=2))  # in a single chunk all meet
      >>> bool(jnp.allclose(out, attend(q, k, v), atol=1e-5))
      True
    """

    chunk_size: int = 64
    buckets: int = 64
    rounds: int = 1
    seed: int = 0

    supports = Support(
        key_mask=True,
        bias=True,
        score_mod=True,
        scale=True,
        soft_cap=True,
        dropout=True,
        residual=True,
        work=1.0,
        memory=1.0,
        why="who meets whom follows from a sort of the whole sequence",
    )

    def __post_init__(self):
        for name in ("chunk_size", "buckets", "rounds"):
            fields.positive_integer(self, name)
        fields.natural_number(self, "seed")
        if self.buckets % 2:
            raise ValueError(
                f"Reformer(buckets={self.buckets}): buckets come in pairs, a direction and its opposite, and must be "
                f"even; use {self.buckets + 1}"
            )

    def draw(self, rng, dims):
        """The rotations R of each head: [N, rounds, H, buckets / 2], float32 whatever the default is."""
        shape = (dims.num_heads, self.rounds, dims.head_dim, self.buckets // 2)
        return jax.random.normal(randomness.threefry(rng), shape, jnp.float32)

    def head(self, params, draws, q, k, v, visible, *, bias, scale, soft_cap, dropout):
        keys = visible.any(axis=0)
        order, key_order = self._order(draws, q, keys & visible.any(axis=1)), self._order(draws, k, keys)
        chunks, key_chunks = order.slots // self.chunk_size, key_order.slots // self.chunk_size
        met = _is_near(chunks[:, :, None], key_chunks[:, None, :]).any(axis=0)
        return dense.attend(dense.scores(q, k, scale, soft_cap), v, visible & met, bias, dropout)

    def batched(self, params, draws, q, k, v, call):
        if way.asked() is not None:
            return self._by_kernels(draws, q, k, v, call)

        def one_head(q, k, v, draws, call):
            mask = call.mask
            keys = jnp.ones(len(k), bool) if mask.keys is None else mask.keys
            queries = keys if mask.queries is None else keys & mask.queries
            orders = self._order(draws, q, queries), self._order(draws, k, keys)

            def one_round(order, key_order):
                rows, columns = order.tokens, _beside_previous(key_order.tokens, -1)
                keys, values = (_beside_previous(key_order.grouped(x), 0) for x in (k, v))
                shares = self._shares(*orders, rows, columns, jnp.promote_types(q.dtype, jnp.float32))
                found = gathered.attend(order.grouped(q), keys, values, rows, columns, call, shares)
                return jax.tree.map(order.restored, found)

            return _joined(jax.vmap(one_round)(*orders))

        numbers = self.rounds * q.shape[1] * max(2 * self.chunk_size, self.buckets)
        return heads.over_heads(one_head, q, k, v, (draws[None], call.by_head(q.shape[2])), numbers=numbers)

    def _by_kernels(self, draws, q, k, v, call):
        """All heads: chunks are met by kernels of a device, which find their tokens themselves."""
        keys, queries = (None if x is None else x[:, :1, None] for x in (call.mask.keys, call.mask.queries))
        both = keys if queries is None else queries if keys is None else queries & keys

        rotations = jnp.broadcast_to(draws, (q.shape[2], *draws.shape[1:]))

        def tokens(x, shown):
            return self._sorted(hashed.nearest(rotations, jax.lax.stop_gradient(x)), True if shown is None else shown)

        return hashed.by_kernel(q, k, v, (tokens(q, both), tokens(k, keys)), self.chunk_size, call)

    def _order(self, rotations, x, shown) -> Order:
        """The chunks of each round, by hash and position, hidden tokens last; leaves lead with [rounds]."""
        tokens = self._sorted(hashed.nearest_of_head(rotations, jax.lax.stop_gradient(x)), shown)
        full = jnp.pad(tokens, ((0, 0), (0, -len(x) % self.chunk_size)), constant_values=-1)
        return Order(full.reshape(self.rounds, -1, self.chunk_size), jnp.argsort(tokens, axis=-1))

    def _sorted(self, bucket, shown):
        """Tokens [..., L] in the order of their buckets and positions, hidden ones last."""
        return jnp.argsort(jnp.where(shown, bucket, self.buckets), axis=-1, stable=True)

    def _shares(self, order, key_order, rows, columns, dtype):
        """1 / the number of rounds in which a pair meets, [C, t, s]; None where there is but one round."""
        if self.rounds == 1:
            return None
        size = self.chunk_size
        times = sum(
            _is_near((slots[rows] // size)[:, :, None], (key_slots[columns] // size)[:, None, :]).astype(dtype)
            for slots, key_slots in zip(order.slots, key_order.slots, strict=True)
        )
        return 1 / jnp.maximum(times, 1)


def _is_near(chunk, key_chunk):
    """Whether keys stand in the queries' own chunk or in the one before."""
    return (key_chunk == chunk) | (key_chunk == chunk - 1)


def _beside_previous(x, fill):
    """[C, m, ...] -> [C, 2 m, ...]: each chunk after the one before, which the first has not."""
    previous = jnp.concatenate([jnp.full_like(x[:1], fill), x[:-1]])
    return jnp.concatenate([previous, x], axis=1)


def _joined(rounds: dense.Part) -> tuple[jax.Array, jax.Array]:
    """One softmax from those of all rounds, whose leaves lead with [rounds, T]: out [T, Hv] and log-sum-exp [T]."""
    joined = dense.softmax(rounds.top.T, (rounds.top > -jnp.inf).T, jnp.exp(rounds.log_total).T)
    return jnp.einsum("tr,rth->th", joined.out, rounds.out).astype(rounds.out.dtype), joined.lse()
