"""Each block beside one that a learned sorting brings: Tay et al. 2020, arXiv:2002.11296, sections 3.1-3.3."""

import math

import numpy as np


def oracle(kernel, one):
    q, k, v, visible = one[:4]
    shown, out = visible.any(axis=0), np.zeros((len(q), v.shape[1]))
    blocks = [range(start, min(start + kernel.block_size, len(k))) for start in range(0, len(k), kernel.block_size)]
    used = [n for n, block in enumerate(blocks) if shown[block].any()]
    pooled = {n: np.mean([k[j] for j in blocks[n] if shown[j]], axis=0) for n in used}
    sorting = _sorting(kernel, one.params, pooled)
    for i in np.flatnonzero(visible.any(axis=1)):
        block = i // kernel.block_size
        met = [(1.0, k[j], v[j]) for j in blocks[block] if shown[j]]
        for s in range(kernel.block_size if block in used else 0):
            there = [(n, blocks[n][s]) for n in used if s < len(blocks[n]) and shown[blocks[n][s]]]
            parts = [(sorting[used.index(n), used.index(block)], j) for n, j in there]
            if parts:
                mass = sum(share for share, _ in parts)
                met.append((mass, *(sum(share * x[j] for share, j in parts) / mass for x in (k, v))))
        if met:
            weights = np.array([mass * np.exp(q[i] @ key / math.sqrt(q.shape[1])) for mass, key, _ in met])
            out[i] = weights @ np.array([value for _, _, value in met]) / weights.sum()
    return out


def _sorting(kernel, directions, pooled):
    """How much of each block that is used comes to each other: rows and columns normalised in turn."""
    sorting = np.array([[directions[to] @ mean for to in pooled] for mean in pooled.values()])
    sorting = np.exp(sorting / kernel.temperature)
    for _ in range(kernel.iterations):
        sorting = sorting / sorting.sum(axis=1, keepdims=True)
        sorting = sorting / sorting.sum(axis=0, keepdims=True)
    return sorting
