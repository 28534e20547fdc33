"""Nystromformer: softmax attention through landmarks, and the pseudo-inverse between them.

    F = s(Q K~^T),  A = s(Q~ K~^T),  B = s(Q~ K^T),    Y = F A+ (B V)

with s the row softmax of scaled scores and Q~, K~ means of `landmarks` segments of queries and keys. Cost O((T + S)
landmarks H). Xiong et al. 2021, arXiv:2102.03902, eq. 13-14. The pseudo-inverse is iterated from A^T / (|A|_1
|A|_inf), norms of this one matrix: a maximum over the batch, as in several codes, lets batch mates touch each other.

Only tokens that are seen take part: the r-th of n goes to segment floor(r landmarks / n), so that padding moves no
landmark; with fewer tokens than landmarks the empty ones take part in nothing. The paper's depthwise convolution of
the values belongs to a layer, not here.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from attnzoo.contract import fields
from attnzoo.contract.support import Support
from attnzoo.engines import dense, everywhere, few, heads
from attnzoo.engines.fused import way
from attnzoo.kernel import Kernel


@dataclasses.dataclass(frozen=True)
class Nystrom(Kernel):
    """Softmax through `landmarks` and a pseudo-inverse.

    More `iterations` bring that nearer: 6 is the paper's number.

    Raises:
      ValueError: a field is no integer >= 1.

    Example:
      >>> q = k = v = jax.random.normal(jax.random.key(0), (1, 4, 2, 8))
      >>> out = attend(q, k, v, kernel=Nystrom(landmarks=4))  # where every token is a landmark, it is softmax
      >>> bool(jnp.allclose(out, attend(q, k, v), atol=1e-4))
      True
    """

    landmarks: int = 64
    iterations: int = 6

    supports = Support(
        key_mask=True,
        scale=True,
        work=1.0,
        memory=1.0,
        why="its landmarks are means over the whole sequence",
    )

    def __post_init__(self):
        fields.positive_integer(self, "landmarks")
        fields.positive_integer(self, "iterations")

    def head(self, params, draws, q, k, v, visible, *, scale):
        return self._attend(q, k, v, visible.any(axis=1), visible.any(axis=0), scale)

    def batched(self, params, draws, q, k, v, call):
        if (asked := way.asked()) is not None:
            return self._by_kernels(asked, q, k, v, call)
        shards = call.shards
        of_queries = None if shards is None or shards.of_keys else shards
        some = lambda shown, shards: (shown.sum() if shards is None else shards.summed(shown.sum())) > 0

        def one_head(q, k, v, queries, keys):
            queries, keys = _all_where_none(queries, q), _all_where_none(keys, k)
            seen = queries & some(keys, shards), keys & some(queries, of_queries)
            return self._attend(q, k, v, *seen, call.scale, shards, of_queries)

        numbers = (q.shape[1] + k.shape[1]) * self.landmarks
        return heads.over_heads(one_head, q, k, v, (call.mask.queries, call.mask.keys), numbers=numbers)

    def _by_kernels(self, asked, q, k, v, call):
        """All heads: what tokens and landmarks have to do with each other is left to kernels of a device."""
        if call.shards is not None:
            raise asked.declined(["its sequence is split over devices, and landmarks are sums of all"])
        shown = call.mask.queries, call.mask.keys
        queries, keys = (None if x is None else jnp.broadcast_to(x[:, 0], (len(q), x.shape[2])) for x in shown)
        q_marks, q_used = self._marked(q, queries, keys)
        is_whole = queries is keys is None and k.shape[1] >= self.landmarks
        if is_whole:  # keys are read once for both
            back, k_marks = few.averaged(q_marks.astype(q.dtype), k, v, call, self.landmarks)
            k_used = jnp.ones(k_marks.shape[:2], bool)
        else:
            back = few.by_kernel(q_marks.astype(q.dtype), k, v, call, keys)
            k_marks, k_used = self._marked(k, keys, queries)
        k_marks = jnp.repeat(k_marks, q.shape[2] // k.shape[2], axis=2)
        inverse = jax.vmap(jax.vmap(functools.partial(self._between, call.scale), (1, 1, None, None)))
        met = jnp.einsum("bnij,bjnh->binh", inverse(q_marks, k_marks, q_used, k_used), back.astype(q_marks.dtype))
        used = None if is_whole else k_used
        return few.by_kernel(q, k_marks.astype(q.dtype), met.astype(q.dtype), call, used).astype(v.dtype)

    def _marked(self, x, shown, others):
        """Landmarks [B, m, N, H] of all heads, and which are used [B, m], if of the others any is shown, too."""
        batch, length = x.shape[:2]
        if shown is others is None and length >= self.landmarks:
            marks = few.means(x, self.landmarks)
            return marks, jnp.ones(marks.shape[:2], bool)
        shown = jnp.ones((batch, length), bool) if shown is None else shown
        shown = shown if others is None else shown & others.any(axis=1, keepdims=True)
        return jax.vmap(functools.partial(self._landmarks, shards=None))(x, shown)

    def meets(self, shards, mask):
        return True

    def sums_keys(self, mask):
        return True

    def _attend(self, q, k, v, queries, keys, scale, shards=None, of_queries=None):
        """One head, given which queries [T] and keys [S] are seen; of a part of them, where others have others."""
        precise = jnp.promote_types(q.dtype, jnp.float32)
        q, k, values = (x.astype(precise) for x in (q, k, v))
        q_marks, q_used = self._landmarks(q, queries, of_queries)
        k_marks, k_used = self._landmarks(k, keys, shards)
        inverse = self._between(scale, q_marks, k_marks, q_used, k_used)
        back = dense.part(dense.scores(q_marks, k, scale), values, q_used[:, None] & keys[None, :])
        back = back if shards is None else everywhere.of_all(shards, back)
        return few.of_head(q, k_marks, inverse @ back.out, scale, None, k_used[None, :]).astype(v.dtype)

    def _between(self, scale, q_marks, k_marks, q_used, k_used):
        """The pseudo-inverse of what landmarks weigh for each other, [m, m]."""
        shown = q_used[:, None] & k_used[None, :]
        return self._pseudo_inverse(dense.softmax(dense.scores(q_marks, k_marks, scale), shown).out)

    def _landmarks(self, x, shown, shards):
        """Means [m, ...] of the segments of shown tokens [T, ...], and which segments hold any."""
        count, rank = shown.sum(), jnp.cumsum(shown) - 1
        if shards is not None:
            counts = shards.gathered(count[None], 0)
            before = jnp.where(jnp.arange(shards.count) < shards.index, counts, 0)
            count, rank = counts.sum(), rank + before.sum()
        marks = jnp.arange(self.landmarks + 1)
        # Segment j starts at rank ceil(j count / m), in two parts since j * count need not fit an int32.
        whole, rest = count // self.landmarks, count % self.landmarks
        starts = marks * whole - (-marks * rest) // self.landmarks
        member = few.members(starts, rank[None]) & shown[None]
        precise = jnp.promote_types(x.dtype, jnp.float32)
        total = jnp.tensordot(member.astype(x.dtype), x, 1, preferred_element_type=precise)
        sums = total, member.sum(axis=1)
        total, tokens = sums if shards is None else shards.summed(sums)
        counts = jnp.maximum(tokens, 1).astype(total.dtype)
        return total / jnp.expand_dims(counts, range(1, x.ndim)), tokens > 0

    def _pseudo_inverse(self, a):
        """Iterations of Razavi et al. 2014 (eq. 14 of the paper); zero rows and columns stay zero."""
        norms = jnp.abs(a).sum(axis=0).max() * jnp.abs(a).sum(axis=1).max()
        z = a.T / jnp.where(norms == 0, 1, norms)
        identity = jnp.eye(self.landmarks, dtype=a.dtype)
        for _ in range(self.iterations):
            az = a @ z
            z = z @ (13 * identity - az @ (15 * identity - az @ (7 * identity - az))) / 4
        return z


def _all_where_none(shown, tokens):
    return jnp.ones(len(tokens), bool) if shown is None else shown
