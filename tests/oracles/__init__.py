"""Each kernel once more, in NumPy and float64, from its paper and by plain loops. Nothing here is shared with attnzoo.

The oracle of attnzoo/kernels/<name>.py is `oracle(kernel, one)` in <name>.py of this folder, found by that name alone;
of its kernel it reads the fields. What several of them need is here.
"""

import importlib
import importlib.util
import math
from typing import Any, NamedTuple

import numpy as np


class One(NamedTuple):
    """One head of one example, in float64.

    Attributes:
      q, k, v: [T, H], [S, H] and [S, Hv].
      visible: who may see whom, bool [T, S].
      params, draws: what the kernel has learned and drawn for this head.
      is_causal: whether the future is hidden, which `visible` knows already.
      offset: query i stands at key position i + offset.
      keys: how many are not padding; all where None.
      bias: [T, S] or None.
      scale: a number, or None for 1 / sqrt(H).
      soft_cap: a number, or None for scores without a cap.
      global_tokens: positions that a pattern hides nothing from and nothing of.
      tokens: what each key brings beside its value, [S, ...] by name.
      segments: ids of queries [T] and of keys [S], or None.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    visible: np.ndarray
    params: Any = ()
    draws: Any = ()
    is_causal: bool = False
    offset: int = 0
    keys: int | None = None
    bias: np.ndarray | None = None
    scale: float | None = None
    soft_cap: float | None = None
    global_tokens: tuple[int, ...] = ()
    tokens: Any = None
    segments: tuple[np.ndarray, np.ndarray] | None = None


def oracle_of(kernel):
    """`oracle(kernel, one)` -> [T, Hv] of the file that is named as the kernel's; None where there is no such file."""
    module = f"{__name__}.{name_of(kernel)}"
    return importlib.import_module(module).oracle if importlib.util.find_spec(module) else None


def name_of(kernel):
    """The name of the file that defines a kernel, and of the one that holds its oracle."""
    return type(kernel).__module__.rpartition(".")[2]


def visibility(batch, heads, length, keys, *, is_causal=False, query_offset=0, mask=None, key_mask=None,
               query_seq_lengths=None, key_value_seq_lengths=None, query_segment_ids=None, key_value_segment_ids=None,
               local_window_size=None):  # fmt: skip
    """Who may see whom, [B, N, T, S], one pair after another."""
    visible = np.ones((batch, heads, length, keys), bool)
    dense = None if mask is None else np.broadcast_to(mask, visible.shape)
    for b, n, i, j in np.ndindex(visible.shape):
        position = i + query_offset
        hidden = [
            is_causal and j > position,
            dense is not None and not dense[b, n, i, j],
            key_mask is not None and not key_mask[b][j],
            query_seq_lengths is not None and i >= query_seq_lengths[b],
            key_value_seq_lengths is not None and j >= key_value_seq_lengths[b],
            query_segment_ids is not None and query_segment_ids[b][i] != key_value_segment_ids[b][j],
            local_window_size is not None
            and not position - local_window_size[0] <= j <= position + local_window_size[1],
        ]
        visible[b, n, i, j] = not any(hidden)
    return visible


def softmax_of(scores, one):
    """exp(scores + bias) over visible keys, normalised, times values; a query that sees none gives zeros."""
    scores = scores if one.bias is None else scores + one.bias
    out = np.zeros((len(scores), one.v.shape[1]))
    for i, row in enumerate(scores):
        seen = one.visible[i]
        if seen.any():
            weights = np.exp(row[seen] - row[seen].max())
            out[i] = weights @ one.v[seen] / weights.sum()
    return out


def softmax_attention(one, joined=True):
    """Softmax of scaled products over the visible keys that a pattern, bool [T, S], joins to the query."""
    scores = scale_of(one) * one.q @ one.k.T
    if one.soft_cap is not None:
        scores = one.soft_cap * np.tanh(scores / one.soft_cap)
    return softmax_of(scores, one._replace(visible=one.visible & joined))


def summed(one, kept, written):
    """What queries read of a state, of which `kept(token)` is left before `written(token)` of a key and value comes."""
    out = np.zeros((len(one.q), one.v.shape[1]))
    for i, row in enumerate(one.visible):
        state = np.zeros((one.k.shape[1], one.v.shape[1]))
        for j in np.flatnonzero(row):
            state = kept(j) * state + written(j) * np.outer(one.k[j], one.v[j])
        out[i] = scale_of(one) * one.q[i] @ state
    return out


def scale_of(one):
    """The default is 1 / sqrt(head dim)."""
    return 1 / math.sqrt(one.q.shape[1]) if one.scale is None else one.scale


def keys_of(one):
    """How many keys are not padding."""
    return len(one.k) if one.keys is None else one.keys
