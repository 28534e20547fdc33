"""The forgetting Transformer: softmax that fades what tokens since then have forgotten.

    y_i = sum_j softmax_j(scale q_i . k_j + sum_(j < l <= i) log f_l) v_j

over the keys that query i may see, i counted from `query_offset`; only of those does it count what they forget. The
bias is a difference of cumulative sums, so that no array [T, S] is made and nothing is a recurrence. Cost O(T S H),
memory O(T + S). Lin et al. 2025, arXiv:2503.02130. Where nothing is forgotten it is `Softmax`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo.contract.bias import Bias, PositionBias
from attnzoo.contract.support import TokenInput
from attnzoo.engines import across, dense, streaming, sums
from attnzoo.kernel import Kernel
from attnzoo.kernels.softmax import EXACT


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Forgotten(PositionBias):
    """What was forgotten up to a query, which is given for each row, less what was up to the key, [B, N, S, 2]."""

    upto: jax.Array

    def __call__(self, query_positions, key_positions, projected):
        return sums.between(projected, self.upto[jnp.maximum(key_positions, 0)])


@dataclasses.dataclass(frozen=True)
class Forgetting(Kernel):
    """FoX: softmax with a forget gate. Tokens bring `log_forget`, the logarithm of a gate between 0 and 1.

    Example:
      >>> q = k = jnp.ones((1, 3, 2, 8))
      >>> halved = {"log_forget": jnp.full((1, 3, 2), jnp.log(0.5))}
      >>> (attention_weights(q, k, kernel=Forgetting(), tokens=halved, is_causal=True)[0, 0, 2] * 7).round(4)
      Array([1., 2., 4.], dtype=float32)
    """

    supports = dataclasses.replace(
        EXACT,
        bidirectional=False,
        mask=False,
        bias=False,
        score_mod=False,
        why="its bias is the sum of what all tokens between key and query forget, in the order of time",
    )

    def token_inputs(self, dims):
        return {"log_forget": TokenInput(activation=jax.nn.log_sigmoid)}

    def head(self, params, draws, q, k, v, visible, *, scale, soft_cap, dropout, log_forget):
        bias = dense.behind(log_forget.astype(jnp.promote_types(log_forget.dtype, jnp.float32)), visible)
        return dense.attend(dense.scores(q, k, scale, soft_cap), v, visible, bias, dropout)

    def batched(self, params, draws, q, k, v, call):
        of_queries, of_keys = sums.upto(call.by_head(q.shape[2]).tokens["log_forget"], call.mask)
        call = dataclasses.replace(call, tokens={}, bias=Bias(_Forgotten(of_keys), of_queries))
        score, params = streaming.dot_product(q, call.scale, call.soft_cap)
        return across.over_heads(score, params, q, k, v, call, streaming.natural_layout)
