"""Every kernel of the catalogue, at sizes where its pattern shows in a short sequence.

ZOO stands for the whole. FURTHER are forms that share most of their code with one in ZOO: they are held to the laws
where they differ, and to all others if slow.
"""

from attnzoo.kernel import Kernel
from attnzoo.kernels import (
    KERNELS,
    BigBird,
    CosFormer,
    Linformer,
    Local,
    LogLinear,
    NadarayaWatson,
    Nystrom,
    Performer,
    Reformer,
    Sinkhorn,
    SlidingWindow,
    SparseTransformer,
    Synthesizer,
)

SMALL: dict[str, list[Kernel]] = {
    "sliding_window": [SlidingWindow(left=2, right=2, dilation=3, global_tokens=2)],
    "bigbird": [BigBird(block_size=4, num_random=2)],
    "performer": [Performer(features=16)],
    "linformer": [Linformer(rank=5)],
    "nystrom": [Nystrom(landmarks=5)],
    "local": [Local(block_size=4)],
    "reformer": [Reformer(chunk_size=4, buckets=4, rounds=2)],
    "sinkhorn": [Sinkhorn(block_size=4, iterations=3)],
    "sparse_transformer": [SparseTransformer(block_size=6, summary=2)],
    "cosformer": [CosFormer(max_length=2**15)],
    "log_linear": [LogLinear(levels=5)],
}
FURTHER = [
    NadarayaWatson(),
    SlidingWindow(left=5, right=3),
    Local(block_size=5, layout="strided"),
    Synthesizer("random", rank=3),
]
ZOO = [x for name, kernel in KERNELS.items() for x in SMALL.get(name, [kernel()]) if x not in FURTHER]
DECODING = [kernel for kernel in (*ZOO, *FURTHER) if kernel.supports.decode]
