"""Each kernel once more, in NumPy and float64, from its paper and by plain loops. Nothing here is shared with attnzoo.

An oracle takes q [T, H], k [S, H], v [S, Hv] of one head, visible [T, S], and what its kernel supports.
"""

import math

import numpy as np


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


def weighted(weights, v):
    """Rows of weights, normalised, times values; a row of zeros gives zeros."""
    total = weights.sum(axis=1, keepdims=True)
    return weights / np.where(total == 0, 1, total) @ v


def softmax_of(scores, visible, v, bias=None):
    """exp(scores + bias) over visible keys, normalised."""
    scores = scores if bias is None else scores + bias
    out = np.zeros((len(scores), v.shape[1]))
    for i, row in enumerate(scores):
        seen = visible[i]
        if seen.any():
            weights = np.exp(row[seen] - row[seen].max())
            out[i] = weights @ v[seen] / weights.sum()
    return out


def scale_of(scale, q):
    """The default is 1 / sqrt(head dim)."""
    return 1 / math.sqrt(q.shape[1]) if scale is None else scale


def softmax(q, k, v, visible, *, bias=None, scale=None):
    return softmax_of(scale_of(scale, q) * q @ k.T, visible, v, bias)


def nadaraya_watson(q, k, v, visible, *, bias=None, bandwidth=1.0):
    scores = np.array([[-np.sum((x - y) ** 2) / (2 * bandwidth**2) for y in k] for x in q])
    return softmax_of(scores.reshape(len(q), len(k)), visible, v, bias)


def additive(q, k, v, visible, *, params, bias=None):
    scores = np.zeros((len(q), len(k)))
    for i, j in np.ndindex(scores.shape):
        scores[i, j] = params["score"] @ np.tanh(q[i] @ params["query"] + k[j] @ params["key"] + params["bias"])
    return softmax_of(scores, visible, v, bias)


def window(length, keys, left, right, dilation, global_tokens, offset):
    """Pairs that a sliding window with global tokens joins."""
    joined = np.zeros((length, keys), bool)
    for i, j in np.ndindex(joined.shape):
        p = i + offset
        steps = [p + dilation * step for step in range(-left, right + 1)]
        joined[i, j] = j in steps or j < global_tokens or 0 <= p < global_tokens
    return joined


def sliding_window(q, k, v, visible, *, left, right, dilation=1, global_tokens=0, offset=0, bias=None, scale=None):
    joined = window(len(q), len(k), left, right, dilation, global_tokens, offset)
    return softmax(q, k, v, visible & joined, bias=bias, scale=scale)


def block_pattern(rows, keys, block_size, num_window, num_global, is_causal):
    """The parts of BigBird's pattern that are not random: bool [rows, blocks], for blocks of queries in `rows`."""
    blocks = -(-keys // block_size)
    joined = np.zeros((len(rows), blocks), bool)
    for r, row in enumerate(rows):
        for block in range(blocks):
            if is_causal:
                joined[r, block] = (block < num_global and block <= row) or row - num_window < block <= row
            else:
                ends = block < num_global or block >= blocks - num_global
                own = row < num_global or row >= blocks - num_global
                joined[r, block] = ends or own or abs(block - row) <= num_window // 2
    return joined


def linear(q, k, v, visible, *, feature_map="elu+1", epsilon=1e-6):
    def phi(x):
        return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))) if feature_map == "elu+1" else np.maximum(x, 0)

    out = np.zeros((len(q), v.shape[1]))
    for i, row in enumerate(visible):
        above, below = np.zeros(v.shape[1]), epsilon
        for j in np.flatnonzero(row):
            similarity = phi(q[i]) @ phi(k[j])
            above, below = above + similarity * v[j], below + similarity
        out[i] = above / below
    return out


def performer(q, k, v, visible, *, projection, scale=None, floor=1e-4):
    root = math.sqrt(scale_of(scale, q))
    features = len(projection)

    def exponents(x):
        return projection @ x - x @ x / 2

    out = np.zeros((len(q), v.shape[1]))
    for i, row in enumerate(visible):
        seen = np.flatnonzero(row)
        if not len(seen):
            continue
        a = exponents(root * q[i])
        phi = (np.exp(a - a.max()) + floor) / math.sqrt(features)
        keys = np.array([exponents(root * k[j]) for j in seen])
        psi = (np.exp(keys - keys.max()) + floor) / math.sqrt(features)
        weights = psi @ phi
        out[i] = weights @ v[seen] / weights.sum()
    return out


def linformer(q, k, v, visible, *, params, scale=None):
    shown = visible.any(axis=0)
    key, value = params["key"], params.get("value", params["key"])
    low_k, low_v = np.zeros((len(key), k.shape[1])), np.zeros((len(key), v.shape[1]))
    for j in np.flatnonzero(shown):
        low_k += np.outer(key[:, j], k[j])
        low_v += np.outer(value[:, j], v[j])
    return softmax(q, low_k, low_v, np.broadcast_to(visible.any(axis=1)[:, None], (len(q), len(key))), scale=scale)


def nystrom(q, k, v, visible, *, landmarks, iterations, scale=None):
    queries, keys = visible.any(axis=1), visible.any(axis=0)
    out = np.zeros((len(q), v.shape[1]))
    if not queries.any():
        return out
    q, k, v = q[queries], k[keys], v[keys]

    def means(x):
        groups = [[] for _ in range(landmarks)]
        for rank, token in enumerate(x):
            groups[rank * landmarks // len(x)].append(token)
        return np.array([np.mean(group, axis=0) for group in groups if group])

    def attention(x, y):
        return weighted(np.exp(scale_of(scale, q) * x @ y.T), np.eye(len(y)))

    q_marks, k_marks = means(q), means(k)
    a = attention(q_marks, k_marks)
    z = a.T / (np.abs(a).sum(axis=0).max() * np.abs(a).sum(axis=1).max())
    one = np.eye(len(a))
    for _ in range(iterations):
        z = z @ (13 * one - a @ z @ (15 * one - a @ z @ (7 * one - a @ z))) / 4
    out[queries] = attention(q, k_marks) @ z @ attention(q_marks, k) @ v
    return out


def local(q, k, v, visible, *, block_size, layout, used, offset=0, bias=None, scale=None):
    joined = np.zeros((len(q), len(k)), bool)
    groups = max(math.ceil(used / block_size), 1)
    for i, j in np.ndindex(joined.shape):
        p = i + offset
        if layout == "contiguous":
            joined[i, j] = math.floor(p / block_size) == j // block_size
        else:
            joined[i, j] = 0 <= p < used and (p - j) % groups == 0
    return softmax(q, k, v, visible & joined, bias=bias, scale=scale)


def reformer(q, k, v, visible, *, rotations, chunk_size, bias=None, scale=None):
    keys = visible.any(axis=0)
    queries = visible.any(axis=1) & keys
    met = np.zeros((len(q), len(k)), bool)

    def chunks(x, shown, rotation):
        directions = np.concatenate([rotation, -rotation], axis=1).T
        order = sorted(range(len(x)), key=lambda i: (not shown[i], shown[i] and np.argmax(directions @ x[i]), i))
        return {token: place // chunk_size for place, token in enumerate(order)}

    for rotation in rotations:
        of_query, of_key = chunks(q, queries, rotation), chunks(k, keys, rotation)
        for i, j in np.ndindex(met.shape):
            met[i, j] |= of_query[i] - of_key[j] in (0, 1)
    return softmax(q, k, v, visible & met, bias=bias, scale=scale)


def sinkhorn(q, k, v, visible, *, directions, block_size, iterations, temperature):
    shown, out = visible.any(axis=0), np.zeros((len(q), v.shape[1]))
    blocks = [range(start, min(start + block_size, len(k))) for start in range(0, len(k), block_size)]
    used = [n for n, block in enumerate(blocks) if shown[block].any()]
    pooled = {n: np.mean([k[j] for j in blocks[n] if shown[j]], axis=0) for n in used}
    sorting = np.array([[np.exp(directions[to] @ pooled[n] / temperature) for to in used] for n in used])
    for _ in range(iterations):
        sorting = sorting / sorting.sum(axis=1, keepdims=True)
        sorting = sorting / sorting.sum(axis=0, keepdims=True)
    for i in np.flatnonzero(visible.any(axis=1)):
        block = i // block_size
        met = [(1.0, k[j], v[j]) for j in blocks[block] if shown[j]]
        for s in range(block_size if block in used else 0):
            there = [(n, blocks[n][s]) for n in used if s < len(blocks[n]) and shown[blocks[n][s]]]
            parts = [(sorting[used.index(n), used.index(block)], j) for n, j in there]
            if parts:
                mass = sum(share for share, _ in parts)
                met.append((mass, *(sum(share * x[j] for share, j in parts) / mass for x in (k, v))))
        if met:
            weights = np.array([mass * np.exp(q[i] @ key / math.sqrt(q.shape[1])) for mass, key, _ in met])
            out[i] = weights @ np.array([value for _, _, value in met]) / weights.sum()
    return out


def sparse_transformer(q, k, v, visible, *, block_size, summary, offset=0, bias=None, scale=None):
    joined = np.zeros((len(q), len(k)), bool)
    for i, j in np.ndindex(joined.shape):
        own_block = math.floor((i + offset) / block_size) == math.floor(j / block_size)
        joined[i, j] = own_block or j % block_size in range(block_size - summary, block_size)
    return softmax(q, k, v, visible & joined, bias=bias, scale=scale)


def synthesizer(q, k, v, visible, *, params, form, offset=0, bias=None):
    scores = np.zeros((len(q), len(k)))
    for i, j in np.ndindex(scores.shape):
        if form == "dense":
            units = np.maximum(q[i] @ params["hidden"] + params["hidden_bias"], 0)
            scores[i, j] = params["key"][j] @ units + params["key_bias"][j]
        else:
            row = min(max(i + offset, 0), len(params["query"]) - 1)
            scores[i, j] = params["query"][row] @ params["key"][j]
    return softmax_of(scores, visible, v, bias)
