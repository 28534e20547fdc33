"""Exact attention, what the others approximate.

    y_i = sum_j softmax_j(scale q_i . k_j + b_ij) v_j

Cost O(T S H), memory O(T + S) by running maximum and sum (`engines/streaming.py`). Vaswani et al. 2017,
arXiv:1706.03762, eq. 1. `scale` is 1 / sqrt(H) unless given; `scale=1` is Luong's plain dot product.
"""

from __future__ import annotations

import dataclasses

from attnzoo.contract.support import Support
from attnzoo.engines import across, dense, streaming
from attnzoo.kernel import Kernel

EXACT = Support(
    causal=True,
    key_mask=True,
    segments=True,
    mask=True,
    bias=True,
    score_mod=True,
    scale=True,
    soft_cap=True,
    dropout=True,
    residual=True,
    cross=True,
    decode=True,
    memory=1.0,
    why="no pattern of its hides tokens from each other",
)


@dataclasses.dataclass(frozen=True)
class Softmax(Kernel):
    """Exact attention: scaled dot products with every visible key.

    Example:
      >>> q = k = jnp.ones((1, 4, 2, 8))
      >>> attention_weights(q, k, kernel=Softmax(), is_causal=True)[0, 0, 1].tolist()  # equal keys weigh alike
      [0.5, 0.5, 0.0, 0.0]
    """

    supports = EXACT

    def head(self, params, draws, q, k, v, visible, *, bias, scale, soft_cap, dropout):
        return dense.attend(dense.scores(q, k, scale, soft_cap), v, visible, bias, dropout)

    def batched(self, params, draws, q, k, v, call):
        score, params = streaming.dot_product(q, call.scale, call.soft_cap)
        return across.over_heads(score, params, q, k, v, call, streaming.natural_layout)

    def meets(self, shards, mask):
        return True

    def as_softmax(self, mask):
        return mask
