"""What a call cannot do without: bytes that a fused kernel moves, and the time that a device needs at least."""

from __future__ import annotations

from typing import NamedTuple

import jax

from attnzoo import Dims, Kernel, costs
from experiments.bench.chips import Chip

KEPT = 4  # bytes of each query of each head, for the backward kernel: the logarithm of a sum, or the sum


class Roofline(NamedTuple):
    """The least seconds, and what takes them: bytes, FLOPs or launches."""

    seconds: float
    bound: str


def roofline(chip: Chip, dtype: str, moved: float, flops: float | None, launches: float) -> Roofline:
    """The longest of what bytes, operations and launches take, each as if it were alone; operations may be unknown."""
    seconds = {
        "bytes": moved / chip.memory,
        "FLOPs": (flops or 0.0) / chip.flops[dtype],
        "launches": launches * chip.launch,
    }
    bound = max(seconds, key=seconds.__getitem__)
    return Roofline(seconds[bound], bound)


def least_bytes(kernel: Kernel, dims: Dims, dtype: str, is_train: bool) -> float:
    """Bytes that a fused kernel moves, or two in a train pass, of which the backward one knows but what is kept."""
    query, key, _ = map(_bytes, costs.operands(dims, dtype))
    out = query / dims.head_dim * dims.value_dim
    ignored = sum({"query": query, "key": key}[name] for name in kernel.supports.ignores)
    read = costs.bytes_moved(kernel, dims, dtype) - out - ignored
    if not is_train:
        return read + out
    kept = float(dims.batch * dims.query_length * dims.num_heads * KEPT)
    gradients = read + ignored - _bytes(jax.eval_shape(lambda rng: kernel.draw(rng, dims), jax.random.key(0)))
    forward, backward = read + out + kept, read + 2 * out + kept + gradients
    return forward + backward


def _bytes(tree) -> float:
    return float(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)))
